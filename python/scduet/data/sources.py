"""All cells of a data set, and rows of its matrices, wherever these are: in memory, or in a file (see `files`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp

from scduet.errors import DataError

DENSE_PIECE = 1024  # rows of a dense matrix made sparse together
KEEP_WHOLE = 0.4  # a choice of genes that holds more than this share of the entries is made per minibatch, not copied


@runtime_checkable
class Source(Protocol):
    """What do these rows hold? Rows of a (cell, gene) matrix of float32: CSR if it is a sparse source, else an array.

    `genes` of a source are the columns that it gives, by their place in the matrix; -1 for a column of zeros (NaN in a
    dense source).
    """

    @property
    def n_cells(self) -> int: ...

    @property
    def n_genes(self) -> int: ...

    @property
    def entries_at_once(self) -> int:
        """Stored entries to ask for together: bounds memory, and spreads the cost of a request."""
        ...

    @property
    def block(self) -> int | None:
        """Neighboring rows that are best read together; None where every row can be had for itself."""
        ...

    def pieces(self) -> Iterator[tuple[int, Any]]:
        """All rows in order, in pieces that fit in memory, each with the number of its first row."""
        ...

    def rows(self, index: np.ndarray) -> Any:
        """The rows at `index`, in that order."""
        ...

    def totals(self) -> np.ndarray:
        """Sum of each row, of what is not NaN."""
        ...

    @property
    def mean_entries(self) -> float:
        """Stored entries of a row, on average (an upper bound will do)."""
        ...


@dataclass(frozen=True)
class Cells:
    """Matrices and annotations, one row or entry a cell; absent annotations are None."""

    counts: Source  # the main matrix (cell, gene), of counts or of what the model expects
    total: np.ndarray  # its sum over the genes of each cell
    batch: np.ndarray  # code of the technical batch
    label: np.ndarray | None = None  # code of the cell type, -1 = unlabeled
    categorical: np.ndarray | None = None  # (cell, covariate) codes
    continuous: np.ndarray | None = None  # (cell, covariate)
    size_factor: np.ndarray | None = None
    extra: Mapping[str, Source] = field(default_factory=dict)  # further inputs
    measured: Mapping[str, np.ndarray] = field(default_factory=dict)
    # of inputs ("x": the main matrix) that were not measured in every cell: where they were (cell,), bool
    marks: tuple[np.ndarray, ...] = ()  # of each matrix in memory, a number for each cell: see `marked`

    @property
    def sources(self) -> tuple[Source, ...]:
        """The main matrix and the further inputs."""
        return self.counts, *self.extra.values()

    @property
    def block(self) -> int | None:
        """Neighboring rows that are best read together; None where every row can be had for itself."""
        return max((source.block for source in self.sources if source.block is not None), default=None)

    def marked(self) -> Cells:
        """These cells, which tell from now on whether their matrices, which are the user's own, were edited."""
        return replace(self, marks=self._marks())

    def refuse_edited(self) -> None:
        """Raise DataError naming a matrix whose values are no longer those that it had when it was marked."""
        for name, before, now in zip(self._in_memory, self.marks, self._marks() if self.marks else (), strict=False):
            changed = int((before != now).sum())
            if changed:
                where = "the counts" if name == "x" else repr(name)
                message = f"{where} of {changed} cells that the model was trained on were edited in place since"
                raise DataError(message, "keep raw counts in a layer of their own, and pass adata with them")

    def _marks(self) -> tuple[np.ndarray, ...]:
        return tuple(marks(source) for source in self._in_memory.values())

    @property
    def _in_memory(self) -> dict[str, Source]:
        """Those in a file look after themselves."""
        return {name: s for name, s in {"x": self.counts, **self.extra}.items() if s.block is None}

    def __len__(self) -> int:
        return len(self.batch)


