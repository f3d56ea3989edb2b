"""Velocity without a network: the steady-state model (La Manno et al. 2018), the stochastic one (Bergen et al. 2020).

    du/dt = alpha - beta u,  ds/dt = beta u - gamma s        in units of beta: velocity = u - gamma s

In the steady state u = gamma s, so gamma is the slope of u on s, through the origin, among the cells at its upper end.
The stochastic model adds the second moments: E[us] and E[s²] give a second regression with the same slope.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float

from scduet.tasks.velocity.moments import Dense

Genes = Float[np.ndarray, " gene"]
PERCENTILE = 95  # the upper end: the 5% of the cells with most of a gene
MIN_R2, MIN_GAMMA = 0.01, 0.01  # of genes worth a velocity


@dataclass(frozen=True)
class Fit:
    """A slope for each gene and what it leaves."""

    gamma: Genes  # degradation in units of splicing
    velocity: Dense  # u - gamma s
    r2: Genes
    genes: Bool[np.ndarray, " gene"]  # those worth a velocity


def steady_state(ms: Dense, mu: Dense, by_all: bool = False) -> Fit:
    """Fit the steady-state model to the moments of spliced (`ms`) and unspliced (`mu`) counts.

    by_all: R² of a line through all cells, as scVelo chooses genes for its dynamical model.
    """
    gamma = _slope(ms, mu, _extreme(ms, mu))
    residual = mu - gamma.astype(ms.dtype) * ms
    left = mu - _slope(ms, mu).astype(ms.dtype) * ms if by_all else residual
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = 1 - _total(left**2) / _total((mu - mu.mean(0)) ** 2)
    r2 = np.nan_to_num(r2, neginf=0.0)
    genes = (r2 > MIN_R2) & (gamma > MIN_GAMMA) & (ms.max(0) > 0) & (mu.max(0) > 0)
    return Fit(gamma, residual, r2, genes)


def stochastic(s: sp.csr_matrix, u: sp.csr_matrix, average: sp.csr_matrix, ms: Dense, mu: Dense) -> Fit:
    """Fit first and second moments together, each regression weighted by the spread of its residual.

    s, u: normalized counts. average: see `averaging`.
    """
    first = steady_state(ms, mu)
    chosen = np.flatnonzero(first.genes)
    s, u = sp.csr_matrix(s[:, chosen]), sp.csr_matrix(u[:, chosen])
    x1, y1 = ms[:, chosen], mu[:, chosen]
    x2 = 2 * (average @ s.multiply(s)).toarray() - x1
    y2 = 2 * (average @ s.multiply(u)).toarray() + y1
    weight = _extreme(x1, y1) | (x1 >= np.percentile(x1, PERCENTILE, axis=0))
    var1 = first.velocity[:, chosen].var(0, dtype=np.float64)
    var2 = (y2 - _slope(x2, y2) * x2).var(0, dtype=np.float64)
    xy = _total(weight * x1 * y1) / var1 + _total(x2 * y2) / var2
    xx = _total(weight * x1 * x1) / var1 + _total(x2 * x2) / var2
    gamma = first.gamma.copy()
    gamma[chosen] = xy / xx
    return Fit(gamma, mu - gamma.astype(ms.dtype) * ms, first.r2, first.genes)


def _extreme(s: Dense, u: Dense) -> Bool[np.ndarray, "cell gene"]:
    """Cells in the upper corner of each gene, by s / max s + u / max u."""
    score = s / s.max(0).clip(1e-3) + u / u.max(0).clip(1e-3)
    return score >= np.percentile(score, PERCENTILE, axis=0)


def _slope(s: Dense, u: Dense, weight: Bool[np.ndarray, "cell gene"] | float = 1.0) -> Genes:
    """Least squares through the origin; 0 where nothing is spliced."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(_total(weight * s * u) / _total(weight * s * s), posinf=0.0)


def _total(values: Dense) -> Genes:
    return values.sum(0, dtype=np.float64)
