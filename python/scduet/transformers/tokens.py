"""Cells as sequences of tokens of different lengths, end to end; and the minibatch that a module takes."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from scduet._numba import compiled
from scduet.contract import TokenBatch
from scduet.data.loader import Rows


@dataclass(frozen=True)
class Tokens:
    """The tokens of some cells, one cell after the other."""

    gene: Int[np.ndarray, " token"]
    value: Float[np.ndarray, " token"] | None  # what the family puts beside a gene; None if the order says it
    pointer: Int[np.ndarray, " cell+1"]
    index: Int[np.ndarray, " cell"]  # row of each cell in the data set

    @property
    def lengths(self) -> Int[np.ndarray, " cell"]:
        return np.diff(self.pointer)

    def batch(self, cells: Int[np.ndarray, " chosen"] | None = None, pad: int = 0) -> TokenBatch:
        """The cells (all, or those at `cells`), padded with token `pad` to the longest of them."""
        cells = np.arange(len(self.index)) if cells is None else cells
        lengths = self.lengths[cells]
        present = np.arange(lengths.max(initial=0)) < lengths[:, None]
        taken = ranges(self.pointer[cells], lengths)
        return TokenBatch(
            gene=torch.from_numpy(_padded(self.gene[taken], present, pad, np.int64)),
            padding=torch.from_numpy(~present),
            index=torch.from_numpy(self.index[cells]),
            value=None if self.value is None else torch.from_numpy(_padded(self.value[taken], present, 0, np.float32)),
        )


class Tokenizer(Protocol):
    """A way from counts to tokens. Calling it makes a minibatch, so that it serves the loader as `make_batch`."""

    def tokens(self, rows: Rows) -> Tokens: ...

    def __call__(self, rows: Rows) -> TokenBatch: ...


@dataclass(frozen=True)
class WithCodes:
    """Makes minibatches that also say the label and the batch of each cell, for training."""

    tokenizer: Tokenizer

    def __call__(self, rows: Rows) -> TokenBatch:
        label = None if rows.label is None else torch.from_numpy(rows.label)
        return replace(self.tokenizer(rows), label=label, batch=torch.from_numpy(rows.batch))


SMALL = 1 << 16  # entries of a piece: they fit into the processor's cache, and 16 bits number them


def pieces(rows: Rows) -> Iterator[Rows]:
    """The cells in groups with at most `SMALL` stored counts (or of one cell), without a copy of the counts."""
    start, pointer = 0, rows.pointer
    while start < len(rows.index):
        stop = max(start + 1, int(np.searchsorted(pointer, pointer[start] + SMALL, side="right")) - 1)
        entries = slice(pointer[start], pointer[stop])
        cells = slice(start, stop)
        inner = pointer[start : stop + 1] - pointer[start]
        yield Rows(
            rows.values[entries], rows.column[entries], inner, rows.n_genes, rows.index[cells], rows.batch[cells]
        )
        start = stop


def piecewise(function: Callable[[Rows], Tokens], rows: Rows) -> Tokens:
    """The tokens of all cells, made piece by piece by several threads (numpy lets them run at once)."""
    parts = list(pieces(rows))
    if len(parts) < 2 or torch.get_num_threads() == 1:
        return joined([function(part) for part in parts])
    with ThreadPoolExecutor(min(len(parts), torch.get_num_threads())) as pool:
        return joined(list(pool.map(function, parts)))


def joined(parts: list[Tokens]) -> Tokens:
    """The cells of all parts, one after the other."""
    lengths = np.concatenate([part.lengths for part in parts])
    values = [part.value for part in parts if part.value is not None]
    return Tokens(
        gene=np.concatenate([part.gene for part in parts]),
        value=np.concatenate(values) if values else None,
        pointer=np.concatenate([[0], np.cumsum(lengths)]),
        index=np.concatenate([part.index for part in parts]),
    )


@compiled()
def known_entries(values, column, pointer, token):
    """Token, count and row pointer of the positive counts whose gene has a token (-1: none)."""
    gene, value = np.empty(len(values), np.int64), np.empty(len(values), np.float32)
    kept, n = np.zeros(len(pointer), np.int64), 0
    for row in range(len(pointer) - 1):
        for entry in range(pointer[row], pointer[row + 1]):
            known = token[column[entry]]
            if known >= 0 and values[entry] > 0:
                gene[n], value[n] = known, values[entry]
                n += 1
        kept[row + 1] = n
    return gene[:n], value[:n], kept


def known(
    rows: Rows, token: Int[np.ndarray, " gene"], repeated: bool
) -> tuple[Int[np.ndarray, " entry"], Float[np.ndarray, " entry"], Int[np.ndarray, " cell+1"]]:
    """The same of `rows`; the counts of genes that share a token (`repeated`) are added up."""
    rows, token = summed(rows, token) if repeated else (rows, token)
    return known_entries(rows.values, rows.column, rows.pointer, token)


def summed(rows: Rows, token: Int[np.ndarray, " gene"]) -> tuple[Rows, Int[np.ndarray, " gene"]]:
    """The counts of genes that share a token added up: rows over tokens, and the token of each of their columns."""
    n_tokens = int(token.max(initial=0)) + 1
    known = token[rows.column] >= 0
    pointer = np.concatenate([[0], np.cumsum(known)])[rows.pointer]
    arrays = rows.values[known], token[rows.column[known]], pointer
    matrix = sp.csr_matrix(arrays, shape=(len(rows.index), n_tokens))
    matrix.sum_duplicates()
    made = Rows(matrix.data, matrix.indices, matrix.indptr, n_tokens, rows.index, rows.batch)
    return made, np.arange(n_tokens)


def sort_rows(key: Int[np.ndarray, " entry"], pointer: Int[np.ndarray, " row+1"]) -> Int[np.ndarray, " entry"]:
    """Positions that sort each row by the leading 48 bits of `key` (uint64, used up); equal ones keep their order.

    The last 16 bits become the place of an entry, so that sorting moves plain integers, which numpy does with vector
    instructions, many times faster than `argsort`. There must be at most `SMALL` entries, or one row.
    """
    if len(key) > SMALL:
        return np.lexsort((key, np.repeat(np.arange(len(pointer) - 1), np.diff(pointer))))
    key &= np.uint64(0xFFFF_FFFF_FFFF_0000)
    key |= _PLACES[: len(key)]
    bounds = pointer.tolist()
    for a, b in pairwise(bounds):
        key[a:b].sort()
    key &= np.uint64(0xFFFF)
    return key.view(np.int64)


_PLACES = np.arange(SMALL, dtype=np.uint64)


def ranges(starts: Int[np.ndarray, " range"], lengths: Int[np.ndarray, " range"]) -> Int[np.ndarray, " place"]:
    """The numbers from each start on, end to end: ranges([5, 0], [2, 3]) is [5, 6, 0, 1, 2]."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def framed(
    values: np.ndarray, pointer: Int[np.ndarray, " cell+1"], before: np.ndarray | None, after: np.ndarray | None
) -> np.ndarray:
    """Each cell's values with one more before and (or) after them."""
    if before is None and after is None:
        return values[pointer[0] : pointer[-1]]
    lengths = np.diff(pointer)
    extra = (before is not None) + (after is not None)
    new = np.concatenate([[0], np.cumsum(lengths + extra)])
    out = np.empty(new[-1], values.dtype)
    out[ranges(new[:-1] + (before is not None), lengths)] = values[pointer[0] : pointer[-1]]
    if before is not None:
        out[new[:-1]] = before
    if after is not None:
        out[new[1:] - 1] = after
    return out


def sums(value: Float[np.ndarray, " entry"], pointer: Int[np.ndarray, " row+1"]) -> Float[np.ndarray, " row"]:
    """Sum of each row; 0 where it is empty."""
    running = np.concatenate([[0.0], np.cumsum(value, dtype=np.float64)])
    return running[pointer[1:]] - running[pointer[:-1]]


def _padded(flat: np.ndarray, present: np.ndarray, fill: float, dtype: type) -> np.ndarray:
    out = np.full(present.shape, fill, dtype)
    out[present] = flat
    return out
