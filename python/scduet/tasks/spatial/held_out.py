"""How far a deconvolution is to be trusted: by counts and genes that it was not shown, and by what it leaves over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float

from scduet.metrics.core.deviance import poisson_deviance
from scduet.tasks.spatial import solvers
from scduet.tasks.spatial.solvers import Amounts, Counts, Profile

Solve = Callable[[Counts, Profile], Amounts]
Proportions = Callable[[sp.csr_matrix, Profile], Amounts]  # of all mixtures

STEPS = (0, 1, 2, 3, 5, 8, 12, 20, 35, 60, 100, 200, 400)  # of EM, among which held-out counts choose
PATIENCE = 2  # numbers of steps without a gain, after which more are not tried
JUDGED = 2000  # mixtures, a random sample, that the choice and the table of agreement look at
BLOCK = 500  # mixtures that are made dense together
GAIN = 0.01  # of the deviance of held-out genes: a map that gains less than this on one composition says little
TINY = 1e-9


def blocks(counts: sp.csr_matrix) -> Iterator[tuple[slice, Counts]]:
    """Dense pieces of the rows."""
    for start in range(0, counts.shape[0], BLOCK):
        rows = slice(start, min(start + BLOCK, counts.shape[0]))
        yield rows, counts[rows].toarray().astype(np.float64)


def sampled(counts: sp.csr_matrix, seed: int) -> np.ndarray:
    """The rows that are judged."""
    n = counts.shape[0]
    return np.arange(n) if n <= JUDGED else np.sort(np.random.default_rng(seed).choice(n, JUDGED, replace=False))


def halves(counts: sp.csr_matrix, seed: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """The molecules dealt out at random to two sets of about the same size, independent of each other."""
    one = counts.copy()
    one.data = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), 0.5).astype(counts.dtype)
    return one, sp.csr_matrix(counts - one)


def choose_steps(counts: sp.csr_matrix, profile: Profile, start: Float[np.ndarray, " type"], seed: int) -> int:
    """The number of EM steps after which one half of the molecules predicts the other half best, both ways."""
    dense = [half.toarray().astype(np.float64) for half in halves(counts, seed)]
    paths = [solvers.expectation_maximization(half, profile, start, STEPS) for half in dense]
    losses: list[float] = []
    for found in zip(*paths, strict=True):
        ways = zip(found, dense[::-1], strict=True)
        losses.append(sum(float(_deviance(other, amounts @ profile).sum()) for amounts, other in ways))
        if len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE:
            break
    return STEPS[int(np.argmin(losses))]


def spread_of_molecules(
    counts: sp.csr_matrix, profile: Profile, proportions: Proportions, n_splits: int, seed: int
) -> Float[np.ndarray, "mixture type"]:
    """Standard deviation of proportions from the sampling of molecules: half the difference between two halves of them.

    Two independent halves have twice the variance each, and their difference four times that of the whole.
    """
    squares = np.zeros((counts.shape[0], len(profile)))
    for split in range(n_splits):
        one, other = (proportions(half, profile) for half in halves(counts, seed + 1 + split))
        squares += (one - other) ** 2
    return np.sqrt(squares / n_splits) / 2


def spread_of_genes(
    counts: sp.csr_matrix, profile: Profile, proportions: Proportions, n_draws: int, seed: int
) -> Float[np.ndarray, "mixture type"]:
    """Standard deviation of proportions over samples of the genes, with replacement."""
    draw, n_genes = np.random.default_rng(seed), counts.shape[1]
    drawn = [draw.integers(0, n_genes, n_genes) for _ in range(n_draws)]
    found = [proportions(sp.csr_matrix(counts[:, genes]), profile[:, genes]) for genes in drawn]
    return np.std(found, axis=0, ddof=1)


def held_out_deviance(
    counts: Counts, profile: Profile, methods: Mapping[str, Solve], seed: int
) -> Mapping[str, Float[np.ndarray, " mixture"]]:
    """Poisson deviance of each mixture's held-out genes, given their total: each half of the genes once.

    methods: name -> amounts from the counts and profiles of the other half.
    """
    fold = np.random.default_rng(seed).permutation(counts.shape[1]) % 2
    found: dict[str, np.ndarray] = {name: np.zeros(len(counts)) for name in methods}
    for part in (0, 1):
        seen, hidden = fold != part, fold == part
        for name, solve in methods.items():
            expected = solve(counts[:, seen], profile[:, seen]) @ profile[:, hidden]
            found[name] += _deviance(counts[:, hidden], expected)
    return found


def agreement(
    result: Float[np.ndarray, "mixture type"],
    others: Mapping[str, Float[np.ndarray, "mixture type"]],
    loss: Mapping[str, float],
) -> pd.DataFrame:
    """A row for each method: how near its proportions are to the result's, and its loss on held-out genes."""
    rows = {}
    for name, found in others.items():
        pairs = zip(result.T, found.T, strict=True)
        r = [np.corrcoef(a, b)[0, 1] for a, b in pairs if np.ptp(a) > TINY and np.ptp(b) > TINY]
        rows[name] = {
            "correlation": float(np.mean(r)) if r else np.nan,
            "difference": float(np.abs(result - found).mean()),
            "same_main_type": float((result.argmax(1) == found.argmax(1)).mean()),
            "held_out_deviance": loss.get(name, np.nan),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def is_better(map_: Float[np.ndarray, " mixture"], one: Float[np.ndarray, " mixture"]) -> bool:
    """Whether a map predicts held-out genes better than one composition does: by 1%, and two standard errors."""
    gain = one - map_
    error = gain.std() / np.sqrt(len(gain))
    return bool(gain.mean() > max(GAIN * one.mean(), 2 * error))


def unexplained(
    counts: Counts, expected: Counts, level: Float[np.ndarray, " gene"]
) -> tuple[Float[np.ndarray, "mixture gene"], Float[np.ndarray, "mixture gene"]]:
    """Squared misfit and squared expression, both without the noise of counting, which on average is the count.

    level: about the mean count of each gene, by which the squares are divided so that a few genes do not decide. The
    share of the unexplained is the ratio of two sums of these, over genes or mixtures: 0 where the fit is right.
    """
    return ((counts - expected) ** 2 - counts) / level, (counts**2 - counts) / level


def _deviance(counts: Counts, expected: Counts) -> Float[np.ndarray, " mixture"]:
    """Poisson deviance with the expected counts scaled to the total."""
    size = counts.sum(1, keepdims=True) / np.maximum(expected.sum(1, keepdims=True), TINY)
    return poisson_deviance(counts, np.maximum(expected * size, TINY))
