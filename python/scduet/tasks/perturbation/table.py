"""The honest table: predictions of held-out perturbations beside simple rules and the ceiling, controls split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float

from scduet.metrics import perturbation as metrics
from scduet.metrics.core.inputs import Undefined
from scduet.tasks.perturbation.baselines import Change
from scduet.tasks.perturbation.cases import Case
from scduet.tasks.perturbation.pseudobulk import Pairs, Split
from scduet.tasks.perturbation.screen import Screen, sums

MEASURABLE = 0.2  # correlation of two halves below which no metric can rank predictions
NO_TRANSFER = 0.5  # of the size of the observed change
CEILING = "ceiling"
SCORES = (
    "relative_error", "L2", "delta", "delta_vs_mean", "discrimination", "weighted_r2", "size", "r2", "delta_shared",
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Mean and variance of each gene in the cells of a pair and in those of all other pairs of its context."""

    total: Float[np.ndarray, "pair gene"]
    square: Float[np.ndarray, "pair gene"]
    n: np.ndarray

    def weights(self, pair: int, others: np.ndarray) -> Float[np.ndarray, " gene"]:
        """`metrics.response_weights` of a pair against other pairs."""
        if not len(others):
            raise Undefined("weights need other perturbations")
        mean, error = zip(*(self._of(rows) for rows in (np.array([pair]), others)), strict=True)
        t = np.abs(mean[0] - mean[1]) / np.sqrt(np.maximum(error[0] + error[1], 1e-12))
        return metrics.weights_of_t(t)

    def _of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = self.n[rows].sum()
        mean = self.total[rows].sum(0) / n
        return mean, (self.square[rows].sum(0) / n - mean**2) / max(n - 1, 1)


def spread_of(screen: Screen, pairs: Pairs) -> Spread:
    squared = sp.csr_matrix((screen.values.data**2, screen.values.indices, screen.values.indptr), screen.values.shape)
    square, n = sums(squared, pairs.group, len(pairs.n))
    return Spread(pairs.observed * pairs.n[:, None], square, n)


@dataclass(frozen=True)
class Truth:
    """The observed change of a held-out pair in one split, and what it is compared with."""

    change: Change
    mean: Change  # observed mean expression
    others: Float[np.ndarray, "pair gene"]  # observed changes of the other perturbations of the context
    weights: Float[np.ndarray, " gene"] | None
    genes: np.ndarray  # those that are scored: not the targets themselves


def truth_of(screen: Screen, pairs: Pairs, case: Case, split: Split, spread: Spread) -> Truth:
    assert case.pair is not None
    others = np.flatnonzero((pairs.context == case.context) & (np.arange(len(pairs.n)) != case.pair))
    genes = np.flatnonzero(~screen.genes.isin(case.target))
    try:
        weights = spread.weights(case.pair, others)[genes]
    except Undefined:
        weights = None
    change = pairs.observed[[case.pair, *others]] - split.truth.matched[[case.pair, *others]]
    return Truth(change[0][genes], pairs.observed[case.pair][genes], change[1:][:, genes], weights, genes)


def scores_of(truth: Truth, predicted: Change, base: Change, reference: Change) -> dict[str, float]:
    """Scores of one predicted change. base: control mean that the prediction starts from; reference: the mean change
    of what was trained on."""
    guess, base, reference = predicted[truth.genes], base[truth.genes], reference[truth.genes]
    zero = np.zeros_like(guess)
    centered = truth.change - reference, guess - reference
    return {
        "relative_error": _or_nan(metrics.relative_error, truth.change, guess, zero),
        "L2": float(np.linalg.norm(truth.change - guess)),
        "delta": _or_nan(metrics.pearson, truth.change, guess),
        "delta_vs_mean": _or_nan(metrics.pearson, *centered) if not np.allclose(centered[1], 0) else np.nan,
        "discrimination": _or_nan(_rank, guess, truth.change, truth.others),
        "weighted_r2": np.nan
        if truth.weights is None
        else _or_nan(metrics.weighted_r2, truth.change, guess, truth.weights, reference),
        "size": float(np.linalg.norm(guess) / max(np.linalg.norm(truth.change), 1e-12)),
        "r2": _or_nan(metrics.squared_pearson, truth.mean, base + guess),
    }


def _rank(guess: Change, own: Change, others: np.ndarray) -> float:
    if not len(others):
        raise Undefined("no other perturbations")
    return metrics.discrimination(guess, own, others)


def ceiling_of(pairs: Pairs, pair: int, splits: Sequence[Split], genes: np.ndarray) -> tuple[float, dict[str, float]]:
    """Correlation of halves of the truth, and the scores of a prediction without error.

    The floor of the error is the noise of the truth: a quarter of the squared difference of halves of the perturbed
    cells, and half of that of the halves of the controls.
    """
    halves = [tuple(half[pair][genes] for half in split.halves) for split in splits]
    r = float(np.nanmean([_or_nan(metrics.pearson, *half) for half in halves]))
    floor, size = [], []
    for split, (first, second) in zip(splits, halves, strict=True):
        control = split.truth.matched[pair][genes] - split.seen.matched[pair][genes]
        cells = first - second + control  # halves are against one half of the controls each
        floor.append(np.sqrt((cells**2).sum() / 4 + (control**2).sum() / 2))
        size.append(np.linalg.norm(pairs.observed[pair][genes] - split.truth.matched[pair][genes]))
    reach = _or_nan(metrics.ceiling, r)
    return r, {"relative_error": float(np.mean(floor) / max(np.mean(size), 1e-12)), "L2": float(np.mean(floor)), "delta": reach}


def summarized(held_out: pd.DataFrame) -> pd.DataFrame:
    """Means over held-out perturbations with a measurable effect: one row a task and method, the ceiling last."""
    if held_out.empty:
        return pd.DataFrame(columns=pd.Index(["n", *SCORES]))
    kept = held_out[held_out["measurable"]]
    table = kept.groupby(["task", "method"], sort=False)[list(SCORES)].mean()
    table.insert(0, "n", kept.groupby(["task", "method"], sort=False).size())
    order = sorted(range(len(table)), key=lambda i: (table.index[i][0], table.index[i][1] == CEILING, i))
    return table.iloc[order]


def averaged(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Scores by split -> their means over splits; undefined ones are left out."""
    frame = pd.DataFrame(list(rows))
    keys = ["task", "context", "target", "method"]
    return frame.groupby(keys, sort=False, as_index=False).mean()


def verdict_of(row: Mapping[str, float], measurable: bool) -> str:
    """What one prediction of a held-out perturbation was worth."""
    if not measurable:
        return "no measurable effect"
    if row["relative_error"] >= 1:
        return "no better than no change"
    return "no transfer" if row["size"] < NO_TRANSFER else "better than no change"


def _or_nan(function, *values) -> float:
    try:
        return function(*values)
    except Undefined:
        return np.nan
