"""The nearest-neighbor search shared by LISI, kBET, entropy, Leiden and connectivity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import sparse

from scduet.metrics.core.inputs import Undefined, points


@dataclass(frozen=True)
class Neighbors:
    """Nearest cells of each queried cell, nearest first, the cell itself left out; index -1 fills short rows."""

    index: Int[np.ndarray, "query neighbor"]
    distance: Float[np.ndarray, "query neighbor"]  # inf where index is -1
    queries: Int[np.ndarray, " query"]
    n_cells: int

    def first(self, n_neighbors: int) -> Neighbors:
        """The nearest `n_neighbors`, counting the cell itself as scanpy and scib-metrics do."""
        return replace(self, index=self.index[:, : n_neighbors - 1], distance=self.distance[:, : n_neighbors - 1])


def nearest_neighbors(
    x: ArrayLike, n_neighbors: int = 90, queries: Int[np.ndarray, " query"] | None = None
) -> Neighbors:
    """Exact euclidean neighbors among all cells, of all cells or of `queries`.

    `n_neighbors` counts the cell itself, as scanpy and scib-metrics do; with fewer cells, all others are neighbors.

    Raises:
        Undefined: all cells are in the same place.
    """
    from sklearn.neighbors import NearestNeighbors

    if n_neighbors < 2:
        raise ValueError(f"n_neighbors={n_neighbors} counts the cell itself; it must be at least 2")
    cells = points(x)
    if len(cells) < 2 or (cells == cells[0]).all():
        raise Undefined("all cells are in the same place (or there is one cell), so no cell is nearer than another")
    cells = cells - cells.mean(0)
    queries = np.arange(len(cells)) if queries is None else queries
    search = NearestNeighbors(n_neighbors=min(n_neighbors, len(cells)), algorithm="brute").fit(cells)
    distance, index = search.kneighbors(cells[queries])
    return Neighbors(*_without_self(index, distance, queries), queries, len(cells))


def neighbors_within(
    x: Float[np.ndarray, "cell dim"],
    labels: Int[np.ndarray, " cell"],
    batch: Int[np.ndarray, " cell"],
    size: Callable[[np.ndarray], int],
    metric: str,
    sample: dict[int, Int[np.ndarray, " query"]] | None = None,
) -> Iterator[tuple[Neighbors, Int[np.ndarray, " cell"]]]:
    """Neighbors among the cells of the same label, with their batches as 0, 1, ...; for labels that can be tested.

    size: the number of neighbors, given those batches. sample: of each label, the cells queried.

    Raises:
        Undefined: no label has at least 10 cells and two batches; names `metric`.
    """
    found = False
    for label in range(int(labels.max()) + 1):
        cells = np.flatnonzero(labels == label)
        inside = np.unique(batch[cells], return_inverse=True)[1]
        if len(cells) >= 10 and inside.max() > 0:
            found = True
            queries = None if sample is None else np.searchsorted(cells, sample[label])
            yield nearest_neighbors(x[cells], size(inside), queries), inside
    if not found:
        raise Undefined(f"{metric} needs a label with at least 10 cells and two batches")


def from_graph(distances: ArrayLike | sparse.spmatrix) -> Neighbors:
    """Neighbors from a graph of distances (cells x cells, 0 = no edge), such as scanpy's `obsp["distances"]`.

    Rows may have different numbers of edges. Connectivities are not distances: they increase with proximity.
    """
    graph = sparse.csr_array(distances, dtype=np.float64, copy=True)
    graph.setdiag(0)
    graph.eliminate_zeros()
    if graph.shape[0] != graph.shape[1]:
        raise ValueError(f"distances has shape {graph.shape}; expected a square matrix, cells x cells")
    wrong = graph.data[~((graph.data >= 0) & (graph.data < np.inf))]
    if len(wrong):
        raise ValueError(f"distances holds {wrong[0]}; a distance is finite and not negative")
    degree = np.diff(graph.indptr)
    row = np.repeat(np.arange(len(degree)), degree)
    order = np.lexsort((graph.data, row))
    column = np.arange(graph.nnz) - graph.indptr[row]
    index = np.full((len(degree), max(int(degree.max()), 1)), -1)
    distance = np.full(index.shape, np.inf)
    index[row, column], distance[row, column] = graph.indices[order], graph.data[order]
    return Neighbors(index, distance, np.arange(len(degree)), len(degree))


def _without_self(index: np.ndarray, distance: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop the cell itself, or the farthest where more duplicates than neighbors pushed it out."""
    own = index == queries[:, None]
    own[~own.any(1), -1] = True
    shape = (len(index), index.shape[1] - 1)
    return index[~own].reshape(shape), distance[~own].reshape(shape)


def neighbor_counts(
    neighbors: Neighbors,
    groups: Int[np.ndarray, " cell"],
    weights: Float[np.ndarray, "query neighbor"] | None = None,
    n_groups: int | None = None,
) -> Float[np.ndarray, "query group"]:
    """Number (or total weight) of the neighbors of each query in each group."""
    there = neighbors.index >= 0
    n_groups = n_groups or int(groups.max()) + 1
    cell = np.arange(len(neighbors.index))[:, None] * n_groups + groups[neighbors.index]
    weights = there.astype(np.float64) if weights is None else weights * there
    return np.bincount(cell.ravel(), weights.ravel(), len(cell) * n_groups).reshape(-1, n_groups)
