"""The k-nearest-neighbor graph: UMAP's edge weights and the connectivity of labels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import sparse

from scduet.metrics.core.estimates import Group, mean_of_means
from scduet.metrics.core.inputs import codes, points
from scduet.metrics.core.neighbors import Neighbors, nearest_neighbors


def graph_connectivity(
    x: ArrayLike, labels: ArrayLike, n_neighbors: int = 15, neighbors: Neighbors | None = None
) -> float:
    """Share of each label's cells in its largest connected component of the undirected kNN graph, mean over labels.

    Range (0, 1], higher is better; a low bar. scib-metrics 0.5.10 counts strongly connected components of the directed
    graph instead, which penalizes every cell that no one names as its neighbor; this is scIB's definition.
    Source: scIB (Luecken et al. 2022).
    """
    neighbors = neighbors or nearest_neighbors(points(x), n_neighbors)
    shares = connected_shares(neighbors.first(n_neighbors), codes(labels, n_cells=neighbors.n_cells))
    return mean_of_means([Group(np.array([share]), 1) for share in shares]).value


def connected_shares(neighbors: Neighbors, labels: Int[np.ndarray, " cell"]) -> list[float]:
    """Share of the largest component, label by label."""
    graph, shares = adjacency(neighbors), []
    for label in range(int(labels.max()) + 1):
        cells = np.flatnonzero(labels == label)
        component = sparse.csgraph.connected_components(graph[cells][:, cells], directed=False)[1]
        shares.append(float(np.bincount(component).max() / len(cells)))
    return shares


def adjacency(neighbors: Neighbors, weights: Float[np.ndarray, "query neighbor"] | None = None) -> sparse.csr_array:
    """Directed graph from each cell to its neighbors; edges weigh 1 unless `weights` are given."""
    there = neighbors.index >= 0
    row = np.broadcast_to(neighbors.queries[:, None], there.shape)[there]
    data = np.ones(len(row)) if weights is None else weights[there]
    return sparse.csr_array((data, (row, neighbors.index[there])), shape=(neighbors.n_cells, neighbors.n_cells))


def umap_weights(neighbors: Neighbors) -> sparse.csr_array:
    """Symmetric fuzzy weights of UMAP (McInnes et al. 2018): local_connectivity 1, union of both directions.

    exp(-(d - nearest) / sigma) with sigma such that a row's weights sum to log2 of the number of neighbors with self.
    """
    distance = neighbors.distance
    positive = np.where((distance > 0) & np.isfinite(distance), distance, np.inf)
    nearest = positive.min(1, keepdims=True)
    nearest[~np.isfinite(nearest)] = 0
    excess = np.maximum(distance - nearest, 0)
    sigma = _sigma(excess, np.log2(distance.shape[1] + 1))
    finite = np.isfinite(distance)
    row_mean = np.where(finite, distance, 0).sum(1) / np.maximum(finite.sum(1) + 1, 1)
    overall = row_mean.mean()
    sigma = np.maximum(sigma, 1e-3 * np.where(nearest[:, 0] > 0, row_mean, overall))[:, None]
    weight = np.where(excess > 0, np.exp(-excess / np.where(sigma > 0, sigma, 1)), 1.0)
    directed = adjacency(neighbors, weight)
    both = directed.multiply(directed.T)
    return sparse.csr_array(directed + directed.T - both)


def _sigma(excess: Float[np.ndarray, "cell neighbor"], target: float) -> Float[np.ndarray, " cell"]:
    """Bisection of all rows at once; 64 halvings as in UMAP."""
    low, high, middle = np.zeros(len(excess)), np.full(len(excess), np.inf), np.ones(len(excess))
    for _ in range(64):
        error = np.where(excess > 0, np.exp(-excess / middle[:, None]), 1.0).sum(1) - target
        if (np.abs(error) < 1e-5).all():
            break
        live, above = np.abs(error) >= 1e-5, error > 0
        high, low = np.where(live & above, middle, high), np.where(live & ~above, middle, low)
        step = np.where(np.isinf(high), middle * 2, (low + high) / 2)
        middle = np.where(live, step, middle)
    return middle
