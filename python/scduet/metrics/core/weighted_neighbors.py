"""Weighted nearest neighbors of cells that were measured in several ways (Hao et al. 2021, Cell 184:3573).

A representation predicts itself: where the neighbors by it predict a cell better than the neighbors by another one do,
it says more about this cell, and weighs more in the cell's distances to others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import sparse

from scduet.metrics.core.inputs import points
from scduet.metrics.core.neighbors import Neighbors, nearest_neighbors

N_NEIGHBORS, N_CANDIDATES = 20, 200  # both count the cell itself, as in Seurat
EPSILON, LARGEST = 1e-4, 200.0  # keeps ratios of affinities finite; of the ratios, before the softmax
PIECE = 512  # cells whose candidates are compared together

Cells = Float[np.ndarray, "cell dim"]


@dataclass(frozen=True)
class WeightedNeighbors:
    """The nearest cells by all representations together, and how much each of these weighs in each cell."""

    neighbors: Neighbors  # distance: sqrt((1 - similarity) / 2), 0 to 0.71
    weights: Float[np.ndarray, "cell representation"]  # sum to 1 in a cell


@dataclass(frozen=True)
class _View:
    """Cells by one representation, on the unit sphere."""

    x: Cells
    near: Neighbors
    nearest: Float[np.ndarray, " cell"]  # distance to the nearest cell
    width: Float[np.ndarray, " cell"]  # of the kernel

    def affinity(self, distance: np.ndarray, cells: np.ndarray | slice = slice(None)) -> np.ndarray:
        """exp(-(d - nearest) / width), at most 1; distance: (cell, ...)."""
        shape = (-1, *[1] * (distance.ndim - 1))
        nearest, width = self.nearest[cells].reshape(shape), self.width[cells].reshape(shape)
        excess = np.maximum(distance - nearest, 0)
        return np.exp(-np.divide(excess, width, out=np.where(excess > 0, np.inf, 0.0), where=width > 0))

    def predicted_by(self, near: Neighbors) -> Float[np.ndarray, " cell"]:
        """Affinity of each cell to the mean of some neighbors."""
        return self.affinity(np.linalg.norm(self.x - self.x[near.index].mean(1), axis=1))


def weighted_neighbors(
    representations: Sequence[ArrayLike], n_neighbors: int = N_NEIGHBORS, n_candidates: int = N_CANDIDATES
) -> WeightedNeighbors:
    """The `n_neighbors` nearest cells of each cell by all representations together, and the weights of these.

    representations: two or more matrices (cell, dimension) of the same cells, each of its own dimension, in any scale:
        only directions from the origin count.
    n_neighbors: from which weights are made (with the cell itself), and to find (without it).
    n_candidates: nearest cells by each representation (with the cell itself) among which these are looked for.

    The numbers are those of Seurat's FindMultiModalNeighbors, whose search is approximate where this one is exact.
    Raises ValueError for fewer than two representations, other numbers of cells, or fewer than 3 cells; Undefined where
    all cells are in one place.
    """
    if len(representations) < 2:
        raise ValueError(f"weighted neighbors need two or more representations, not {len(representations)}")
    found = [points(x, f"representation {i}") for i, x in enumerate(representations)]
    if len({len(x) for x in found}) > 1 or len(found[0]) < 3:
        raise ValueError(
            f"representations of {[len(x) for x in found]} cells; they must be of the same 3 or more cells"
        )
    n_neighbors = min(n_neighbors, len(found[0]) - 1)
    views = [_view(x, n_neighbors) for x in found]
    weights = _weights(views)
    return WeightedNeighbors(_nearest(views, weights, n_neighbors, max(n_candidates, n_neighbors + 1)), weights)


def jaccard(near: Int[np.ndarray, "cell neighbor"]) -> sparse.csr_array:
    """Share of the neighbors of two cells that both have, of all that either has; stored where it is not 0."""
    n, k = near.shape
    has = sparse.csr_array((np.ones(n * k), near.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    shared = sparse.csr_array(has @ has.T)
    shared.data /= 2 * k - shared.data
    return shared


def _view(x: Cells, n_neighbors: int) -> _View:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(norm > 0, norm, 1)
    near = nearest_neighbors(unit, n_neighbors)
    nearest = near.distance[:, 0]
    return _View(unit, near, nearest, _widths(unit, near, nearest))


def _widths(x: Cells, near: Neighbors, nearest: Float[np.ndarray, " cell"]) -> Float[np.ndarray, " cell"]:
    """Mean distance, beyond that of the nearest cell, to cells that share few neighbors with a cell, but some.

    Of the k (neighbors, with the cell itself) that share the fewest, and all others that share no more than these, the
    k farthest, as in Seurat. In the paper, and in muon, distance decides only among those that share as many.
    """
    shared = jaccard(np.column_stack([near.queries, near.index]))
    k, row = near.index.shape[1] + 1, np.repeat(np.arange(len(x)), np.diff(shared.indptr))
    place = np.arange(len(row)) - shared.indptr[row]
    ascending = np.round(shared.data[np.lexsort((shared.data, row))], 12)
    most = ascending[np.minimum(shared.indptr[:-1] + k, shared.indptr[1:]) - 1]
    few = np.round(shared.data, 12) <= most[row]
    excess = np.maximum(np.linalg.norm(x[row] - x[shared.indices], axis=1) - nearest[row], 0)
    order = np.lexsort((-excess, ~few, row))
    chosen = few[order] & (place < k)
    return np.bincount(row, excess[order] * chosen, len(x)) / np.bincount(row, chosen, len(x))


def _weights(views: Sequence[_View]) -> Float[np.ndarray, "cell representation"]:
    scores = []
    for view in views:
        own = view.predicted_by(view.near)
        others = [view.predicted_by(other.near) for other in views if other is not view]
        scores.append(sum(np.exp(np.minimum(own / (other + EPSILON), LARGEST)) for other in others))
    total = np.column_stack(scores)
    return total / total.sum(1, keepdims=True)


def _nearest(views: Sequence[_View], weights: np.ndarray, n_neighbors: int, n_candidates: int) -> Neighbors:
    n = len(weights)
    candidates = np.concatenate([nearest_neighbors(view.x, n_candidates).index for view in views], 1)
    candidates.sort(1)
    repeated = np.zeros(candidates.shape, bool)
    repeated[:, 1:] = candidates[:, 1:] == candidates[:, :-1]
    index, distance = np.empty((n, n_neighbors), int), np.empty((n, n_neighbors))
    for start in range(0, n, PIECE):
        cells = np.arange(start, min(start + PIECE, n))
        near, similarity = candidates[cells], np.zeros((len(cells), candidates.shape[1]))
        for view, weight in zip(views, weights.T, strict=True):
            apart = np.linalg.norm(view.x[near] - view.x[cells, None], axis=2)
            similarity += weight[cells, None] * view.affinity(apart, cells)
        similarity[repeated[cells]] = -1
        best = np.argsort(-similarity, 1, kind="stable")[:, :n_neighbors]
        index[cells] = np.take_along_axis(near, best, 1)
        distance[cells] = np.sqrt(np.clip((1 - np.take_along_axis(similarity, best, 1)) / 2, 0, 1))
    return Neighbors(index, distance, np.arange(n), n)
