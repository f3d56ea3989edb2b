"""Does the model make counts like those it was given? Posterior predictive checks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scduet.api import Model
from scduet.data.sources import gathered
from scduet.options import check_arguments
from scduet.tasks.posterior.latent import modality_of
from scduet.tasks.posterior.likelihoods import _refuse_minified
from scduet.tasks.posterior.sampling import posterior_predictive_sample

Counts = sp.csr_matrix | np.ndarray
LEVELS = (0.5, 0.8, 0.9)  # of the intervals whose coverage is checked


def posterior_predictive_check(
    model: Model, adata=None, *, n_samples: int = 20, seed: int | None = 0, modality: str | None = None
) -> pd.DataFrame:
    """Compare data drawn from the model with the data: a row a statistic, each of genes.

    modality: another matrix that the model decodes, e.g. "protein"; what was not measured is left out.

    Statistics: mean, coefficient of variation (standard deviation / mean) and share of zeros of each gene. Columns:
    correlation (Spearman's) of the data's with those of drawn data, and mean absolute error. A last row,
    "calibration error": mean over intervals that should hold 50, 80 and 90 % of the counts of |share held - that|, as
    the mean absolute error (lower is better).
    """
    check_arguments(n_samples=n_samples)
    _refuse_minified(adata)
    cells, chosen = model.encode(adata), modality_of(model, modality)
    drawn = posterior_predictive_sample(model, adata, n_samples=n_samples, seed=seed, modality=modality)
    drawn = drawn if isinstance(drawn, list) else [drawn]
    data = gathered(chosen.source(cells))
    if isinstance(data, np.ndarray):
        drawn = [np.where(np.isnan(data), np.nan, d.toarray()) for d in drawn]
    seen, made = gene_statistics(data), [gene_statistics(d) for d in drawn]
    rows = {}
    for name in seen:
        mean = np.mean([m[name] for m in made], axis=0)
        known = np.isfinite(mean) & np.isfinite(seen[name])
        error = float(np.abs(mean - seen[name])[known].mean())
        rows[name] = {"correlation": _spearman(seen[name][known], mean[known]), "error": error}
    rows["calibration error"] = {"correlation": np.nan, "error": calibration_error(data, drawn)}
    return pd.DataFrame.from_dict(rows, orient="index")


def gene_statistics(counts: Counts) -> dict[str, np.ndarray]:
    """Mean, coefficient of variation and share of zeros of each gene; no variation where the mean is zero (NaN).

    Of a dense matrix over what is not NaN.
    """
    if isinstance(counts, np.ndarray):
        n = (~np.isnan(counts)).sum(0)
        sums, squares, positive = np.nansum(counts, 0), np.nansum(counts**2, 0), (np.nan_to_num(counts) != 0).sum(0)
    else:
        n = counts.shape[0]
        sums, squares = (np.asarray(part.sum(0)).ravel() for part in (counts, counts.multiply(counts)))
        positive = np.bincount(counts.indices[counts.data != 0], minlength=counts.shape[1])
    with np.errstate(invalid="ignore"):
        mean, square, zeros = sums / n, squares / n, 1 - positive / n
    with np.errstate(invalid="ignore", divide="ignore"):
        variation = np.sqrt(np.maximum(square - mean**2, 0)) / np.where(mean > 0, mean, np.nan)
    return {"mean": mean, "coefficient of variation": variation, "share of zeros": zeros}


def calibration_error(data: Counts, drawn: Sequence[Counts]) -> float:
    """Mean over intervals of |share of the counts inside - what it should be|; of whole numbers, so never exactly 0.

    An interval lies between two quantiles of the draws of an entry.
    """
    held, n, size = np.zeros(len(LEVELS)), 0, 512
    for start in range(0, data.shape[0], size):
        block = np.stack([_dense(d[start : start + size]) for d in drawn])
        truth = _dense(data[start : start + size])
        n += (~np.isnan(truth)).sum()
        for i, level in enumerate(LEVELS):
            low, high = np.quantile(block, [(1 - level) / 2, (1 + level) / 2], axis=0)
            held[i] += ((truth >= low) & (truth <= high)).sum()
    return float(np.abs(held / n - np.array(LEVELS)).mean())


def _dense(counts: Counts) -> np.ndarray:
    return counts if isinstance(counts, np.ndarray) else counts.toarray()


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)
