"""Highly variable genes of log-normalized data by the dispersion in bins of the mean ("cell_ranger" in scanpy)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse


def mean_and_variance(x: np.ndarray | sparse.spmatrix) -> tuple[Float[np.ndarray, " gene"], Float[np.ndarray, " gene"]]:
    """Mean and unbiased variance of each gene (column), sparse or dense."""
    n = x.shape[0]
    mean = np.asarray(x.mean(0), dtype=np.float64).ravel()
    square = np.square(x, dtype=np.float64) if isinstance(x, np.ndarray) else x.multiply(x)
    variance = np.asarray(square.mean(0), dtype=np.float64).ravel() - mean**2
    return mean, np.maximum(variance, 0) * (n / max(n - 1, 1))


def variable_genes(x: np.ndarray | sparse.spmatrix, n_top: int) -> Int[np.ndarray, " gene"]:
    """The `n_top` genes with the highest dispersion (variance / mean), standardized by median and MAD in 20 bins of the
    mean. `x`: log-normalized (cell, gene). Source: Zheng et al. 2017, as in scanpy's "cell_ranger".
    """
    mean, variance = mean_and_variance(x)
    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = variance / mean
    edges = np.r_[-np.inf, np.percentile(mean, np.arange(10, 105, 5)), np.inf]
    group = np.searchsorted(np.unique(edges), mean)  # (low, high], as pandas.cut
    standard = np.empty(len(mean))
    for g in np.unique(group):
        inside = dispersion[group == g]
        center = np.median(inside)
        spread = np.median(np.abs(inside - center)) / 0.6744897501960817  # MAD of a normal distribution
        with np.errstate(divide="ignore", invalid="ignore"):
            standard[group == g] = (inside - center) / spread
    standard = np.where(np.isnan(standard), -np.inf, standard)
    return np.argsort(-standard, kind="stable")[: min(n_top, len(mean))]
