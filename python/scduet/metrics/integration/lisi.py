"""LISI: the effective number of batches (iLISI, CiLISI) or of labels (cLISI) in a cell's neighborhood."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from scduet.metrics.core import estimates
from scduet.metrics.core.inputs import at_least_two, codes, points
from scduet.metrics.core.neighbors import Neighbors, nearest_neighbors, neighbor_counts, neighbors_within


def ilisi(x: ArrayLike, batch: ArrayLike, n_neighbors: int = 90, neighbors: Neighbors | None = None) -> float:
    """Integration LISI: (median LISI of batches - 1) / (n_batches - 1).

    Range [0, 1], higher is better; 1 only where every batch is in every neighborhood, so cell types missing in a batch
    keep it low (then read `cilisi`). Perplexity n_neighbors / 3. Source: Korsunsky et al. 2019; scaled as in scIB, on
    the embedding's neighbors as in scib-metrics (scIB's on graph paths is not comparable).

    Raises:
        Undefined: only one batch.
    """
    neighbors = neighbors or nearest_neighbors(points(x), n_neighbors)
    batch = codes(batch, "batch", neighbors.n_cells)
    n = at_least_two(batch, "iLISI", "batches")
    return float((np.median(lisi_samples(neighbors.first(n_neighbors), batch)) - 1) / (n - 1))


def clisi(x: ArrayLike, labels: ArrayLike, n_neighbors: int = 90, neighbors: Neighbors | None = None) -> float:
    """Cell-type LISI: (n_labels - median LISI of labels) / (n_labels - 1).

    Range [0, 1], higher is better; near 1 for almost any method, so hardly informative. Source: as `ilisi`.

    Raises:
        Undefined: only one label.
    """
    neighbors = neighbors or nearest_neighbors(points(x), n_neighbors)
    labels = codes(labels, n_cells=neighbors.n_cells)
    n = at_least_two(labels, "cLISI", "labels")
    return float((n - np.median(lisi_samples(neighbors.first(n_neighbors), labels))) / (n - 1))


def cilisi(x: ArrayLike, labels: ArrayLike, batch: ArrayLike, n_neighbors: int = 90, per_label: bool = False) -> float:
    """iLISI inside each label, (LISI - 1) / (batches of the label - 1), mean over cells (or over labels).

    Range [0, 1], higher is better; not lowered by labels that are missing in some batches. Labels with fewer than 10
    cells or one batch are left out. Source: STACAS (Andreatta et al. 2024).

    Raises:
        Undefined: only one batch, or no label has cells of two.
    """
    x = points(x)
    labels, batch = codes(labels, n_cells=len(x)), codes(batch, "batch", len(x))
    at_least_two(batch, "CiLISI", "batches")
    groups = lisi_within(x, labels, batch, n_neighbors)
    if per_label:
        return estimates.mean_of_means(groups).value
    return float(np.concatenate([group.values for group in groups]).mean())


def lisi_within(
    x: Float[np.ndarray, "cell dim"],
    labels: Int[np.ndarray, " cell"],
    batch: Int[np.ndarray, " cell"],
    n_neighbors: int = 90,
    sample: dict[int, Int[np.ndarray, " query"]] | None = None,
) -> list[estimates.Group]:
    """Scaled LISI of batches among the cells of the same label; `sample` names the cells queried."""
    near = neighbors_within(x, labels, batch, lambda inside: min(n_neighbors, len(inside)), "CiLISI", sample)
    return [
        estimates.Group((lisi_samples(neighbors, inside) - 1) / inside.max(), len(inside)) for neighbors, inside in near
    ]


def lisi_samples(neighbors: Neighbors, groups: Int[np.ndarray, " cell"]) -> Float[np.ndarray, " query"]:
    """LISI of each query: 1 / sum over groups of (share of the neighborhood's weight) squared, 1 to n_groups."""
    return lisi_of_weights(neighbors, neighborhood_weights(neighbors), groups)


def lisi_of_weights(
    neighbors: Neighbors, weights: Float[np.ndarray, "query neighbor"], groups: Int[np.ndarray, " cell"]
) -> Float[np.ndarray, " query"]:
    """LISI from weights that may be shared between batches and labels; 1 for a cell without neighbors."""
    simpson = np.square(neighbor_counts(neighbors, groups, weights)).sum(1)
    return 1 / np.where(simpson > 0, simpson, 1)


def neighborhood_weights(neighbors: Neighbors, rows: int = 65536) -> Float[np.ndarray, "query neighbor"]:
    """Weights exp(-beta * distance), beta by row such that their perplexity is a third of the neighbors with self."""
    target = np.log(max((neighbors.index.shape[1] + 1) // 3, 1))
    parts = [neighbors.distance[i : i + rows] for i in range(0, len(neighbors.distance), rows)]
    return np.concatenate([_weights(part, target) for part in parts])


def _weights(distance: Float[np.ndarray, "query neighbor"], target: float) -> Float[np.ndarray, "query neighbor"]:
    """Newton steps on the entropy, kept inside a bisection bracket, for the rows that have not converged."""
    nearest = distance.min(1, keepdims=True)
    d = distance - np.where(np.isfinite(nearest), nearest, 0)  # the entropy does not change, and nothing underflows
    finite = np.where(np.isfinite(d), d, 0)
    low, high = np.zeros(len(d)), np.full(len(d), np.inf)
    beta = 1 / np.maximum(finite.mean(1), np.finfo(float).tiny)
    weights, rows = np.zeros_like(d), np.arange(len(d))
    for _ in range(60):
        p = np.exp(-d[rows] * beta[rows, None])
        total = p.sum(1)
        p /= np.where(total > 0, total, 1)[:, None]
        mean = (p * finite[rows]).sum(1)
        surplus = np.log(np.where(total > 0, total, 1)) + beta[rows] * mean - target
        weights[rows] = p
        left = np.abs(surplus) > 1e-6
        if not left.any():
            break
        variance = (p * np.square(finite[rows])).sum(1) - mean**2
        rows, surplus, variance = rows[left], surplus[left], variance[left]
        low[rows] = np.where(surplus > 0, beta[rows], low[rows])
        high[rows] = np.where(surplus > 0, high[rows], beta[rows])
        beta[rows] = _next(beta[rows], surplus, variance, low[rows], high[rows])
        rows = rows[beta[rows] < 1e300]  # equal distances: more weight on the nearest is not possible
    return weights


def _next(beta: np.ndarray, surplus: np.ndarray, variance: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        newton, halved = beta + surplus / (beta * variance), np.where(np.isinf(high), beta * 2, (low + high) / 2)
        return np.where((newton > low) & (newton < np.minimum(high, beta * 4)), newton, halved)
