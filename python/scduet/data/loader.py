"""Source x order x make_batch -> minibatches. Counts stay sparse on the way."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from scduet.contract import CellBatch, Covariates, MakeBatch, SparseRows, TokenBatch
from scduet.data.cells import Cells
from scduet.data.samplers import (
    Share,
    boundaries,
    shared,
    shared_boundaries,
    shuffled,
    shuffled_blocks,
    shuffled_within,
)
from scduet.data.sources import Source


@dataclass(frozen=True)
class Rows:
    """A few cells in memory, as numpy: what `make_batch` turns into a minibatch."""

    values: np.ndarray  # CSR arrays of the counts
    column: np.ndarray
    pointer: np.ndarray
    n_genes: int
    index: np.ndarray  # row in the data set
    batch: np.ndarray
    label: np.ndarray | None = None
    categorical: np.ndarray | None = None
    continuous: np.ndarray | None = None
    size_factor: np.ndarray | None = None

    @property
    def counts(self) -> sp.csr_matrix:
        return sp.csr_matrix((self.values, self.column, self.pointer), shape=(len(self.index), self.n_genes))


def minibatches(
    cells: Cells, order: np.ndarray, size: int, make_batch: MakeBatch | None = None, edges: np.ndarray | None = None
) -> Iterator[CellBatch | TokenBatch]:
    """The cells at `order` in minibatches of `size`, or with `edges` where each starts and ends.

    What the next minibatches need is read, in a second thread, while the last ones are at work.
    """
    make_batch, edges = make_batch or cell_batch, boundaries(len(order), size) if edges is None else edges
    windows = _windows(cells.counts, edges)
    with ThreadPoolExecutor(1, "scduet-read") as reader:
        asked = [reader.submit(cells.counts.rows, order[window[0] : window[-1]]) for window in windows[:1]]
        for number, window in enumerate(windows):
            fetched = asked.pop().result()
            if number + 1 < len(windows):
                after = windows[number + 1]
                asked.append(reader.submit(cells.counts.rows, order[after[0] : after[-1]]))
            for start, end in pairwise(window):
                yield make_batch(_rows(cells, order[start:end], fetched, start - window[0], end - window[0]))


def epoch_order(
    cells: Cells, rows: np.ndarray, size: int, random: tuple[int, int], share: Share, block: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The order in which one process visits its share of `rows` in an epoch, and the edges of its minibatches.

    random: seed and epoch. block: for counts on disk, rows that stay together; None for what suits the file.
    In memory every order of rows is equally likely. On disk, blocks of neighbouring rows are put in random order, and
    the rows of as many blocks as fit in memory are shuffled together, so that each block is read once.
    """
    if cells.counts.block is None:
        mine = shared(shuffled(rows, *random), share)
        return mine, shared_boundaries(len(mine), len(rows), size, share)
    mine = shared(shuffled_blocks(rows, block or cells.counts.block, *random), share, together=True)
    edges = shared_boundaries(len(mine), len(rows), size, share)
    windows = _windows(cells.counts, edges)
    return shuffled_within(mine, [0, *(window[-1] for window in windows)], *random), edges


def cell_batch(rows: Rows) -> CellBatch:
    """The minibatch of these cells for models that see counts."""
    column, pointer = (_tensor(numbers.astype(np.int64)) for numbers in (rows.column, rows.pointer))
    return CellBatch(
        x=SparseRows(_tensor(rows.values), column, pointer, (len(rows.index), rows.n_genes)),
        index=_tensor(rows.index),
        batch=_tensor(rows.batch),
        label=_optional(rows.label),
        covariates=Covariates(_optional(rows.categorical), _optional(rows.continuous), _optional(rows.size_factor)),
    )


def _windows(source: Source, edges: np.ndarray) -> list[np.ndarray]:
    """The `edges` of the minibatches that are fetched together."""
    largest = int(np.diff(edges).max(initial=1))
    per_fetch = max(1, int(source.entries_at_once / largest / max(1.0, source.mean_entries)))
    return [edges[first : first + per_fetch + 1] for first in range(0, len(edges) - 1, per_fetch)]


def _rows(cells: Cells, index: np.ndarray, fetched: sp.csr_matrix, start: int, end: int) -> Rows:
    """Rows `start` to `end` of what was fetched, without a copy of the counts, and their annotations."""
    pointer = fetched.indptr[start : end + 1]
    entries = slice(pointer[0], pointer[-1])
    label, categorical, continuous, size_factor = (
        None if known is None else known[index]
        for known in (cells.label, cells.categorical, cells.continuous, cells.size_factor)
    )
    values, column = fetched.data[entries], fetched.indices[entries]
    always = (values, column, pointer - pointer[0], cells.counts.n_genes, index, cells.batch[index])
    return Rows(*always, label, categorical, continuous, size_factor)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _optional(array: np.ndarray | None) -> torch.Tensor | None:
    return None if array is None else _tensor(array)
