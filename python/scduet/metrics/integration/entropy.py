"""Entropy of batch mixing: the diversity of batches among a cell's neighbors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from scduet.metrics.core.inputs import at_least_two, codes, points
from scduet.metrics.core.neighbors import Neighbors, nearest_neighbors, neighbor_counts


def batch_entropy(
    x: ArrayLike, batch: ArrayLike, n_neighbors: int = 51, normalize: bool = True, neighbors: Neighbors | None = None
) -> float:
    """Entropy of the batches among the nearest neighbors (the cell left out), mean over all cells.

    Divided by the entropy of the batches over all cells unless `normalize=False` (then in nats: 0 to log n_batches).
    Range 0 to 1 (a little above where small batches are locally enriched), higher is better. Blind to cell types:
    true differences in composition lower it. `n_neighbors` counts the cell itself. Source: Haghverdi et al. 2018;
    scVI (Lopez et al. 2018, 50 neighbors, two batches, nats); the Census benchmark takes 200.

    Raises:
        Undefined: only one batch.
    """
    neighbors = neighbors or nearest_neighbors(points(x), n_neighbors)
    values = entropy_samples(neighbors.first(n_neighbors), codes(batch, "batch", neighbors.n_cells), normalize)
    return float(values.mean())


def entropy_samples(
    neighbors: Neighbors, batch: Int[np.ndarray, " cell"], normalize: bool
) -> Float[np.ndarray, " query"]:
    """Entropy of each query's neighborhood."""
    at_least_two(batch, "batch entropy", "batches")
    local = _entropy(neighbor_counts(neighbors, batch))
    return local / _entropy(np.bincount(batch)[None]) if normalize else local


def _entropy(counts: Float[np.ndarray, "row group"]) -> Float[np.ndarray, " row"]:
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return -(share * np.log(np.where(share > 0, share, 1))).sum(1)
