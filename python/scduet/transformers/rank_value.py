"""Geneformer's tokens: a cell is its genes in the order of their counts, each divided by the gene's usual count.

Theodoris et al., Nature 2023. The usual count is the median over the cells of the pre-training corpus that express the
gene. The total of the cell divides all its genes alike, so it does not change their order and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.transformers.tokens import Tokens, framed, piecewise, ranges, sort_rows, summed, sums


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
        given, token, usual = rows, self.token, self._usual
        if self.repeated:
            rows, token = summed(rows, self.token)
            usual = self.median
        value = rows.values / usual[rows.column]
        order = descending(value, rows.pointer) if self.ties == "stable" else _as_official(rows, usual, given)
        room = self.length - (self.cls is not None) - (self.eos is not None)
        known = np.diff(np.concatenate([[0], np.cumsum(value > 0)])[rows.pointer])
        kept = np.minimum(known, room)  # genes that are not known have value 0 and come last
        ranked = token[rows.column[order[ranges(rows.pointer[:-1], kept)]]]
        pointer = np.concatenate([[0], np.cumsum(kept)])
        genes = framed(ranked, pointer, _array(self.cls), _array(self.eos))
        return Tokens(genes, None, pointer + (self.length - room) * np.arange(len(pointer)), rows.index)

    @cached_property
    def _usual(self) -> Float[np.ndarray, " gene"]:
        """Usual count of each gene of the data; infinite for those without a token."""
        return np.where(self.token >= 0, self.median[self.token], np.inf)


def descending(value: Float[np.ndarray, " entry"], pointer: Int[np.ndarray, " row+1"]) -> Int[np.ndarray, " entry"]:
    """Positions that sort each row of numbers >= 0 from large to small; equal ones keep their order.

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


def _as_official(rows: Rows, usual: np.ndarray, given: Rows) -> Int[np.ndarray, " entry"]:
    """The order that the official code's arithmetic and sort give."""
    total = sums(given.values, given.pointer)
    factor = np.repeat(1 / np.maximum(total, 1), np.diff(rows.pointer))
    scaled = rows.values * factor * 10_000 * (1 / usual[rows.column])
    order = []
    for a, b in pairwise(rows.pointer):
        known, rest = a + np.flatnonzero(scaled[a:b] > 0), a + np.flatnonzero(scaled[a:b] <= 0)
        order += [known[np.argsort(-scaled[known])], rest]
    return np.concatenate(order)


def _array(token: int | None) -> np.ndarray | None:
    return None if token is None else np.array(token)
