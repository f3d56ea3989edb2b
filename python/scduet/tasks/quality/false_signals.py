"""What a denoiser invents: correlations where there is no structure, and differences of genes that were shuffled.

Both on log(1 + 10,000 x share). After Andrews and Hemberg 2018, F1000Research 7:1740.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

Denoise = Callable[[sp.csr_matrix, Int[np.ndarray, " cell"]], np.ndarray]  # counts, their cells -> expected
MOST_CELLS = 2000
N_FLAT, N_HIGH = 1000, 300  # genes without structure, and those of them that are correlated
STRONG = 0.3  # correlation
N_TESTED = 2000  # genes, half of which are shuffled
NOMINAL = 0.05  # false-discovery rate


def false_correlations(counts: sp.csr_matrix, denoise: Denoise, seed: int = 0) -> float:
    """Share of gene pairs with |r| above 0.3 in Poisson counts of equal shares in all cells; the truth is none.

    Depths and mean shares are those of the 1,000 highest genes; pairs are of the 300 highest.
    """
    rng = np.random.default_rng(seed)
    rows = _some_cells(counts.shape[0], rng)
    genes = np.sort(np.argsort(-_sums(counts, 0), kind="stable")[:N_FLAT])
    part = counts[rows][:, genes]
    share = _sums(part, 0) / part.sum()
    flat = sp.csr_matrix(rng.poisson(np.outer(_sums(part, 1), share)).astype(np.float32))
    full = _sums(flat, 1) > 0
    high = np.argsort(-share, kind="stable")[:N_HIGH]
    z = logged(denoise(flat[full], rows[full]))[:, high]
    with np.errstate(all="ignore"):
        r = np.corrcoef(z.T)
    r[constant(z)] = r[:, constant(z)] = 0
    return float((np.abs(r[np.triu_indices(len(high), 1)]) > STRONG).mean())


def false_discovery_rate(
    counts: sp.csr_matrix, first: Bool[np.ndarray, " cell"], denoise: Denoise, seed: int = 0
) -> float:
    """Share of shuffled genes among those that a t-test calls different between two groups, at a nominal 5%.

    counts: of the cells of both groups. Of the 2,000 genes seen in most cells every second, at random, is shuffled
    between cells, which leaves it no relation to the groups. NaN where nothing is called.
    """
    from scipy.stats import false_discovery_control, ttest_ind

    rng = np.random.default_rng(seed)
    rows = _some_cells(counts.shape[0], rng)
    genes = np.sort(np.argsort(-_sums(counts > 0, 0), kind="stable")[:N_TESTED])
    x = counts[rows][:, genes].toarray()
    shuffled = rng.permutation(len(genes))[: len(genes) // 2]
    x[:, shuffled] = rng.permuted(x[:, shuffled], axis=0)
    full = x.sum(1) > 0
    z = logged(denoise(sp.csr_matrix(x[full]), rows[full]))
    of_first = first[rows][full]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's, of genes that hardly vary
        p = ttest_ind(z[of_first], z[~of_first], equal_var=False).pvalue
    called = false_discovery_control(np.where(constant(z) | np.isnan(p), 1.0, p)) < NOMINAL
    return float(called[shuffled].sum() / called.sum()) if called.any() else np.nan


def logged(expected: Float[np.ndarray, "cell gene"]) -> Float[np.ndarray, "cell gene"]:
    """log(1 + 10,000 x share), to 5 decimals: else the rounding errors of a gene that does not vary would count."""
    expected = np.maximum(expected.astype(np.float64), 0)
    return np.log1p(1e4 * expected / np.maximum(expected.sum(1, keepdims=True), 1e-9)).round(5)


def constant(z: Float[np.ndarray, "cell gene"]) -> Bool[np.ndarray, " gene"]:
    return np.ptp(z, 0) == 0


def _some_cells(n: int, rng: np.random.Generator) -> Int[np.ndarray, " cell"]:
    return np.sort(rng.choice(n, MOST_CELLS, replace=False)) if n > MOST_CELLS else np.arange(n)


def _sums(counts: sp.csr_matrix, axis: int) -> Float[np.ndarray, " row"]:
    return np.asarray(counts.sum(axis), np.float64).ravel()
