"""One time for all genes, from the times of each gene and the transitions between cells.

As in scVelo (Bergen et al. 2020, Nat Biotechnol 38:1408) times are counted from first cells, and low percentiles over
genes taken that spread cells evenly. The first cells are the lowest in a potential whose differences are nearest to the
cosines of the transitions (HodgeRank, Jiang et al. 2011, Math Program 127:203), rather than those where a walk against
the transitions ends, which a few cells decide.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.sparse.linalg import cg

from scduet.tasks.velocity.curves import T_MAX
from scduet.tasks.velocity.moments import Dense

Cells = Float[np.ndarray, " cell"]
N_FIRST = 4  # cells that times are counted from, in turn
RIDGE = 1e-3  # links to nowhere of each cell, which parts without links to others need
LOW = (15, 20, 25, 30, 35)  # percentiles over genes
LEAST_CONFIDENCE = 0.75  # of cells that their neighbors learn from


def shared_time(times: Dense, graph: sp.csr_matrix, average: sp.csr_matrix) -> Cells:
    """Time of each cell, 0 to 20, from its times in each gene and the `cosines` between cells."""
    first = np.argsort(average @ potential(graph), kind="stable")[:N_FIRST]
    time = _unit(np.mean([_shared(_since(times, cell)) for cell in first], 0))
    smooth = average @ time
    fitted = smooth * (time @ smooth) / (smooth @ smooth)
    sure = (1 - np.abs(time - fitted)) ** 2 >= LEAST_CONFIDENCE
    return T_MAX * _unit(average @ np.where(sure, time, 0))


def potential(graph: sp.csr_matrix) -> Cells:
    """Of each cell a height, so that the differences along links are nearest to their signed cosines."""
    flow = graph - graph.T
    links = ((abs(graph) + abs(graph.T)) > 0).astype(np.float64)
    laplacian = sp.diags(np.asarray(links.sum(1)).ravel() + RIDGE) - links
    return cg(laplacian.tocsr(), -np.asarray(flow.sum(1)).ravel().astype(np.float64), rtol=1e-4, maxiter=1000)[0]


def _since(times: Dense, first: int) -> Dense:
    """Times since that of the first cell; what came before it comes after the rest."""
    since = times - times[first]
    return np.where(since >= 0, since, times + since.max(0))


def _shared(times: Dense) -> Cells:
    found = np.percentile(times - times.min(), LOW, axis=1)
    found /= np.where(found.max(1) > 0, found.max(1), 1)[:, None]
    even = np.linspace(0, 1, found.shape[1])
    uneven = ((np.sort(found, 1) - even) ** 2).sum(1)
    return _unit(found[np.argsort(uneven)[:2]].sum(0))


def _unit(values: Cells) -> Cells:
    low, high = values.min(), values.max()
    return (values - low) / ((high - low) or 1)
