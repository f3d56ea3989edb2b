"""Sums of all pairwise distances in tiles that stay in cache: exact, threaded, memory O(cells)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from scduet.metrics.core.threads import thread_map

TILE = 512
Metric = Literal["euclidean", "sqeuclidean", "cosine"]


def group_sums(
    x: Float[np.ndarray, "cell dim"],
    groups: Int[np.ndarray, " cell"],
    metric: Metric = "euclidean",
    queries: Int[np.ndarray, " query"] | None = None,
    function: Callable[[np.ndarray], object] | None = None,
    precision: type[np.floating] = np.float64,
) -> Float[np.ndarray, "query group"]:
    """For each query cell the sum of its distances to the cells of each group.

    A cell's distance to itself is exactly 0. `function`, where given, changes a tile of distances in place before it
    is summed (a kernel). The cosine distance of a zero vector to anything else is 1. Distances are computed in
    `precision` (see `enough_precision`) and summed, tile by tile, in double.
    """
    queries = np.arange(len(x)) if queries is None else queries
    order = np.argsort(groups, kind="stable")
    place = np.empty(len(x), np.int64)
    place[order] = np.arange(len(x))
    left, right = _factors(x, metric, precision)
    left, right = left[queries], np.ascontiguousarray(right[order].T)
    sums, pieces = np.zeros((len(queries), int(groups.max()) + 1)), _pieces(groups[order])
    ones = np.ones(TILE, precision)
    buffers = threading.local()

    def row(start: int) -> None:
        buffer = buffers.__dict__.get("tile")
        if buffer is None:
            buffer = buffers.tile = np.empty(min(TILE, len(queries)) * min(TILE, len(x)), precision)
        stop = min(start + TILE, len(queries))
        for first in range(0, len(x), TILE):
            last = min(first + TILE, len(x))
            tile = buffer[: (stop - start) * (last - first)].reshape(stop - start, last - first)
            np.matmul(left[start:stop], right[:, first:last], out=tile)
            _finish(tile, metric, place[queries[start:stop]] - first)
            if function is not None:
                function(tile)
            for group, begin, end in pieces[first]:
                sums[start:stop, group] += tile[:, begin:end] @ ones[: end - begin]

    if len(queries) <= TILE:
        row(0)  # few cells: asking for threads takes longer than the work
        return sums
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):  # BLAS runs single-threaded inside each tile, or cores would be oversubscribed
        thread_map(row, range(0, len(queries), TILE))
    return sums


def enough_precision(
    x: Float[np.ndarray, "cell dim"], groups: Int[np.ndarray, " cell"], metric: Metric
) -> type[np.floating]:
    """Single where its rounding changes no mean distance by more than 1e-5 of itself, else double at twice the time.

    A squared distance is a difference of squared norms, so its rounding grows with how far apart all cells are over
    how wide the narrowest group is.
    """
    if len(x) < 4 * TILE:
        return np.float64  # no time to win
    x = _unit(x) if metric == "cosine" else x - x.mean(0)
    size = np.bincount(groups)
    center = np.stack([np.bincount(groups, column) for column in x.T], 1) / np.maximum(size, 1)[:, None]
    width = np.bincount(groups, np.square(x - center[groups]).sum(1)) / np.maximum(size, 1)
    return np.float32 if np.square(x).sum(1).mean() < 100 * width[size > 1].min() else np.float64


def _pieces(groups: Int[np.ndarray, " cell"]) -> dict[int, list[tuple[int, int, int]]]:
    """For each tile's first column, the group and the columns in the tile of each run of equal, sorted groups."""
    found = {}
    for first in range(0, len(groups), TILE):
        tile = groups[first : first + TILE]
        edges = [0, *(np.flatnonzero(np.diff(tile)) + 1), len(tile)]
        found[first] = [(tile[begin], begin, end) for begin, end in pairwise(edges)]
    return found


def _factors(
    x: Float[np.ndarray, "cell dim"], metric: Metric, precision: type[np.floating]
) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices whose product is the (squared euclidean or cosine) distance, up to the constant 1 of cosine."""
    if metric == "cosine":
        unit = _unit(x).astype(precision)
        return unit, -unit
    x = x - x.mean(0)  # smaller numbers, smaller rounding
    square, one = np.square(x).sum(1, keepdims=True), np.ones((len(x), 1))
    return np.hstack([x, square, one], dtype=precision), np.hstack([-2 * x, one, square], dtype=precision)


def _unit(x: Float[np.ndarray, "cell dim"]) -> Float[np.ndarray, "cell dim"]:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1)


def _finish(tile: np.ndarray, metric: Metric, diagonal: np.ndarray) -> None:
    if metric == "cosine":
        tile += 1
    np.maximum(tile, 0, out=tile)
    if metric == "euclidean":
        np.sqrt(tile, out=tile)
    inside = np.flatnonzero((diagonal >= 0) & (diagonal < tile.shape[1]))
    tile[inside, diagonal[inside]] = 0