@dataclass(frozen=True)
class MemorySource:
    """A CSR matrix in memory, never copied; `genes` picks columns (in that order) of each row asked for."""

    matrix: sp.csr_matrix
    genes: np.ndarray | None = None  # column of the matrix for each gene, None = all as they are

    entries_at_once = 2_000_000
    block = None

    @property
    def n_cells(self) -> int:
        return self.matrix.shape[0]

    @property
    def n_genes(self) -> int:
        return self.matrix.shape[1] if self.genes is None else len(self.genes)

    @cached_property
    def _place(self) -> np.ndarray:
        """For each column of the matrix its place among the genes, -1 where it is not one of them."""
        assert self.genes is not None
        place, there = np.full(self.matrix.shape[1], -1, dtype=np.int32), np.flatnonzero(self.genes >= 0)
        place[self.genes[there]] = there
        return place

    def rows(self, index: np.ndarray) -> sp.csr_matrix:
        """Neighboring rows in their order are the matrix' own numbers, not a copy."""
        near = len(index) and self.matrix.data.flags.writeable and (np.diff(index) == 1).all()
        taken = between(self.matrix, index[0], index[-1] + 1) if near else self.matrix[index]
        if self.genes is not None:
            taken = self._picked(taken)
        return taken if taken.dtype == np.float32 else taken.astype(np.float32)

    def pieces(self) -> Iterator[tuple[int, sp.csr_matrix]]:
        """The whole matrix as it is stored, with the genes that are not used."""
        yield 0, self.matrix

    @property
    def mean_entries(self) -> float:
        return self.matrix.nnz / max(1, self.n_cells)

    @property
    def entries(self) -> int:
        """Stored entries of the genes."""
        if self.genes is None:
            return self.matrix.nnz
        starts = range(0, self.matrix.nnz, self.entries_at_once)
        return sum(int((self._place[self.matrix.indices[i : i + self.entries_at_once]] >= 0).sum()) for i in starts)

    def totals(self) -> np.ndarray:
        """Sum of each row over the genes."""
        if self.genes is None:
            return _row_sums(self.matrix)
        chosen = np.float32(self._place >= 0)
        size = max(1, int(self.entries_at_once / max(1, self.mean_entries)))
        return np.concatenate([between(self.matrix, i, i + size) @ chosen for i in range(0, self.n_cells, size)])

    def _picked(self, rows: sp.csr_matrix) -> sp.csr_matrix:
        place = self._place[rows.indices]
        kept = place >= 0
        indptr = np.concatenate([[0], np.cumsum(kept)])[rows.indptr]
        return csr(rows.data[kept], place[kept], indptr, (rows.shape[0], self.n_genes))


