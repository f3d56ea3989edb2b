"""Source x order x make_batch -> minibatches. Counts stay sparse on the way."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from scduet.contract import CellBatch, Covariates, MakeBatch, SparseRows, TokenBatch
from scduet.data.cells import Cells
from scduet.data.samplers import boundaries

ENTRIES_AT_ONCE = 2_000_000  # stored counts fetched together: bounds memory, and spreads the cost of a fetch


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
    cells: Cells, order: np.ndarray, size: int, make_batch: MakeBatch | None = None
) -> Iterator[CellBatch | TokenBatch]:
    """The cells at `order` in minibatches of `size`."""
    make_batch = make_batch or cell_batch
    edges = boundaries(len(order), size)
    per_fetch = max(1, int(ENTRIES_AT_ONCE / size / max(1.0, cells.counts.mean_entries)))
    for first in range(0, len(edges) - 1, per_fetch):
        inner = edges[first : first + per_fetch + 1]
        fetched = cells.counts.rows(order[inner[0] : inner[-1]])
        for start, end in pairwise(inner):
            yield make_batch(_rows(cells, order[start:end], fetched, start - inner[0], end - inner[0]))


def cell_batch(rows: Rows) -> CellBatch:
    """The minibatch of these cells for models that see counts."""
    n = len(rows.index)
    row = np.repeat(np.arange(n), np.diff(rows.pointer))
    return CellBatch(
        x=SparseRows(_tensor(rows.values), _tensor(row), _tensor(rows.column.astype(np.int64)), (n, rows.n_genes)),
        index=_tensor(rows.index),
        batch=_tensor(rows.batch),
        label=_optional(rows.label),
        covariates=Covariates(_optional(rows.categorical), _optional(rows.continuous), _optional(rows.size_factor)),
    )


def _rows(cells: Cells, index: np.ndarray, fetched: sp.csr_matrix, start: int, end: int) -> Rows:
    """Rows `start` to `end` of what was fetched, without a copy of the counts, and their annotations."""
    pointer = fetched.indptr[start : end + 1]
    entries = slice(pointer[0], pointer[-1])
    label, categorical, continuous, size_factor = (
        None if known is None else known[index]
        for known in (cells.label, cells.categorical, cells.continuous, cells.size_factor)
    )
    values, column = fetched.data[entries], fetched.indices[entries]
    shared = (values, column, pointer - pointer[0], cells.counts.n_genes, index, cells.batch[index])
    return Rows(*shared, label, categorical, continuous, size_factor)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _optional(array: np.ndarray | None) -> torch.Tensor | None:
    return None if array is None else _tensor(array)
