"""scImpute, written from the formulas of its paper: dropouts found by a mixture, filled by regression on other cells.

    z = log10(counts per million + 1.01), cells in clusters; within a cluster, of each gene
    z ~ lambda Gamma(a, b) + (1 - lambda) Normal(m, s)        d = chance that a value is of the Gamma, a dropout
    of cell j: w = argmin ||z_Bj - z_B,others w||, w >= 0, over the genes B with d up to 0.5; other values <- z_others w

Values that are no dropouts stay: the result is no expectation. Needs the number of clusters, and takes quadratic time
in the cells of a cluster; it is here to be compared with. Source: Li and Li 2018, Nature Communications 9:997.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from scduet.tasks.quality.denoisers import Expected, at_depth, totals

POINT = np.log10(1.01)  # of a count of zero
MOST = 6.0  # all molecules of a cell; a regression may go beyond
ROUNDS = 30
FEWEST = 5  # cells of a cluster


def scimpute(counts: sp.csr_matrix, n_clusters: int = 3, threshold: float = 0.5, seed: int = 0) -> Expected:
    """Counts with dropouts imputed, at the depth of each cell. threshold: of d, above which a value is a dropout."""
    total = totals(counts)
    logged = np.log10(counts.toarray() / total[:, None] * 1e6 + 1.01)
    found = logged.copy()
    clusters = _clusters(logged, n_clusters, seed)
    for k in range(n_clusters):
        rows = np.flatnonzero(clusters == k)
        if len(rows) >= FEWEST:
            found[rows] = _imputed(logged[rows], threshold)
    return at_depth(np.maximum(10 ** np.minimum(found, MOST) - 1.01, 0), total)


def _clusters(logged: Expected, n_clusters: int, seed: int) -> Int[np.ndarray, " cell"]:
    """Spectral clusters in the components that hold 40% of the variance."""
    from scipy.sparse.linalg import svds
    from sklearn.cluster import SpectralClustering

    centered = logged - logged.mean(0)
    left, values, _ = svds(centered, min(20, min(logged.shape) - 1), v0=np.ones(min(logged.shape)))
    left, values = left[:, ::-1], values[::-1]
    n = max(int((np.cumsum(values**2) <= 0.4 * np.square(centered).sum()).sum()) + 1, 2)
    model = SpectralClustering(n_clusters, random_state=seed, affinity="nearest_neighbors")
    return model.fit_predict(left[:, :n] * values[:n])


def _imputed(z: Expected, threshold: float) -> Expected:
    """The cells of one cluster with their dropouts replaced."""
    from scipy.optimize import nnls

    chances = [_chance_of_dropout(values) for values in z.T]
    genes = [g for g, chance in enumerate(chances) if chance is not None]
    if not genes:
        return z
    dropped, found = np.stack([chances[g] for g in genes], 1) > threshold, z.copy()  # type: ignore[misc]
    for i, bad in enumerate(dropped):
        if bad.any() and not bad.all():
            others = np.delete(z[:, genes], i, 0)
            weights, _ = nnls(others[:, ~bad].T, z[i, genes][~bad], maxiter=5000)
            found[i, np.array(genes)[bad]] = weights @ others[:, bad]
    return found


def _chance_of_dropout(values: Float[np.ndarray, " cell"]) -> Float[np.ndarray, " cell"] | None:
    """d of each value, by EM; None for a gene that is seen in too few cells."""
    from scipy.stats import gamma, norm

    high = values[values > POINT + 1e-6]
    if len(high) < max(3, 0.05 * len(values)):
        return None
    share = float(np.clip((np.abs(values - POINT) < 1e-6).mean(), 0.01, 0.99))
    shape, rate, mean, spread = 0.5, 1.0, high.mean(), max(high.std(), 0.05)

    def chance() -> np.ndarray:
        dropout = share * gamma.pdf(values, shape, scale=1 / rate)
        return dropout / np.maximum(dropout + (1 - share) * norm.pdf(values, mean, spread), 1e-300)

    for _ in range(ROUNDS):
        d, before = chance(), share
        share = float(np.clip(d.mean(), 1e-3, 1 - 1e-3))
        mean = np.average(values, weights=1 - d)
        spread = max(np.sqrt(np.average(np.square(values - mean), weights=1 - d)), 0.05)
        shape, rate = _gamma_of(values, d)
        if abs(before - share) < 1e-4:
            break
    return chance()


def _gamma_of(values: Float[np.ndarray, " cell"], weights: Float[np.ndarray, " cell"]) -> tuple[float, float]:
    """Shape and rate of the likeliest Gamma: log(shape) - digamma(shape) = log(mean) - mean of logs."""
    from scipy.optimize import brentq
    from scipy.special import digamma

    mean = np.average(values, weights=weights)
    gap = np.log(mean) - np.average(np.log(values), weights=weights)
    try:
        shape = float(brentq(lambda a: np.log(a) - digamma(a) - gap, 1e-3, 1e4))  # type: ignore[arg-type]
    except ValueError:
        shape = 1e3
    return shape, shape / mean
