"""Geneformer's tokens: the genes of a cell ranked by their counts relative to the gene's median count.

Theodoris et al., Nature 2023. The median is taken over the cells of the pre-training corpus that express the gene. The
total of the cell does not change the order of its genes and is omitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.nn.kernels.tokens import rank_genes
from scduet.transformers.tokenizers.tokens import Room, Tokens, piecewise, summed


@dataclass(frozen=True)
class RankTokenizer:
    """Rank-value encoding. Equal values keep the order of the genes in the data (`ties="stable"`); "reference" sorts
    as the official code does, whose order of equal values depends on the processor."""

    token: Int[np.ndarray, " gene"]  # of each gene of the data, -1 for none
    median: Float[np.ndarray, " token"]  # median count of each token
    length: int = 2048  # most tokens, special ones included
    cls: int | None = None  # token put first
    eos: int | None = None  # token put last
    pad: int = 0
    repeated: bool = False  # several genes of the data share a token
    ties: Literal["stable", "reference"] = "stable"

    def tokens(self, rows: Rows) -> Tokens:
        counts, token = summed(rows, self.token) if self.repeated else (rows, self.token)
        # relative to an infinite median every count is 0: genes without a token are not expressed
        usual = np.where(token >= 0, self.median[token], np.inf)
        if self.ties == "reference":
            counts, usual = _as_official(counts, usual, rows.counts.sum(1).A1), np.where(token >= 0, 1.0, np.inf)
        specials = np.array([-1 if special is None else special for special in (self.cls, self.eos)])
        room = Room(more=int((specials >= 0).sum()), most=self.length)
        return piecewise(partial(_fill, token=token, usual=usual, specials=specials), counts, room, valued=False)

    def __call__(self, rows: Rows) -> TokenBatch:
        return self.tokens(rows).batch(pad=self.pad)


def _fill(rows: Rows, made: Tokens, token: np.ndarray, usual: np.ndarray, specials: np.ndarray) -> np.ndarray:
    return rank_genes(rows.data, rows.indices, rows.indptr, token, usual, specials, np.diff(made.indptr), made.gene)


def _as_official(rows: Rows, usual: Float[np.ndarray, " gene"], total: Float[np.ndarray, " cell"]) -> Rows:
    """Numbers that replace the counts and have the order given by the official code's arithmetic and sort."""
    factor = np.repeat(1 / np.maximum(total, 1), np.diff(rows.indptr))
    scaled = rows.data * factor * 10_000 * (1 / usual[rows.indices])
    known, numbers = np.flatnonzero(scaled > 0), np.zeros(len(scaled), np.float32)
    for a, b in pairwise(np.searchsorted(known, rows.indptr)):
        numbers[known[a:b][np.argsort(-scaled[known[a:b]])]] = np.arange(b - a, 0, -1)
    return replace(rows, data=numbers)
