"""What `deconvolve` and `deconvolve_bulk` give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float

from scduet.errors import OptionError, some


@dataclass(frozen=True)
class Fit:
    """Mixtures as amounts of profiles, over all genes that they share with the reference."""

    counts: sp.csr_matrix  # (mixture, gene)
    genes: pd.Index
    profile: Float[np.ndarray, "type gene"]  # platform effect included
    amounts: Float[np.ndarray, "mixture type"]  # counts = amounts @ profile


@dataclass(frozen=True, repr=False)
class Deconvolution:
    """Proportions of cell types in spots or bulk samples, and how far to trust them.

    proportions: DataFrame (mixture, type); rows sum to 1. Shares of cells or of RNA, as `per` says.
    spread: standard deviation of each proportion, from two halves of the molecules (spots), resampled genes (bulk), or
        the networks of an ensemble ("scaden"); it knows nothing of a reference that does not fit.
    agreement: by method, the plain ones always: correlation with the result (mean over types), difference (mean
        absolute), same_main_type (share of mixtures), held_out_deviance (Poisson deviance of genes that were held out,
        for each count; lower is better). The last row is one composition for all mixtures.
    types: by type: n_cells and mean_total in the reference, n_markers among the genes used, nearest type, correlation.
    genes: by gene used: chosen_as and why (variance, or type and log2_fold_change), platform_log2 (how much more the
        mixtures show of it than the reference), unexplained.
    mixtures: by spot or sample: total count of the genes used, unexplained.
    unexplained: share of the squared expression that the fit leaves over, beyond the noise of counting: 0 for a
        reference that covers the tissue.
    notes: what to know before reading the map, in sentences.
    model, per, n_steps: how it was made; n_steps of EM for "poisson".
    trained: models of a deep method.
    """

    proportions: pd.DataFrame
    spread: pd.DataFrame | None
    agreement: pd.DataFrame
    types: pd.DataFrame
    genes: pd.DataFrame
    mixtures: pd.DataFrame
    unexplained: float
    notes: tuple[str, ...]
    model: str
    per: str
    n_steps: int | None
    fit: Fit
    trained: Any = None

    def expression(self, kind: str, normalized: bool = False) -> pd.DataFrame:
        """Counts of each mixture that belong to a type: observed counts x the type's share of what is expected.

        normalized: as shares of the mixture's counts of that type. Rows are mixtures, columns all shared genes. Where a
        type is rare these are hardly more than its profile: keep mixtures with a proportion of, say, 0.1.

        Raises OptionError for a type that is not in the reference.
        """
        types = self.proportions.columns
        if kind not in types:
            raise OptionError(f"no type {kind!r} in the reference", f"there are {some(types, 20)}")
        place = types.get_loc(kind)
        own = np.outer(self.fit.amounts[:, place], self.fit.profile[place])
        total = self.fit.amounts @ self.fit.profile
        found = self.fit.counts.toarray() * np.divide(own, total, out=np.zeros_like(own), where=total > 0)
        if normalized:
            size = found.sum(1, keepdims=True)
            found = np.divide(found, size, out=np.zeros_like(found), where=size > 0)
        return pd.DataFrame(found, self.proportions.index, self.fit.genes)

    def __repr__(self) -> str:
        n, k = self.proportions.shape
        head = f"{n} mixtures of {k} types by {self.model}, {len(self.genes)} genes, as shares of {NOUNS[self.per]}"
        mean = ", ".join(f"{name} {share:.1%}" for name, share in self.proportions.mean().nlargest(6).items())
        table = self.agreement.to_string(float_format=lambda value: f"{value:.3f}")
        left = f"unexplained beyond noise: {self.unexplained:.1%}"
        return "\n".join([head, f"mean: {mean}", left, table, *self.notes])


NOUNS = {"cell": "cells", "rna": "RNA"}
