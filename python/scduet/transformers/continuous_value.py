"""scFoundation's tokens: the expressed genes with their log-normalised counts, then two tokens on read depth.

Hao et al., Nature Methods 2024. The last two tokens are T, the depth that is wished for, and S, the depth that the cell
has, both as log10 of a total count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.transformers.tokens import Tokens, framed, known, piecewise, sums


@dataclass(frozen=True)
class DepthTokenizer:
    """Log-normalised counts of the expressed genes, then T and S."""

    token: Int[np.ndarray, " gene"]  # of each gene of the data, -1 for none
    n_genes: int = 19_264  # T has this number, S the next
    depth: Literal["total", "fold", "add"] = (
        "total"  # how `amount` gives T: log10, times the total, on top of its log10
    )
    amount: float = 4.0
    repeated: bool = False  # several genes of the data share a token
    pad: int = 0

    def tokens(self, rows: Rows) -> Tokens:
        return piecewise(self._piece, rows)

    def __call__(self, rows: Rows) -> TokenBatch:
        return self.tokens(rows).batch(pad=self.pad)

    def _piece(self, rows: Rows) -> Tokens:
        gene, value, pointer = known(rows, self.token, self.repeated)
        total, lengths = sums(value, pointer), np.diff(pointer)
        with np.errstate(divide="ignore"):  # a cell without counts, which the caller refuses
            held = np.log10(total)
        wished = {
            "total": np.full_like(held, self.amount),
            "fold": held + np.log10(self.amount),
            "add": held + self.amount,
        }
        values = np.log1p(value / np.repeat(total, lengths) * 1e4).astype(np.float32)
        for extra, number in ((self.n_genes, wished[self.depth]), (self.n_genes + 1, held)):
            values = framed(values, pointer, None, number.astype(np.float32))
            gene = framed(gene, pointer, None, np.array(extra))
            pointer = pointer + np.arange(len(pointer))
        return Tokens(gene, values, pointer, rows.index)
