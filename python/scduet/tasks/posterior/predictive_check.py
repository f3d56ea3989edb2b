"""Does the model make counts like those it was given? Posterior predictive checks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scduet.api import Model
from scduet.data.sources import Source
from scduet.tasks.posterior.likelihoods import _refuse_minified
from scduet.tasks.posterior.sampling import posterior_predictive_sample

LEVELS = (0.5, 0.8, 0.9)  # of the intervals whose coverage is checked


def posterior_predictive_check(model: Model, adata=None, *, n_samples: int = 20, seed: int | None = 0) -> pd.DataFrame:
    """Compare data drawn from the model with the data: a row a statistic, each of genes.

    Statistics: mean, coefficient of variation (standard deviation / mean) and share of zeros of each gene. Columns:
    correlation (Spearman's) of the data's with those of drawn data, and mean absolute error. A last row,
    "calibration error": mean over intervals that should hold 50, 80 and 90 % of the counts of |share held - that|, as
    the mean absolute error (lower is better).
    """
    _refuse_minified(adata)
    cells = model.encode(adata)
    drawn = posterior_predictive_sample(model, adata, n_samples=n_samples, seed=seed)
    drawn = drawn if isinstance(drawn, list) else [drawn]
    data = _whole(cells.counts)
    seen, made = gene_statistics(data), [gene_statistics(d) for d in drawn]
    rows = {}
    for name in seen:
        mean = np.mean([m[name] for m in made], axis=0)
        known = np.isfinite(mean) & np.isfinite(seen[name])
        error = float(np.abs(mean - seen[name])[known].mean())
        rows[name] = {"correlation": _spearman(seen[name][known], mean[known]), "error": error}
    rows["calibration error"] = {"correlation": np.nan, "error": calibration_error(data, drawn)}
    return pd.DataFrame.from_dict(rows, orient="index")


def gene_statistics(counts: sp.csr_matrix) -> dict[str, np.ndarray]:
    """Mean, coefficient of variation and share of zeros of each gene; no variation where the mean is zero (NaN)."""
    n = counts.shape[0]
    mean = np.asarray(counts.mean(0)).ravel()
    square = np.asarray(counts.multiply(counts).mean(0)).ravel()
    with np.errstate(invalid="ignore", divide="ignore"):
        variation = np.sqrt(np.maximum(square - mean**2, 0)) / np.where(mean > 0, mean, np.nan)
    zeros = 1 - np.bincount(counts.indices[counts.data != 0], minlength=counts.shape[1]) / n
    return {"mean": mean, "coefficient of variation": variation, "share of zeros": zeros}


def calibration_error(data: sp.csr_matrix, drawn: list[sp.csr_matrix]) -> float:
    """Mean over intervals of |share of the counts inside - what it should be|; of whole numbers, so never exactly 0.

    An interval lies between two quantiles of the draws of an entry.
    """
    held, size = np.zeros(len(LEVELS)), 512
    for start in range(0, data.shape[0], size):
        block = np.stack([d[start : start + size].toarray() for d in drawn])
        truth = data[start : start + size].toarray()
        for i, level in enumerate(LEVELS):
            low, high = np.quantile(block, [(1 - level) / 2, (1 + level) / 2], axis=0)
            held[i] += ((truth >= low) & (truth <= high)).mean(1).sum()
    return float(np.abs(held / data.shape[0] - np.array(LEVELS)).mean())


def _whole(source: Source) -> sp.csr_matrix:
    return source.rows(np.arange(source.n_cells))


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)
