"""Sums of all pairwise distances in tiles that stay in cache: exact, threaded, memory O(cells)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

TILE = 512
Metric = Literal["euclidean", "sqeuclidean", "cosine"]


def group_sums(
    x: Float[np.ndarray, "cell dim"],
    groups: Int[np.ndarray, " cell"],
    metric: Metric = "euclidean",
    queries: Int[np.ndarray, " query"] | None = None,
    function: Callable[[np.ndarray], object] | None = None,
) -> Float[np.ndarray, "query group"]:
    """For each query cell the sum of its distances to the cells of each group.

    A cell's distance to itself is exactly 0. `function`, where given, changes a tile of distances in place before it
    is summed (a kernel). The cosine distance of a zero vector to anything else is 1.
    """
    queries = np.arange(len(x)) if queries is None else queries
    order = np.argsort(groups, kind="stable")
    place = np.empty(len(x), np.int64)
    place[order] = np.arange(len(x))
    left, right = _factors(x, metric)
    left, right, sorted_groups = left[queries], np.ascontiguousarray(right[order].T), groups[order]
    sums = np.zeros((len(queries), int(groups.max()) + 1))
    buffers = threading.local()

    def row(start: int) -> None:
        buffer = buffers.__dict__.get("tile")
        if buffer is None:
            buffer = buffers.tile = np.empty(min(TILE, len(queries)) * min(TILE, len(x)))
        stop = min(start + TILE, len(queries))
        for first in range(0, len(x), TILE):
            last = min(first + TILE, len(x))
            tile = buffer[: (stop - start) * (last - first)].reshape(stop - start, last - first)
            np.matmul(left[start:stop], right[:, first:last], out=tile)
            _finish(tile, metric, place[queries[start:stop]] - first)
            if function is not None:
                function(tile)
            low, high = sorted_groups[first], sorted_groups[last - 1] + 1
            sums[start:stop, low:high] += tile @ np.equal.outer(sorted_groups[first:last], np.arange(low, high))

    _in_threads(row, range(0, len(queries), TILE))
    return sums


def _factors(x: Float[np.ndarray, "cell dim"], metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices whose product is the (squared euclidean or cosine) distance, up to the constant 1 of cosine."""
    if metric == "cosine":
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        unit = x / np.where(norm > 0, norm, 1)
        return unit, -unit
    x = x - x.mean(0)  # smaller numbers, smaller rounding
    square, one = np.square(x).sum(1, keepdims=True), np.ones((len(x), 1))
    return np.hstack([x, square, one]), np.hstack([-2 * x, one, square])


def _finish(tile: np.ndarray, metric: Metric, diagonal: np.ndarray) -> None:
    if metric == "cosine":
        tile += 1
    np.maximum(tile, 0, out=tile)
    if metric == "euclidean":
        np.sqrt(tile, out=tile)
    inside = np.flatnonzero((diagonal >= 0) & (diagonal < tile.shape[1]))
    tile[inside, diagonal[inside]] = 0


def _in_threads(work: Callable[[int], None], starts: range) -> None:
    """Row tiles are independent; BLAS itself runs single-threaded inside, or cores would be oversubscribed."""
    from threadpoolctl import threadpool_limits

    if len(starts) == 1:
        work(0)  # few cells: asking for threads takes longer than the work
        return
    wanted = int(os.environ.get("OMP_NUM_THREADS", 0) or os.cpu_count() or 1)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(min(wanted, len(starts))) as pool:
        list(pool.map(work, starts))
