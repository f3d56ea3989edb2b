"""The vocabulary of a checkpoint, and matching of the user's genes to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from scduet.errors import DataError, some

Identifiers = Literal["symbol", "ensembl"]
MIN_SHARE = 0.5  # of the counts of the data that must be on known genes
_ENSEMBL = re.compile(r"^(ENS[A-Z]*G\d{11})(\.\d+)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Vocabulary:
    """Genes and tokens of a checkpoint; the number of rows verifies that they belong together."""

    token: Mapping[str, int]  # gene -> token
    identifiers: Identifiers
    special: Mapping[str, int] = field(default_factory=dict)  # "<pad>", "<cls>", ... -> token
    median: Mapping[str, float] | None = None  # median count of each gene, if the family ranks by it
    alias: Mapping[str, str] = field(default_factory=dict)  # alias of a gene -> its name here

    def __len__(self) -> int:
        return len(self.token) + len(self.special)

    def tokens(self, names) -> Int[np.ndarray, " name"]:
        """Token of each name, -1 for an unknown one. Ensembl ids may be in lower case and have a version (".12")."""
        bare = pd.Index(names).astype(str).str.replace(_ENSEMBL, lambda found: found[1].upper(), regex=True)
        found = bare.map(self.token)
        missing = np.asarray(found.isna())
        if missing.any() and self.alias:
            other = bare[missing].map(self.alias)
            found = found.to_numpy(dtype=float, copy=True)
            found[missing] = other.map(self.token).to_numpy(dtype=float)
        return np.nan_to_num(np.asarray(found, dtype=float), nan=-1).astype(np.int64)

    def medians(self, n_tokens: int) -> Float[np.ndarray, " token"]:
        """Median count of each token; 1 if there is none."""
        out = np.ones(n_tokens)
        for gene, median in (self.median or {}).items():
            out[self.token[gene]] = median
        return out

    def match(
        self,
        columns: Mapping[str, pd.Index],
        totals: Float[np.ndarray, " gene"],
        min_share: float = MIN_SHARE,
    ) -> Match:
        """Match the data's genes.

        columns: candidate names (var_names, columns of var); uses those with most counts on known genes.
        totals: sum of each gene's counts.

        Raises DataError if less than `min_share` of the counts are on known genes.
        """
        matches = [Match.of(place, names, self.tokens(names), totals) for place, names in columns.items()]
        best = max(matches, key=lambda match: (match.share, match.n_found))
        if best.n_found == 0 or best.share < min_share:
            raise DataError(f"{best}, less than the required {min_share:.0%}", self._advice(columns))
        return best

    def _advice(self, columns: Mapping[str, pd.Index]) -> str:
        names = pd.Index(np.concatenate([np.asarray(names, dtype=object) for names in columns.values()])).astype(str)
        share = {kind: float(names.str.match(pattern).mean()) for kind, pattern in _LOOKS.items()}
        kind = max(share, key=share.__getitem__) if share and max(share.values()) > 0.4 else "other"
        example = some(list(self.token)[:400:100])
        return f"{_ADVICE[kind][self.identifiers]}. The checkpoint uses names like {example}"


@dataclass(frozen=True)
class Match:
    """The data's genes that are in the vocabulary of a checkpoint."""

    place: str  # where the names were found: "var_names" or a column of var
    token: Int[np.ndarray, " gene"]  # of each gene of the data, -1 for unknown
    n_found: int
    share: float  # of the counts
    repeated: bool  # several genes of the data share a token: their counts are added

    @classmethod
    def of(cls, place: str, names, token: np.ndarray, totals: np.ndarray) -> Match:
        known = token >= 0
        share = float(totals[known].sum() / max(totals.sum(), 1e-12))
        return cls(place, token, int(known.sum()), share, len(np.unique(token[known])) < known.sum())

    def __str__(self) -> str:
        found = f"{self.n_found:,} of {len(self.token):,} genes ({self.place}) are known to the checkpoint"
        return f"{found}, with {self.share:.0%} of the counts"


_LOOKS = {  # what names look like -> pattern
    "mouse": r"ENSMUSG\d+|[A-Z][a-z]+\d*[a-z]*\d*$",
    "ensembl": r"ENSG\d+",
    "symbol": r"[A-Z][A-Z0-9-]*$",
    "number": r"\d+$",
}
_HUMAN = "the checkpoint was trained on human cells: translate to human orthologs first"
_ADVICE: dict[str, dict[str, str]] = {
    "mouse": dict.fromkeys(("symbol", "ensembl"), f"these look like mouse genes; {_HUMAN}"),
    "ensembl": {
        "symbol": "these look like Ensembl ids, and the checkpoint needs symbols: put them in a column of var",
        "ensembl": "few of these Ensembl ids are known: are they ids of human genes?",
    },
    "symbol": {
        "symbol": "few of these symbols are known: are they human, and up to date?",
        "ensembl": "these look like symbols, and the checkpoint needs Ensembl ids: put them in a column of var",
    },
    "number": dict.fromkeys(("symbol", "ensembl"), "these are numbers: put the names of the genes in var"),
    "other": dict.fromkeys(("symbol", "ensembl"), "these are not names of human genes"),
}
