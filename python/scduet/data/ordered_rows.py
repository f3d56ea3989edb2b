"""Rows of a matrix in a file for cells that are in another order, or of which the matrix has only some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from scduet.data.sources import csr


@dataclass
class OrderedRows:
    """The source of a modality of an .h5mu file whose cells are not those of the whole, one for one.

    A cell that the matrix lacks has nothing stored, or NaN where rows are given as an array.
    """

    file: Any  # a FileSource, or rows of several files
    order: np.ndarray  # (cell,) the row in the file, -1 where there is none

    @property
    def n_cells(self) -> int:
        return len(self.order)

    @property
    def n_genes(self) -> int:
        return self.file.n_genes

    @property
    def entries_at_once(self) -> int:
        return self.file.entries_at_once

    @property
    def block(self) -> int:
        return self.file.block

    @property
    def mean_entries(self) -> float:
        return self.file.mean_entries

    def rows(self, index: np.ndarray) -> Any:
        place = self.order[index]
        there = place >= 0
        found = self.file.rows(place[there])
        if there.all():
            return found
        shape = len(index), self.n_genes
        if not sp.issparse(found):
            spread = np.full(shape, np.nan, np.float32)
            spread[there] = found
            return spread
        n_entries = np.zeros(len(index) + 1, found.indptr.dtype)
        n_entries[1:][there] = np.diff(found.indptr)
        return csr(found.data, found.indices, n_entries.cumsum(dtype=n_entries.dtype), shape)

    def pieces(self) -> Iterator[tuple[int, Any]]:
        """All rows in order, some at a time; the file is walked through first, for the marks of its rows."""
        self.file.totals()
        size = max(1, int(self.entries_at_once / 2 / max(1.0, self.mean_entries)))
        for start in range(0, self.n_cells, size):
            yield start, self.rows(np.arange(start, min(start + size, self.n_cells)))

    def totals(self) -> np.ndarray:
        """Sum of each row, of what is not NaN."""
        return np.where(self.order < 0, np.float32(0), self.file.totals()[self.order])
