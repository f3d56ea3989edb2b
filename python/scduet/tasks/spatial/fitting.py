"""From counts of mixtures and a reference to proportions with all that is told beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float

from scduet.tasks.spatial import held_out, solvers
from scduet.tasks.spatial.held_out import Proportions, Solve
from scduet.tasks.spatial.platform import one_composition, platform_factor
from scduet.tasks.spatial.reference import Reference
from scduet.tasks.spatial.result import NOUNS, Deconvolution, Fit
from scduet.tasks.spatial.solvers import Amounts, Counts, Profile

ONE = "one composition"
PLAIN = ("poisson", "weighted_nnls", "nnls")
MANY_UNEXPLAINED = 0.1  # share beyond which the reference is said not to cover the mixtures

Shares = Float[np.ndarray, "mixture type"]
Spread = Callable[[sp.csr_matrix, Profile, Proportions], Shares]


@dataclass(frozen=True)
class DeepFit:
    """What trained models say: shares of RNA (mixture, type), and how to tell their spread."""

    proportions: pd.DataFrame
    trained: Any
    members: tuple[pd.DataFrame, ...] = ()  # of an ensemble, whose mean the proportions are
    again: Callable[[sp.csr_matrix], pd.DataFrame] | None = None  # the same of other counts of these mixtures


@dataclass(frozen=True)
class Problem:
    """Mixtures and a reference on the genes that they share."""

    names: pd.Index
    counts: sp.csr_matrix  # (mixture, shared gene)
    genes: pd.Index
    chosen: pd.DataFrame  # of the genes that are used: why
    types: pd.DataFrame
    reference: Reference
    platform: bool  # whether each gene gets a factor for the difference between mixtures and reference
    per: str
    what: str  # "spots", "samples"

    @property
    def used(self) -> np.ndarray:
        return self.genes.get_indexer(self.chosen.index)

    @property
    def on_used(self) -> sp.csr_matrix:
        return sp.csr_matrix(self.counts[:, self.used])

    def fitted_profile(self, seed: int) -> tuple[Profile, Float[np.ndarray, " gene"], Float[np.ndarray, " type"]]:
        """Profiles with the platform effect, the factors of the genes, and the common composition (of RNA)."""
        profile = self.reference.on(self.genes)
        if self.platform:
            factor, composition = platform_factor(self.counts, profile, self.used, seed)
            return profile * factor, factor, composition
        pooled = np.asarray(self.on_used.sum(0), np.float64).ravel()
        return profile, np.ones(len(self.genes)), one_composition(pooled, profile[:, self.used])

    def proportions(self, amounts: Amounts, composition: Float[np.ndarray, " type"]) -> Shares:
        """Shares of cells or of RNA; the common composition where nothing was found."""
        size = self.reference.total if self.per == "cell" else np.ones(len(composition))
        return solvers.shares(amounts / size, solvers.shares((composition / size)[None], composition)[0])

    def ordered(self, share: pd.DataFrame) -> Shares:
        """Shares in the order of the types."""
        return share.reindex(columns=self.types.index).to_numpy(np.float64)


def plain_solvers(composition: Float[np.ndarray, " type"], n_steps: int) -> Mapping[str, Solve]:
    """The plain methods as functions of counts and profiles, and the one composition that they are to beat."""
    start = solvers.start_of(composition)

    def poisson(counts: Counts, profile: Profile) -> Amounts:
        return next(solvers.expectation_maximization(counts, profile, start, (n_steps,)))

    def one(counts: Counts, profile: Profile) -> Amounts:
        return np.outer(counts.sum(1) / (composition @ profile).sum(), composition)

    plain = poisson, solvers.weighted_least_squares, solvers.least_squares
    return {**dict(zip(PLAIN, plain, strict=True)), ONE: one}


def in_blocks(solve: Solve, counts: sp.csr_matrix, profile: Profile, told: Callable | None = None) -> Amounts:
    """Amounts of all mixtures, a block at a time."""
    found = []
    for rows, dense in held_out.blocks(counts):
        found.append(solve(dense, profile))
        if told is not None:
            told(rows.stop, counts.shape[0])
    return np.concatenate(found)


def solved(
    problem: Problem,
    model: str,
    seed: int,
    spread: Spread | None,
    deep: Callable[[], DeepFit] | None = None,
    told: Callable | None = None,
    n_steps: int | None = None,
) -> Deconvolution:
    """The result of one plain model, or of a deep one, beside all plain ones.

    n_steps: of EM; None to choose by held-out counts.
    """
    profile, factor, composition = problem.fitted_profile(seed)
    counts, seen = problem.on_used, profile[:, problem.used]
    rows = held_out.sampled(counts, seed)
    if n_steps is None:
        n_steps = held_out.choose_steps(counts[rows], seen, solvers.start_of(composition), seed)
    methods = plain_solvers(composition, n_steps)
    trained, deviation = None, None
    if deep is None:
        amounts = in_blocks(methods[model], counts, seen, told)
        if spread is not None:
            deviation = spread(
                counts, seen, lambda c, p: problem.proportions(in_blocks(methods[model], c, p), composition)
            )
    else:
        found = deep()
        trained, share = found.trained, problem.ordered(found.proportions)
        amounts = share * (np.asarray(counts.sum(1)) / np.maximum((share @ seen).sum(1, keepdims=True), held_out.TINY))
        deviation = _spread_of_deep(problem, found, composition, seen, spread)
    result = problem.proportions(amounts, composition)
    judged = counts[rows].toarray().astype(np.float64)
    others = {name: problem.proportions(solve(judged, seen), composition) for name, solve in methods.items()}
    deviance = held_out.held_out_deviance(judged, seen, methods, seed)
    better = held_out.is_better(deviance[model if deep is None else PLAIN[0]], deviance[ONE])
    loss = {name: values.sum() / judged.sum() for name, values in deviance.items()}
    table = held_out.agreement(result[rows], others if deep is None else {model: result[rows], **others}, loss)
    by_gene, by_mixture, left = _left_over(counts, amounts, seen)
    index, columns = problem.names, problem.types.index
    totals = np.asarray(counts.sum(1)).ravel()
    return Deconvolution(
        proportions=pd.DataFrame(result, index, columns),
        spread=None if deviation is None else pd.DataFrame(deviation, index, columns),
        agreement=table,
        types=problem.types,
        genes=problem.chosen.assign(platform_log2=np.log2(factor[problem.used]), unexplained=by_gene),
        mixtures=pd.DataFrame({"total": totals, "unexplained": by_mixture}, index),
        unexplained=left,
        notes=tuple(_notes(problem, better, left)),
        model=model,
        per=problem.per,
        n_steps=n_steps if model == "poisson" else None,
        fit=Fit(problem.counts, problem.genes, profile, amounts),
        trained=trained,
    )


def _spread_of_deep(
    problem: Problem, found: DeepFit, composition: Float[np.ndarray, " type"], profile: Profile, spread: Spread | None
) -> Shares | None:
    """That of the members of an ensemble, or as for the plain methods; None where the models can tell neither."""
    if found.members:
        each = [problem.proportions(problem.ordered(member), composition) for member in found.members]
        return np.std(each, axis=0, ddof=1)
    again = found.again
    if again is None or spread is None:
        return None
    return spread(problem.on_used, profile, lambda c, _: problem.proportions(problem.ordered(again(c)), composition))


def _left_over(counts: sp.csr_matrix, amounts: Amounts, profile: Profile) -> tuple[np.ndarray, np.ndarray, float]:
    """The share that the fit leaves unexplained: of each gene, of each mixture, and of all."""
    level = (np.asarray(counts.sum(0), np.float64).ravel() + 1) / counts.shape[0]  # + 1: genes never seen weigh little
    left, whole = np.zeros(len(level)), np.zeros(len(level))
    by_mixture = []
    for rows, dense in held_out.blocks(counts):
        misfit, square = held_out.unexplained(dense, amounts[rows] @ profile, level)
        left, whole = left + misfit.sum(0), whole + square.sum(0)
        by_mixture.append(_ratio(misfit.sum(1), square.sum(1)))
    overall = float(_ratio(left.sum()[None], whole.sum()[None])[0])
    return _ratio(left, whole), np.concatenate(by_mixture), overall


def _ratio(left: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """From 0 to 1; NaN where nothing was seen beyond the noise."""
    return np.clip(np.divide(left, whole, out=np.full(np.shape(left), np.nan), where=whole > 0), 0, 1)


def _notes(problem: Problem, better: bool, left: float):
    yield f"Proportions are shares of {NOUNS[problem.per]}."
    if not better:
        yield (
            f"One composition for all {problem.what} predicts held-out genes as well as this map does: differences "
            f"between {problem.what} are not supported by these counts and this reference."
        )
    if left > MANY_UNEXPLAINED and (problem.what == "spots" or problem.platform):
        yield (
            f"The fit leaves {left:.0%} of the expression unexplained beyond the noise of counting: the reference may "
            f"lack types that the {problem.what} hold, or measure genes in another way."
        )
