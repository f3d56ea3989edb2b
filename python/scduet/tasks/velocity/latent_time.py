"""One time for all genes, from the times of each gene and the cells where the transitions begin.

The definitions are those of scVelo (Bergen et al. 2020, Nat Biotechnol 38:1408), but for how beginnings are found.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from scduet.tasks.velocity.curves import T_MAX
from scduet.tasks.velocity.moments import Dense
from scduet.tasks.velocity.transitions import SCALE

Cells = Float[np.ndarray, " cell"]
N_ROOTS = 4  # cells that times are counted from, in turn
STEPS = 200  # of the walk back
LOW = (15, 20, 25, 30, 35)  # percentiles over genes, of which the two are used that spread cells most evenly
LEAST_CONFIDENCE = 0.75  # of cells that their neighbors learn from


def shared_time(times: Dense, graph: sp.csr_matrix, average: sp.csr_matrix) -> Cells:
    """Time of each cell, 0 to 20, from its times in each gene and the `cosines` between cells."""
    rooted = [_shared(_since(times, root)) for root in beginnings(times, graph, average)]
    time = _unit(np.mean(rooted, 0))
    smooth = average @ time
    fitted = smooth * (time @ smooth) / (smooth @ smooth)
    sure = (1 - np.abs(time - fitted) / time.max()) ** 2 >= LEAST_CONFIDENCE
    return T_MAX * _unit(average @ np.where(sure, time, 0))


def beginnings(times: Dense, graph: sp.csr_matrix, average: sp.csr_matrix) -> Int[np.ndarray, " root"]:
    """The cells with the least time among those where a walk against the transitions ends."""
    back = sp.csr_matrix(graph.T)
    back.data = np.expm1(SCALE * back.data.clip(0).astype(np.float64))
    stays = (np.asarray(back.sum(1)).ravel() == 0).astype(float)
    back = sp.csr_matrix(back + sp.diags(stays))
    walk = sp.csr_matrix((sp.diags(1 / np.asarray(back.sum(1)).ravel()) @ back).T)
    there = np.full(len(times), 1 / len(times))
    for _ in range(STEPS):
        there = walk @ there
    density = average @ there
    last = np.flatnonzero(density >= np.percentile(density, 98))
    return last[np.argsort(times[last].sum(1), kind="stable")][:N_ROOTS]


def _since(times: Dense, root: int) -> Dense:
    """Times since that of the root; what came before it comes after the rest."""
    since = times - times[root]
    return np.where(since >= 0, since, times + since.max(0))


def _shared(times: Dense) -> Cells:
    found = np.percentile(times - times.min(), LOW, axis=1)
    found /= np.where(found.max(1) > 0, found.max(1), 1)[:, None]
    even = np.linspace(0, 1, found.shape[1])
    uneven = ((np.sort(found, 1) - even) ** 2).sum(1)
    shared = found[np.argsort(uneven)[:2]].sum(0)
    return shared / (shared.max() or 1)


def _unit(values: Cells) -> Cells:
    low, high = values.min(), values.max()
    return (values - low) / ((high - low) or 1)
