"""One time for all genes, from the times of each gene and the transitions between cells.

As in scVelo (Bergen et al. 2020, Nat Biotechnol 38:1408) times are counted from a first cell, and low percentiles over
genes taken that spread cells evenly. The first cell is the one from which time runs most along the transitions: to look
for where a walk against them ends, as there, finds other ends too.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from scduet.tasks.velocity.curves import T_MAX
from scduet.tasks.velocity.moments import Dense

Cells = Float[np.ndarray, " cell"]
N_TRIED = 40  # cells tried as the first
LOW = (15, 20, 25, 30, 35)  # percentiles over genes
LEAST_CONFIDENCE = 0.75  # of cells that their neighbors learn from


def shared_time(times: Dense, graph: sp.csr_matrix, average: sp.csr_matrix) -> Cells:
    """Time of each cell, 0 to 20, from its times in each gene and the `cosines` between cells."""
    order = np.argsort(times.mean(1), kind="stable")
    tried = order[np.linspace(0, len(order) - 1, min(N_TRIED, len(order))).astype(int)]
    time = max((_shared(_since(times, first)) for first in tried), key=lambda time: _along(graph, time))
    smooth = average @ time
    fitted = smooth * (time @ smooth) / (smooth @ smooth)
    sure = (1 - np.abs(time - fitted)) ** 2 >= LEAST_CONFIDENCE
    return T_MAX * _unit(average @ np.where(sure, time, 0))


def _along(graph: sp.csr_matrix, time: Cells) -> float:
    """How much time runs along the transitions, -1 to 1."""
    links = graph.tocoo()
    steps = time[links.col] - time[links.row]
    return float((links.data * steps).sum() / np.abs(links.data * steps).sum().clip(1e-12))


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
