"""How much more of each gene mixtures show than the reference: the platform effect."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from scduet.tasks.spatial import held_out, solvers
from scduet.tasks.spatial.solvers import Profile

Factor = Float[np.ndarray, " gene"]
Composition = Float[np.ndarray, " type"]

UNLIKE = 0.5  # spread of log2 factors from which mixtures and reference are of two technologies
ROUNDS = 4  # of refinement then


def platform_factor(
    counts: sp.csr_matrix, profile: Profile, used: Int[np.ndarray, " used"], seed: int
) -> tuple[Factor, Composition]:
    """The factor of each gene, and the composition (of RNA) common to all mixtures.

    counts: (mixture, gene). used: the genes that tell the composition. The factor is (observed + 1) / (expected + 1),
    summed over mixtures and expected at the best single composition, as RCTD does first (Cable et al. 2022, Nat
    Biotechnol 40:517). Large factors bias that composition, which biases the factors. So where they spread by half a
    log2 and more, they are estimated again from the composition of each mixture, in turn with these, four times.
    Between alike data sets that would only fit noise.
    """
    pooled = np.asarray(counts.sum(0), np.float64).ravel()
    factor, composition = _from_sum(pooled, profile, used)
    if _spread(factor[used], pooled[used]) < UNLIKE:
        return factor, composition
    counts = sp.csr_matrix(counts[held_out.sampled(counts, seed)])
    pooled, seen = np.asarray(counts.sum(0), np.float64).ravel(), sp.csr_matrix(counts[:, used])
    n_steps = held_out.choose_steps(seen, (profile * factor)[:, used], solvers.start_of(composition), seed)
    for _ in range(ROUNDS):
        amounts = np.zeros(len(profile))
        for _, dense in held_out.blocks(seen):
            start = solvers.start_of(composition)
            found = next(solvers.expectation_maximization(dense, (profile * factor)[:, used], start, (n_steps,)))
            amounts += found.sum(0)
        factor, composition = _ratio(pooled, amounts @ profile, used), amounts / amounts.sum()
    return factor, composition


def one_composition(counts: Float[np.ndarray, " gene"], profile: Profile) -> Composition:
    """The shares of RNA that explain the sum of all mixtures best, by the Poisson likelihood."""
    uniform = np.full(len(profile), 1 / len(profile))
    return solvers.shares(solvers.weighted_least_squares(counts[None], profile), uniform)[0]


def _from_sum(pooled: Float[np.ndarray, " gene"], profile: Profile, used: np.ndarray) -> tuple[Factor, Composition]:
    """Factor and composition that explain the sum of all mixtures, in turn, twice."""
    factor, composition = np.ones(len(pooled)), np.zeros(len(profile))
    for _ in range(2):
        composition = one_composition(pooled[used], (profile * factor)[:, used])
        factor = _ratio(pooled, composition @ profile, used)
    return factor, composition


def _ratio(pooled: Float[np.ndarray, " gene"], expected: Float[np.ndarray, " gene"], used: np.ndarray) -> Factor:
    return (pooled + 1) / (expected * pooled[used].sum() / expected[used].sum() + 1)


def _spread(factor: Factor, weight: Float[np.ndarray, " gene"]) -> float:
    """Standard deviation of log2 factors, genes weighted by their counts: of rare genes the factor is mostly noise."""
    level = np.log2(factor)
    return float(np.sqrt(np.average((level - np.average(level, weights=weight)) ** 2, weights=weight)))
