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

from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.transformers.tokens import Tokens, framed, known_entries, ranges, sums

_PLACE_BITS = 16  # of a sort key; the rest are the leading bits of the value


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
        gene, value, pointer = known_entries(rows, self.token, self.repeated)
        order = self._order(gene, value, pointer, rows)
        room = self.length - (self.cls is not None) - (self.eos is not None)
        kept = np.minimum(np.diff(pointer), room)
        ranked = gene[order[ranges(pointer[:-1], kept)]]
        pointer = np.concatenate([[0], np.cumsum(kept)])
        framed_genes = framed(ranked, pointer, _all(self.cls), _all(self.eos))
        special = self.length - room
        return Tokens(framed_genes, None, pointer + special * np.arange(len(pointer)), rows.index)

    def __call__(self, rows: Rows) -> TokenBatch:
        return self.tokens(rows).batch(pad=self.pad)

    def _order(self, gene: np.ndarray, value: np.ndarray, pointer: np.ndarray, rows: Rows) -> np.ndarray:
        if self.ties == "stable":
            return descending(value.astype(np.float64) / self.median[gene], pointer)
        total = sums(rows.values, rows.pointer)
        scaled = value * np.repeat(1 / total, np.diff(pointer)) * 10_000 * (1 / self.median[gene])
        return np.concatenate([a + np.argsort(-scaled[a:b]) for a, b in pairwise(pointer)])


def descending(value: Float[np.ndarray, " entry"], pointer: Int[np.ndarray, " row+1"]) -> Int[np.ndarray, " entry"]:
    """Positions that sort each row of positive numbers from large to small; equal ones keep their order.

    A key holds the leading bits of a value and, in its last 16 bits, the place in the row: plain integers, which numpy
    sorts with vector instructions. A row that these bits did not tell apart (1 in 10 million neighbours) is done again.
    """
    lengths = np.diff(pointer)
    if lengths.max(initial=0) >= 1 << _PLACE_BITS:
        return np.lexsort((-value, np.repeat(np.arange(len(lengths)), lengths)))
    first = np.repeat(pointer[:-1].astype(np.int64), lengths)
    low = np.uint64((1 << _PLACE_BITS) - 1)
    key = ~value.view(np.uint64) & ~low | (np.arange(len(value)) - first).astype(np.uint64)
    bounds = pointer.tolist()
    for a, b in pairwise(bounds):
        key[a:b].sort()
    order = (key & low).astype(np.int64) + first
    arranged = value[order]
    wrong = np.flatnonzero((arranged[1:] > arranged[:-1]) & (first[1:] == first[:-1]))
    for row in np.unique(np.searchsorted(pointer, wrong, side="right") - 1):
        a, b = bounds[row], bounds[row + 1]
        order[a:b] = a + np.argsort(-value[a:b], kind="stable")
    return order


def _all(token: int | None) -> np.ndarray | None:
    return None if token is None else np.array(token)
