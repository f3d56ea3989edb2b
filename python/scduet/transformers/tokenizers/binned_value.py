"""scGPT's tokens: genes in any order, each with the bin of its count among the counts of the cell.

Cui et al., Nature Methods 2024. The 50 edges of the bins are quantiles of the cell's non-zero counts. Most counts are 1
and equal many edges; the official code assigns one of these bins at random, so that its embeddings differ between runs.
Here the choice is a deterministic function of (seed, cell, gene).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Int, Integer

from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.nn.kernels.tokens import bin_counts
from scduet.transformers.tokenizers.tokens import Room, Tokens, piecewise, summed


@dataclass(frozen=True)
class BinTokenizer:
    """Binned values after a `<cls>` token. Cells that are too long keep a random subset of their genes."""

    token: Int[np.ndarray, " gene"]  # of each gene of the data, -1 for none
    cell: Integer[np.ndarray, " cell"]  # a number for each cell of the data set, from its name: its own random draws
    cls: int
    pad: int
    cls_value: float = -2.0
    length: int = 1200  # most tokens, `<cls>` included
    n_bins: int = 51
    ties: Literal["random", "midpoint"] = "random"
    seed: int = 0
    repeated: bool = False  # several genes of the data share a token
    zeros: bool = False  # genes without counts have tokens, too, after the others

    def tokens(self, rows: Rows) -> Tokens:
        rows, token = summed(rows, self.token) if self.repeated else (rows, self.token)
        others = np.unique(token[token >= 0]) if self.zeros else np.empty(0, token.dtype)
        room = Room(more=1, most=self.length, least=len(others))
        return piecewise(partial(self._fill, token=token, others=others), rows, room, valued=True)

    def __call__(self, rows: Rows) -> TokenBatch:
        return self.tokens(rows).batch(pad=self.pad)

    def _fill(self, rows: Rows, made: Tokens, token: np.ndarray, others: np.ndarray) -> np.ndarray:
        counts, draws = (rows.data, rows.indices, rows.indptr), (self.ties == "random", self.seed)
        edges, first = np.linspace(0, 1, self.n_bins - 1), (self.cls, np.float32(self.cls_value))
        given = (*counts, token, others, self.cell[rows.index], draws, edges)
        return bin_counts(*given, first, np.diff(made.indptr), made.gene, made.value)
