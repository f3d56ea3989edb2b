"""Tokens of cells with several modalities: one sequence, the values of each modality in bins of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.transformers.tokenizers.binned_value import BinTokenizer
from scduet.transformers.tokenizers.tokens import Tokens, joined, ranges


@dataclass(frozen=True)
class ByModality:
    """`<cls>`, then the tokens of each modality. A cell without a modality has none of it.

    Where all columns are more than there is room for, each modality has a share of the room by its columns.
    """

    tokenizer: BinTokenizer  # of all columns
    modality: Int[np.ndarray, " column"]

    def tokens(self, rows: Rows) -> Tokens:
        parts = [part.tokens(rows) for part in self._parts()]
        if len(parts) == 1:
            return parts[0]
        every, n = joined(parts), len(rows.index)
        lengths = np.concatenate([part.lengths for part in parts])
        kept = np.where(np.arange(len(lengths)) < n, lengths, lengths - 1)  # of the later ones without their <cls>
        starts = every.indptr[:-1] + (lengths - kept)
        order = np.argsort(np.tile(np.arange(n), len(parts)), kind="stable")  # cell by cell
        places = ranges(starts[order], kept[order])
        assert every.value is not None
        indptr = np.concatenate([[0], np.cumsum(kept.reshape(len(parts), n).sum(0))])
        return Tokens(every.gene[places], every.value[places], indptr, rows.index)

    def __call__(self, rows: Rows) -> TokenBatch:
        return self.tokens(rows).batch(pad=self.tokenizer.pad)

    def _parts(self) -> list[BinTokenizer]:
        known = self.tokenizer.token >= 0
        each = [known & (self.modality == code) for code in np.unique(self.modality[known])]
        room, total = self.tokenizer.length - 1, int(known.sum())
        found = []
        for there in each:
            token, n = np.where(there, self.tokenizer.token, -1), int(there.sum())
            length = 1 + (n if total <= room else max(room * n // total, 1))
            found.append(replace(self.tokenizer, token=token, length=max(length, 2)))
        return found
