"""How much of each type is in a mixture: least squares, weighted least squares, and the Poisson likelihood.

A mixture of counts x (gene) is modeled as amounts w (type) of profiles P (type, gene): E[x] = w P with w >= 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

Counts = Float[np.ndarray, "mixture gene"]
Profile = Float[np.ndarray, "type gene"]
Amounts = Float[np.ndarray, "mixture type"]

ROUNDS = 10  # of reweighting: shares change by less than 0.001 afterwards
LEAST = 1e-3  # expected count of a gene, relative to the mixture's mean, below which its weight grows no more
UNIFORM = 0.05  # part of the start that is the same for all types: EM never leaves zero


def least_squares(counts: Counts, profile: Profile) -> Amounts:
    """Non-negative least squares: few genes with large counts decide."""
    gram, right = profile @ profile.T, counts @ profile.T
    return _solved(np.broadcast_to(gram, (len(counts), *gram.shape)), right)


def weighted_least_squares(counts: Counts, profile: Profile) -> Amounts:
    """Non-negative least squares with genes weighted by 1 / expected count, ten times: close to the likelihood.

    The idea is that of MuSiC (Wang et al. 2019, Nat Commun 10:380), without its variance between subjects.
    """
    n_types = len(profile)
    products = (profile[:, None] * profile[None]).reshape(n_types**2, -1)
    floor = LEAST * np.maximum(counts.mean(1, keepdims=True), 1e-9)
    found = least_squares(counts, profile)
    for _ in range(ROUNDS):
        weight = 1 / np.maximum(found @ profile, floor)
        gram = (weight @ products.T).reshape(-1, n_types, n_types)
        found = _solved(gram, (weight * counts) @ profile.T)
    return found


def expectation_maximization(
    counts: Counts, profile: Profile, start: Float[np.ndarray, " type"], steps: tuple[int, ...]
) -> Iterator[Amounts]:
    """Amounts after each of the numbers of `steps` (ascending) of EM for the Poisson likelihood.

    start: shares that all mixtures begin with. Few steps stay close to them, which is shrinkage; many reach the maximum
    of the likelihood. In single precision.
    """
    counts, profile = counts.astype(np.float32), profile.astype(np.float32)
    size = profile.sum(1)
    found = np.outer(counts.sum(1), (start / (start @ size)).astype(np.float32)).astype(np.float32)
    done = 0
    for wanted in steps:
        for _ in range(wanted - done):
            found = found * ((counts / np.maximum(found @ profile, np.float32(1e-12))) @ profile.T) / size
        done = wanted
        yield found.astype(np.float64)


def start_of(composition: Float[np.ndarray, " type"]) -> Float[np.ndarray, " type"]:
    """Shares to begin with: those common to all mixtures, and a little of every type."""
    return (1 - UNIFORM) * composition + UNIFORM / len(composition)


def shares(amounts: Amounts, otherwise: Float[np.ndarray, " type"]) -> Amounts:
    """Amounts as shares that sum to 1; `otherwise` where there is nothing of any type."""
    total = amounts.sum(1, keepdims=True)
    return np.where(total > 0, amounts / np.where(total > 0, total, 1), otherwise)


def _solved(gram: Float[np.ndarray, "mixture type type"], right: Amounts) -> Amounts:
    """Minimum over w >= 0 of w gram w - 2 w right, for each mixture."""
    from scipy.linalg import solve_triangular
    from scipy.optimize import nnls

    n_types = gram.shape[1]
    ridge = 1e-10 * np.trace(gram, axis1=1, axis2=2) / n_types + 1e-300
    lower = np.linalg.cholesky(gram + ridge[:, None, None] * np.eye(n_types))
    pairs = zip(lower, right, strict=True)
    return np.stack([nnls(half.T, solve_triangular(half, b, lower=True), maxiter=30 * n_types)[0] for half, b in pairs])
