"""scFoundation's tokens: the expressed genes with their log-normalized counts, then two tokens on read depth.

Hao et al., Nature Methods 2024. The last two tokens are T, the target depth, and S, the depth of the cell, both as
log10 of a total count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Int

from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.nn.kernels.tokens import log_normalize
from scduet.transformers.tokenizers.tokens import Room, Tokens, piecewise, summed


@dataclass(frozen=True)
class DepthTokenizer:
    """Log-normalized counts of the expressed genes, then T and S."""

    token: Int[np.ndarray, " gene"]  # of each gene of the data, -1 for none
    n_genes: int = 19_264  # T has this number, S the next
    depth: Literal["total", "fold", "add"] = (
        "total"  # how `amount` gives T: log10, times the total, on top of its log10
    )
    amount: float = 4.0
    repeated: bool = False  # several genes of the data share a token
    pad: int = 0

    def tokens(self, rows: Rows) -> Tokens:
        rows, token = summed(rows, self.token) if self.repeated else (rows, self.token)
        return piecewise(partial(self._fill, token=token), rows, Room(more=2), valued=True)

    def __call__(self, rows: Rows) -> TokenBatch:
        return self.tokens(rows).batch(pad=self.pad)

    def _fill(self, rows: Rows, made: Tokens, token: np.ndarray) -> np.ndarray:
        counts, depths = (rows.data, rows.indices, rows.indptr), (self.n_genes, self.n_genes + 1)
        lengths, total = log_normalize(*counts, token, depths, made.gene, made.value)
        with np.errstate(divide="ignore"):  # a cell without counts, which the caller rejects
            held = np.log10(total)
        wished = {
            "total": np.full_like(held, self.amount),
            "fold": held + np.log10(self.amount),
            "add": held + self.amount,
        }
        ends = np.cumsum(lengths)
        assert made.value is not None
        made.value[ends - 2], made.value[ends - 1] = wished[self.depth], held
        return lengths
