"""Source x order x make_batch -> minibatches. What is sparse stays sparse on the way."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from scduet.contract import CellBatch, Covariates, MakeBatch, SparseRows, TokenBatch
from scduet.data.samplers import (
    Shard,
    boundaries,
    shared,
    shared_boundaries,
    shuffled,
    shuffled_blocks,
    shuffled_within,
)
from scduet.data.sources import Cells, between


@dataclass(frozen=True)
class Rows:
    """A few cells in memory, as numpy: what `make_batch` turns into a minibatch."""

    data: np.ndarray  # CSR arrays of the main matrix; if that is dense, `dense` holds it and these are empty
    indices: np.ndarray
    indptr: np.ndarray
    n_genes: int
    index: np.ndarray  # row in the data set
    batch: np.ndarray
    label: np.ndarray | None = None
    categorical: np.ndarray | None = None
    continuous: np.ndarray | None = None
    size_factor: np.ndarray | None = None
    dense: np.ndarray | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # CSR or array (cell, column)
    measured: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def counts(self) -> sp.csr_matrix:
        return sp.csr_matrix((self.data, self.indices, self.indptr), shape=(len(self.index), self.n_genes))


def minibatches(
    cells: Cells, order: np.ndarray, size: int, make_batch: MakeBatch | None = None, edges: np.ndarray | None = None
) -> Iterator[CellBatch | TokenBatch]:
    """The cells at `order` in minibatches of `size`, or with `edges` where each starts and ends.

    What the next minibatches need is read, in a second thread, while the last ones are at work.
    """
    make_batch, edges = make_batch or cell_batch, boundaries(len(order), size) if edges is None else edges
    windows = _windows(cells, edges)
    with ThreadPoolExecutor(1, "scduet-read") as reader:
        asked = [reader.submit(_fetch, cells, order[window[0] : window[-1]]) for window in windows[:1]]
        for number, window in enumerate(windows):
            fetched = asked.pop().result()
            if number + 1 < len(windows):
                after = windows[number + 1]
                asked.append(reader.submit(_fetch, cells, order[after[0] : after[-1]]))
            for start, end in pairwise(window):
                yield make_batch(_rows(cells, order[start:end], fetched, start - window[0], end - window[0]))


def epoch_order(
    cells: Cells, rows: np.ndarray, size: int, random: tuple[int, int], share: Shard, block: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The order in which one process visits its share of `rows` in an epoch, and the edges of its minibatches.

    random: seed and epoch. block: for counts on disk, rows that stay together; None for what suits the file.
    In memory every order of rows is equally likely. On disk, blocks of neighboring rows are put in random order, and
    the rows of as many blocks as fit in memory are shuffled together, so that each block is read once.
    """
    if cells.block is None:
        mine = shared(shuffled(rows, *random), share)
        return mine, shared_boundaries(len(mine), len(rows), size, share)
    mine = shared(shuffled_blocks(rows, block or cells.block, *random), share, together=True)
    edges = shared_boundaries(len(mine), len(rows), size, share)
    windows = _windows(cells, edges)
    return shuffled_within(mine, [0, *(window[-1] for window in windows)], *random), edges


def cell_batch(rows: Rows) -> CellBatch:
    """The minibatch of these cells for models that see counts."""
    shape = len(rows.index), rows.n_genes
    return CellBatch(
        x=_sparse(rows.data, rows.indices, rows.indptr, shape) if rows.dense is None else _tensor(rows.dense),
        index=_tensor(rows.index),
        batch=_tensor(rows.batch),
        label=_optional(rows.label),
        covariates=Covariates(_optional(rows.categorical), _optional(rows.continuous), _optional(rows.size_factor)),
        extra={name: _either(matrix) for name, matrix in rows.extra.items()},
        measured={name: _tensor(known) for name, known in rows.measured.items()},
    )


def _fetch(cells: Cells, index: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """The rows at `index` of the main matrix and of each further input."""
    return cells.counts.rows(index), {name: source.rows(index) for name, source in cells.extra.items()}


def _windows(cells: Cells, edges: np.ndarray) -> list[np.ndarray]:
    """The `edges` of the minibatches that are fetched together."""
    largest = int(np.diff(edges).max(initial=1))
    entries = sum(source.mean_entries for source in cells.sources)
    per_fetch = max(1, int(cells.counts.entries_at_once / largest / max(1.0, entries)))
    return [edges[first : first + per_fetch + 1] for first in range(0, len(edges) - 1, per_fetch)]


def _rows(cells: Cells, index: np.ndarray, fetched: tuple[Any, dict[str, Any]], start: int, end: int) -> Rows:
    """Rows `start` to `end` of what was fetched, without a copy of the matrices, and their annotations."""
    label, categorical, continuous, size_factor = (
        None if known is None else known[index]
        for known in (cells.label, cells.categorical, cells.continuous, cells.size_factor)
    )
    main, further = fetched
    dense = main[start:end] if isinstance(main, np.ndarray) else None
    arrays = _NO_ENTRIES if dense is not None else _between(main, start, end)
    known = (cells.counts.n_genes, index, cells.batch[index], label, categorical, continuous, size_factor)
    extra = {
        name: rows[start:end] if isinstance(rows, np.ndarray) else between(rows, start, end)
        for name, rows in further.items()
    }
    return Rows(*arrays, *known, dense, extra, {name: where[index] for name, where in cells.measured.items()})


def _between(matrix: sp.csr_matrix, start: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    indptr = matrix.indptr[start : end + 1]
    entries = slice(indptr[0], indptr[-1])
    return matrix.data[entries], matrix.indices[entries], indptr - indptr[0]


_NO_ENTRIES = np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(1, np.int64)


def _either(matrix: Any) -> SparseRows | torch.Tensor:
    if isinstance(matrix, np.ndarray):
        return _tensor(matrix)
    return _sparse(matrix.data, matrix.indices, matrix.indptr, matrix.shape)


def _sparse(values: np.ndarray, column: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]) -> SparseRows:
    return SparseRows(_tensor(values), _tensor(column.astype(np.int64)), _tensor(indptr.astype(np.int64)), shape)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _optional(array: np.ndarray | None) -> torch.Tensor | None:
    return None if array is None else _tensor(array)
