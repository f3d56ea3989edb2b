"""Cells as sequences of tokens of different lengths, end to end; and the minibatch that a module takes."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

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


def known_entries(
    rows: Rows, token: Int[np.ndarray, " gene"], repeated: bool = False
) -> tuple[Int[np.ndarray, " entry"], Float[np.ndarray, " entry"], Int[np.ndarray, " cell+1"]]:
    """Token, count and row pointer of the positive counts whose gene has a token (-1: none).

    repeated: several genes share a token; their counts are added.
    """
    gene = token[rows.column]
    kept = (gene >= 0) & (rows.values > 0)
    if not kept.all():
        pointer = np.concatenate([[0], np.cumsum(kept)])[rows.pointer]
        gene, values = gene[kept], rows.values[kept]
    else:
        values, pointer = rows.values, rows.pointer
    if repeated:
        matrix = sp.csr_matrix((values, gene, pointer), shape=(len(rows.index), int(token.max()) + 1))
        matrix.sum_duplicates()
        return matrix.indices, matrix.data, matrix.indptr
    return gene, values, pointer


def ranges(starts: Int[np.ndarray, " range"], lengths: Int[np.ndarray, " range"]) -> Int[np.ndarray, " place"]:
    """The numbers from each start on, end to end: ranges([5, 0], [2, 3]) is [5, 6, 0, 1, 2]."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def framed(
    values: np.ndarray, pointer: Int[np.ndarray, " cell+1"], before: np.ndarray | None, after: np.ndarray | None
) -> np.ndarray:
    """Each cell's values with one more before and (or) after them."""
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
