"""Cells as concatenated token sequences of different lengths, and their minibatches."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.nn.memory import keep_freed_blocks

keep_freed_blocks()


@dataclass(frozen=True)
class Tokens:
    """The tokens of some cells, one cell after the other."""

    gene: Int[np.ndarray, " token"]
    value: Float[np.ndarray, " token"] | None  # value of each gene; None if the order encodes it
    indptr: Int[np.ndarray, " pointer"]
    index: Int[np.ndarray, " cell"]  # row of each cell in the data set

    @property
    def lengths(self) -> Int[np.ndarray, " cell"]:
        return np.diff(self.indptr)

    def between(self, start: int, stop: int) -> Tokens:
        """The cells from `start` to `stop`, without a copy."""
        indptr = self.indptr[start : stop + 1]
        taken = slice(indptr[0], indptr[-1])
        value = None if self.value is None else self.value[taken]
        return Tokens(self.gene[taken], value, indptr - indptr[0], self.index[start:stop])

    def batch(self, cells: Int[np.ndarray, " chosen"] | None = None, pad: int = 0) -> TokenBatch:
        """The cells (all, or those at `cells`), padded with token `pad` to the longest of them."""
        cells = np.arange(len(self.index)) if cells is None else cells
        lengths = self.lengths[cells]
        present = np.arange(lengths.max(initial=0)) < lengths[:, None]
        taken = ranges(self.indptr[cells], lengths)
        return TokenBatch(
            gene=torch.from_numpy(_padded(self.gene[taken], present, pad, np.int64)),
            padding=torch.from_numpy(~present),
            index=torch.from_numpy(self.index[cells]),
            value=None if self.value is None else torch.from_numpy(_padded(self.value[taken], present, 0, np.float32)),
        )


@runtime_checkable
class Tokenizer(Protocol):
    """Converts counts to tokens. Calling it makes a minibatch, so that it can be the loader's `make_batch`."""

    def tokens(self, rows: Rows) -> Tokens: ...

    def __call__(self, rows: Rows) -> TokenBatch: ...


@dataclass(frozen=True)
class WithCodes:
    """Makes minibatches with the label and batch of each cell, for training."""

    tokenizer: Tokenizer

    def __call__(self, rows: Rows) -> TokenBatch:
        label = None if rows.label is None else torch.from_numpy(rows.label)
        return replace(self.tokenizer(rows), label=label, batch=torch.from_numpy(rows.batch))


SMALL = 1 << 16  # minimum number of counts per thread


def piecewise(fill: Callable[[Rows, Tokens], np.ndarray], rows: Rows, room: Room, valued: bool) -> Tokens:
    """The tokens of all cells. `fill` writes those of some cells and returns the number of each.

    Uses several threads if there are many counts.
    """
    n = min(torch.get_num_threads(), max(1, len(rows.data) // SMALL))
    parts, at_most = pieces(rows, n), np.concatenate([[0], np.cumsum(room.of(np.diff(rows.indptr)))])
    value = np.empty(at_most[-1], np.float32) if valued else None
    made = Tokens(np.empty(at_most[-1], np.int32), value, at_most, rows.index)
    edges = np.cumsum([0, *(len(part.index) for part in parts)])
    places = [made.between(a, b) for a, b in pairwise(edges)]
    with ThreadPoolExecutor(n) as pool:
        lengths = list(pool.map(fill, parts, places) if n > 1 else map(fill, parts, places))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    gene, value = (None if a is None else _closed(a, at_most[edges], indptr[edges]) for a in (made.gene, made.value))
    return Tokens(gene, value, indptr, rows.index)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Room:
    """How many tokens a cell with so many counts may need: some more, at most so many."""

    more: int
    most: int | None = None
    least: int = 0  # if unexpressed genes also have tokens

    def of(self, n_counts: Int[np.ndarray, " cell"]) -> Int[np.ndarray, " cell"]:
        wanted = n_counts + self.least + self.more
        return wanted if self.most is None else np.minimum(wanted, self.most)


def _closed(array: np.ndarray, starts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Move the ranges that begin at `starts` together without gaps, in place."""
    view = memoryview(array)  # type: ignore[arg-type]
    for start, (begin, end) in zip(starts, pairwise(wanted), strict=False):
        view[begin:end] = view[start : start + end - begin]
    return array[: wanted[-1]]


def pieces(rows: Rows, n: int) -> list[Rows]:
    """The cells in at most `n` groups with about as many counts each, without a copy of the counts."""
    edges = np.searchsorted(rows.indptr, np.linspace(0, rows.indptr[-1], n + 1)[1:-1])
    return [_between(rows, a, b) for a, b in pairwise(np.unique([0, *edges, len(rows.index)]))]


def _between(rows: Rows, start: int, stop: int) -> Rows:
    indptr, cells = rows.indptr[start : stop + 1], slice(start, stop)
    entries = slice(indptr[0], indptr[-1])
    counts = rows.data[entries], rows.indices[entries], indptr - indptr[0]
    return Rows(*counts, rows.n_genes, rows.index[cells], rows.batch[cells])


def joined(parts: list[Tokens]) -> Tokens:
    """The cells of all parts, one after the other."""
    lengths = np.concatenate([part.lengths for part in parts])
    values = [part.value for part in parts if part.value is not None]
    return Tokens(
        gene=np.concatenate([part.gene for part in parts]),
        value=np.concatenate(values) if values else None,
        indptr=np.concatenate([[0], np.cumsum(lengths)]),
        index=np.concatenate([part.index for part in parts]),
    )


def summed(rows: Rows, token: Int[np.ndarray, " gene"]) -> tuple[Rows, Int[np.ndarray, " gene"]]:
    """Sum the counts of genes that share a token: rows over tokens, and the token of each column."""
    n_tokens = int(token.max(initial=0)) + 1
    known = token[rows.indices] >= 0
    indptr = np.concatenate([[0], np.cumsum(known)])[rows.indptr]
    arrays = rows.data[known], token[rows.indices[known]], indptr
    matrix = sp.csr_matrix(arrays, shape=(len(rows.index), n_tokens))
    matrix.sum_duplicates()
    made = Rows(matrix.data, matrix.indices, matrix.indptr, n_tokens, rows.index, rows.batch)
    return made, np.arange(n_tokens)


def ranges(starts: Int[np.ndarray, " range"], lengths: Int[np.ndarray, " range"]) -> Int[np.ndarray, " place"]:
    """Concatenated ranges from each start: ranges([5, 0], [2, 3]) is [5, 6, 0, 1, 2]."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def _padded(flat: np.ndarray, present: np.ndarray, fill: float, dtype: type) -> np.ndarray:
    out = np.full(present.shape, fill, dtype)
    out[present] = flat
    return out