@dataclass(frozen=True)
class DenseSource:
    """A matrix in memory, stored dense or sparse, whose rows are given as a dense array."""

    matrix: Any  # (cell, column) array, or CSR
    genes: np.ndarray | None = None

    entries_at_once = 2_000_000
    block = None

    @property
    def n_cells(self) -> int:
        return self.matrix.shape[0]

    @property
    def n_genes(self) -> int:
        return self.matrix.shape[1] if self.genes is None else len(self.genes)

    @property
    def mean_entries(self) -> float:
        return float(self.n_genes)

    def rows(self, index: np.ndarray) -> np.ndarray:
        return dense_columns(self.matrix[index], self.genes)

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        size = max(1, self.entries_at_once // max(1, self.n_genes))
        for start in range(0, self.n_cells, size):
            yield start, dense_columns(self.matrix[start : start + size], self.genes)

    def totals(self) -> np.ndarray:
        return np.concatenate([np.nansum(piece, 1) for _, piece in self.pieces()] or [np.zeros(0, np.float32)])


def dense_columns(rows: Any, genes: np.ndarray | None) -> np.ndarray:
    """`rows`, stored dense or sparse, as an array of float32 with the columns `genes`; NaN where there is none (-1)."""
    taken = rows.toarray() if sp.issparse(rows) else np.asarray(rows)
    if genes is None:
        return np.ascontiguousarray(taken, dtype=np.float32)
    found = taken[:, genes].astype(np.float32)
    found[:, genes < 0] = np.nan
    return found


def marks(source: Source) -> np.ndarray:
    """A number for each row, by which one tells whether a value or a place in it is another."""
    weights = np.random.default_rng(0).uniform(1, 2, source.n_genes)
    pieces = (source.rows(np.arange(i, min(i + 4096, source.n_cells))) for i in range(0, source.n_cells, 4096))
    found = [(np.nan_to_num(rows) if isinstance(rows, np.ndarray) else rows) @ weights for rows in pieces]
    return np.concatenate(found) if found else np.zeros(0)


def gathered(source: Source) -> Any:
    """All rows of `source` in memory: CSR of a sparse source, an array of a dense one."""
    return source.rows(np.arange(source.n_cells))


def in_memory(matrix, genes: np.ndarray | None = None) -> MemorySource:
    """A source over `matrix` (CSR, CSC, any scipy sparse, or dense), of the columns `genes` in their order."""
    if not sp.issparse(matrix):
        return MemorySource(from_dense(matrix, genes))
    matrix = canonical(matrix)
    if genes is None:
        return MemorySource(matrix)
    few = MemorySource(matrix, genes).entries < KEEP_WHOLE * matrix.nnz
    return MemorySource(_picked(matrix, genes)) if few else MemorySource(matrix, genes)


def canonical(matrix) -> sp.csr_matrix:
    """The matrix as CSR with each entry stored once, ascending; the same arrays where they are so already.

    Raises DataError for entries that lie outside of the matrix, as in a damaged file.
    """
    rows = matrix if matrix.format == "csr" else matrix.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy() if rows is matrix else rows
        rows.sum_duplicates()
    full = np.flatnonzero(np.diff(rows.indptr))
    first, last = rows.indices[rows.indptr[full]], rows.indices[rows.indptr[full + 1] - 1]
    if len(full) and not (first.min() >= 0 and last.max() < rows.shape[1]):
        raise DataError(f"entries lie outside of the {rows.shape[1]} columns", "the matrix is damaged: make it anew")
    return csr(rows.data, rows.indices, rows.indptr, rows.shape)


def from_dense(matrix, genes: np.ndarray | None = None) -> sp.csr_matrix:
    """A dense matrix, or columns of it, as CSR; made in pieces."""
    if np.iscomplexobj(matrix):
        raise DataError(f"the matrix holds {matrix.dtype} values, not real numbers", "make them float32")
    starts = range(0, matrix.shape[0], DENSE_PIECE)
    pieces = (np.asarray(matrix[i : i + DENSE_PIECE]) for i in starts)
    return joined([sp.csr_matrix(_zero_filled(part, genes), dtype=np.float32) for part in pieces])


def _zero_filled(rows: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
    """The columns `genes`, of zeros where there is none (-1)."""
    if genes is None:
        return rows
    taken = rows[:, genes]
    taken[:, genes < 0] = 0
    return taken


def _picked(matrix: sp.csr_matrix, genes: np.ndarray) -> sp.csr_matrix:
    """A copy of some columns, made in pieces so that little more than the copy is held."""
    whole = MemorySource(matrix, genes)
    size = max(1, int(4 * whole.entries_at_once / max(1, whole.mean_entries)))
    return joined([whole.rows(np.arange(i, min(i + size, whole.n_cells))) for i in range(0, whole.n_cells, size)])


def joined(pieces: list) -> sp.csr_matrix:
    """The rows of all pieces, one after the other."""
    rows = sp.vstack(pieces, format="csr")
    return csr(rows.data, rows.indices, rows.indptr, rows.shape)


def _row_sums(matrix: sp.csr_matrix) -> np.ndarray:
    """Sum of each row; float32 for float32, else float64."""
    kind = np.result_type(matrix.dtype, np.float32)
    full, out = np.flatnonzero(np.diff(matrix.indptr)), np.zeros(matrix.shape[0], kind)
    out[full] = np.add.reduceat(matrix.data[: matrix.indptr[-1]], matrix.indptr[full], dtype=kind)
    return out


def between(matrix: sp.csr_matrix, start: int, end: int) -> sp.csr_matrix:
    """Rows `start` to `end`, without a copy of their entries."""
    indptr = matrix.indptr[start : end + 1]
    entries = slice(indptr[0], indptr[-1])
    return csr(matrix.data[entries], matrix.indices[entries], indptr - indptr[0], (len(indptr) - 1, matrix.shape[1]))


def csr(values: np.ndarray, column: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    """A csr_matrix without scipy's checks, which read and may copy all arrays."""
    made = sp.csr_matrix(shape, dtype=values.dtype)
    made.data, made.indices, made.indptr = values, column, indptr
    return made


def reordered(values: Any, order: np.ndarray, sparse: bool) -> Any:
    """Rows of `values` in another order; of a row that is not there (-1) nothing is stored, or NaN if it is dense."""
    taken = values.tocsr()[order] if sp.issparse(values) else np.asarray(values)[order]
    absent = order < 0
    if not absent.any():
        return taken
    if sp.issparse(taken) and sparse:
        return sp.csr_matrix(sp.diags((~absent).astype(taken.dtype)) @ taken)
    dense = np.asarray(taken.toarray() if sp.issparse(taken) else taken, np.float32).copy()  # pyright: ignore[reportAttributeAccessIssue]
    dense[absent] = 0 if sparse else np.nan
    return dense
