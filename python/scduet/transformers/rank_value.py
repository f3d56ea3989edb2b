"""Geneformer's tokens: a cell is its genes in the order of their counts, each divided by the gene's usual count.

Theodoris et al., Nature 2023. The usual count is the median over the cells of the pre-training corpus that express the
gene. The total of the cell divides all its genes alike, so it does not change their order and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from scduet._numba import compiled
from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.transformers.tokens import Tokens, known, piecewise, sort_rows, sums


@dataclass(frozen=True)
class RankTokenizer:
    """Rank-value encoding. Equal values keep the order of the genes in the data (`ties="stable"`); "reference" sorts
    as the official code does, whose order of equal values depends on the processor."""

    token: Int[np.ndarray, " gene"]  # of each gene of the data, -1 for none
    median: Float[np.ndarray, " token"]  # usual count of each token
    length: int = 2048  # most tokens, special ones included
    cls: int | None = None  # token put first
    eos: int | None = None  # token put last
    pad: int = 0
    repeated: bool = False  # several genes of the data share a token
    ties: Literal["stable", "reference"] = "stable"

    def tokens(self, rows: Rows) -> Tokens:
        return piecewise(self._piece, rows)

    def __call__(self, rows: Rows) -> TokenBatch:
        return self.tokens(rows).batch(pad=self.pad)

    def _piece(self, rows: Rows) -> Tokens:
        gene, value, pointer = known(rows, self.token, self.repeated)
        if self.ties == "stable":
            order = descending(_relative(value, gene, self.median), pointer)
        else:
            order = _as_official(value, gene, pointer, self.median, sums(rows.values, rows.pointer))
        specials = np.array([-1 if token is None else token for token in (self.cls, self.eos)])
        genes, pointer = _framed(gene, order, pointer, self.length, specials)
        return Tokens(genes, None, pointer, rows.index)


@compiled()
def _relative(value, gene, median):
    """Each count over the usual count of its gene."""
    out = np.empty(len(value))
    for i in range(len(value)):
        out[i] = value[i] / median[gene[i]]
    return out


@compiled()
def _framed(gene, order, pointer, length, specials):
    """The first genes of each row in their order, after the first of `specials` and before the second (-1: none)."""
    frame = (specials[0] >= 0) + (specials[1] >= 0)
    out = np.empty(len(gene) + frame * len(pointer), np.int64)
    new, n = np.zeros(len(pointer), np.int64), 0
    for row in range(len(pointer) - 1):
        if specials[0] >= 0:
            out[n] = specials[0]
            n += 1
        for place in range(pointer[row], min(pointer[row + 1], pointer[row] + length - frame)):
            out[n] = gene[order[place]]
            n += 1
        if specials[1] >= 0:
            out[n] = specials[1]
            n += 1
        new[row + 1] = n
    return out[:n], new


def descending(value: Float[np.ndarray, " entry"], pointer: Int[np.ndarray, " row+1"]) -> Int[np.ndarray, " entry"]:
    """Positions that sort each row of positive numbers from large to small; equal ones keep their order.

    The sort sees the leading 48 bits of a number. A row that these did not tell apart (about 1 in 10 million
    neighbours) is sorted again.
    """
    order = sort_rows(~value.view(np.uint64), pointer)
    arranged = value[order]
    rises = np.flatnonzero(arranged[1:] > arranged[:-1]) + 1
    for row in np.unique(np.searchsorted(pointer, np.setdiff1d(rises, pointer), side="right") - 1):
        a, b = pointer[row], pointer[row + 1]
        order[a:b] = a + np.argsort(-value[a:b], kind="stable")
    return order


def _as_official(
    value: np.ndarray, gene: np.ndarray, pointer: np.ndarray, median: np.ndarray, total: np.ndarray
) -> Int[np.ndarray, " entry"]:
    """The order that the official code's arithmetic and sort give."""
    factor = np.repeat(1 / np.maximum(total, 1), np.diff(pointer))
    scaled = value * factor * 10_000 * (1 / median[gene])
    return np.concatenate([a + np.argsort(-scaled[a:b]) for a, b in pairwise(pointer)])
