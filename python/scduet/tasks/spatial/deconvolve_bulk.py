"""Proportions of cell types in bulk samples, with a single-cell reference."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scduet.data.counts import counts_of
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.events import Listener
from scduet.options import check_arguments, refuse_unknown, seed_of
from scduet.tasks.spatial import held_out
from scduet.tasks.spatial import reference as references
from scduet.tasks.spatial.deconvolve import Deconvolver, check_per, read, to_train_on
from scduet.tasks.spatial.fitting import solved
from scduet.tasks.spatial.genes import Choice
from scduet.tasks.spatial.result import Deconvolution

BULK: Mapping[str, Deconvolver] = {
    "weighted_nnls": Deconvolver("markers"),
    "nnls": Deconvolver("markers"),
    "scaden": Deconvolver("markers", deep=True),
}
MILLION, NEAR = 1e6, 0.02  # the total of TPM and CPM, and how near to it they are where some genes were left out
LARGEST_LOG = 30  # no logarithm of a count is larger


def deconvolve_bulk(
    bulk: AnnData | pd.DataFrame,
    reference: AnnData,
    *,
    labels_key: str,
    model: Literal["weighted_nnls", "nnls", "scaden"] = "weighted_nnls",
    per: Literal["cell", "rna"] = "cell",
    layer: str | None = None,
    reference_layer: str | None = None,
    genes: Choice | None = None,
    n_genes: int | None = None,
    platform_effect: bool = False,
    n_draws: int = 20,
    seed: int = 0,
    callback: Listener | None = None,
    **options: Any,
) -> Deconvolution:
    """Estimate the proportions of the reference's cell types in each bulk sample.

    bulk: AnnData or DataFrame (sample, gene) of counts. TPM and CPM are used as they are, with a warning: ratios
        between genes are what is fitted, and TPM divides them by the lengths of transcripts. They suit a reference of
        molecules counted at one end (10x, CEL-seq2), which does not depend on length. Logs are refused.
    reference, labels_key, reference_layer, per: as for `deconvolve`.
    model: "weighted_nnls": least squares with genes weighted by 1 / expected count, as MuSiC does; on markers the best
        of what was tried on mixtures with known shares of RNA, networks included. "nnls": without weights. "scaden":
        three networks, trained on simulated mixtures of the reference's cells.
    genes, n_genes: as for `deconvolve`; None for "markers", 100 for each type.
    platform_effect: as for `deconvolve`; it takes many samples that differ to tell this effect from the composition.
    n_draws: samples of the genes, with replacement, whose standard deviation is the spread; that of "scaden" is the
        standard deviation of its three networks.
    options: of "scaden" and its training, e.g. max_epochs.

    Raises DataError for logs, negative or missing values, and no shared genes; OptionError. Warns as `deconvolve` does.
    Returns a `Deconvolution`.
    """
    if model not in BULK:
        raise OptionError(f"unknown model {model!r}", f"choose from {', '.join(BULK)}")
    check_per(per)
    if not BULK[model].deep:
        refuse_unknown(options, ["genes", "n_genes", "platform_effect", "n_draws"], f"model {model!r}")
    check_arguments(n_draws=n_draws, **({} if n_genes is None else {"n_genes": n_genes}))
    seed_of(seed)
    samples = _as_anndata(bulk, layer)
    known = references.learn(reference, labels_key, reference_layer)
    problem = read(
        samples, known, None, genes=BULK[model].genes if genes is None else genes, n_genes=n_genes,
        platform=platform_effect, per=per, what="samples",
    )  # fmt: skip
    deep = None
    if BULK[model].deep:
        from scduet.tasks.spatial.deep import fit_ensemble

        both = to_train_on(problem, reference, labels_key, reference_layer)
        deep = partial(fit_ensemble, model, *both, labels_key, seed=seed, callback=callback, **options)
    spread = partial(held_out.spread_of_genes, n_draws=n_draws, seed=seed)
    return solved(problem, model, seed, spread, deep, n_steps=held_out.STEPS[-1])


def _as_anndata(bulk: Any, layer: str | None) -> AnnData:
    """The samples with what they hold as X, once it is known to be on the scale of counts."""
    if isinstance(bulk, pd.DataFrame):
        values = bulk.to_numpy()
        if values.dtype.kind not in "buif":
            raise DataError(
                f"bulk holds {values.dtype} values", "pass numbers only, samples as rows and genes as columns"
            )
        bulk = AnnData(
            values.astype(np.float64),
            pd.DataFrame(index=bulk.index.astype(str)),
            pd.DataFrame(index=bulk.columns.astype(str)),
        )
    if not isinstance(bulk, AnnData) or bulk.isbacked:
        raise DataError(f"bulk is {type(bulk).__name__}", "pass an AnnData in memory, or a DataFrame (sample, gene)")
    names, values = counts_of(bulk, layer, tuple(bulk.var_names), allow_non_integer=True)
    whole = bool((values.data == np.rint(values.data)).all())
    if not whole and values.data.max(initial=0) < LARGEST_LOG:
        remedy = "pass counts or TPM; of logs, undo them first, e.g. 2**x - 1"
        raise DataError(f"bulk reaches {values.data.max():.3g} and looks log-transformed", remedy)
    totals = np.asarray(values.sum(1)).ravel()
    if not whole and (np.abs(totals / MILLION - 1) < NEAR).all():
        advice = "they are used as they are, which suits a reference of molecules counted at one end of the transcript"
        warnings.warn(f"each sample sums to a million: TPM or CPM? {advice}", ScduetWarning, stacklevel=3)
    return AnnData(sp.csr_matrix(values), pd.DataFrame(index=bulk.obs_names), pd.DataFrame(index=names))
