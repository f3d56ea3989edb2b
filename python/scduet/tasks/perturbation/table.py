"""The honest table: predictions of held-out perturbations beside simple rules and the ceiling, controls split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int

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
    """Observed changes of all pairs in one split."""

    change: Float[np.ndarray, "pair gene"]
    square: Float[np.ndarray, " pair"]  # sum over genes of the squared change

    @classmethod
    def of(cls, pairs: Pairs, split: Split) -> Truth:
        change = pairs.observed - split.truth.matched
        return cls(change, np.einsum("ij,ij->i", change, change))


@dataclass(frozen=True)
class Yardstick:
    """What a held-out pair is compared with, whatever the split."""

    mean: Change  # observed mean expression
    others: Int[np.ndarray, " other"]  # the other perturbations of the context
    weights: Float[np.ndarray, " gene"] | None
    own: Int[np.ndarray, " target"]  # the targets themselves, which are not scored


def yardstick_of(screen: Screen, pairs: Pairs, case: Case, spread: Spread) -> Yardstick:
    assert case.pair is not None
    others = np.flatnonzero((pairs.context == case.context) & (np.arange(len(pairs.n)) != case.pair))
    own = np.flatnonzero(screen.genes.isin(case.target))
    try:
        weights = spread.weights(case.pair, others)
        weights[own] = 0
    except Undefined:
        weights = None
    return Yardstick(pairs.observed[case.pair], others, weights, own)


def scores_of(
    case: Case, truth: Truth, yardstick: Yardstick, changes: Mapping[str, Change], base: Change, reference: Change
) -> dict[str, dict[str, float]]:
    """Scores of predicted changes, by method. base: control mean that the predictions start from; reference: the mean
    change of what was trained on. Each score is that of `scduet.metrics` on the genes that are not targeted."""
    kept = np.delete(np.arange(len(base)), yardstick.own)
    guess = np.array(list(changes.values()))[:, kept]
    own, expected = truth.change[case.pair][kept], reference[kept]
    error, size = np.linalg.norm(own - guess, axis=1), np.linalg.norm(own)
    weight = None if yardstick.weights is None else yardstick.weights[kept]
    beyond = np.full(len(guess), np.nan) if weight is None else np.square(own - expected) @ weight
    centered = guess - expected
    informed = np.abs(centered).max(1) > 1e-9
    found = {
        "relative_error": error / size if size > 0 else np.full(len(guess), np.nan),
        "L2": error,
        "delta": _correlations(own, guess),
        "delta_vs_mean": np.where(informed, _correlations(own - expected, centered), np.nan),
        "discrimination": _ranks(truth, yardstick, changes, error),
        "weighted_r2": np.nan if weight is None else 1 - np.square(own - guess) @ weight / beyond,
        "size": np.linalg.norm(guess, axis=1) / max(size, 1e-12),
        "r2": _correlations(yardstick.mean[kept], base[kept] + guess) ** 2,
    }
    columns = {name: np.broadcast_to(values, len(guess)) for name, values in found.items()}
    return {method: {name: float(x[i]) for name, x in columns.items()} for i, method in enumerate(changes)}


def _ranks(truth: Truth, yardstick: Yardstick, changes: Mapping[str, Change], error: np.ndarray) -> np.ndarray:
    """`metrics.discrimination` of each prediction, by squared distances from products."""
    if not len(yardstick.others):
        return np.full(len(changes), np.nan)
    guess = np.array(list(changes.values()))
    guess[:, yardstick.own] = 0
    square = truth.square[yardstick.others] - np.square(truth.change[np.ix_(yardstick.others, yardstick.own)]).sum(1)
    products = (truth.change @ guess.T)[yardstick.others]
    distance = np.maximum(square[:, None] - 2 * products + np.square(guess).sum(1), 0)
    own = np.square(error)
    same = np.isclose(distance, own, rtol=1e-7)
    return ((distance < own) & ~same).mean(0) + same.mean(0) / 2


def _correlations(own: Change, guess: Float[np.ndarray, "method gene"]) -> Float[np.ndarray, " method"]:
    """Of each row with `own`; NaN for rows that are the same for all genes."""
    a, b = own - own.mean(), guess - guess.mean(1, keepdims=True)
    scale = np.linalg.norm(a) * np.linalg.norm(b, axis=1)
    return np.where(scale > 1e-12, b @ a / np.maximum(scale, 1e-12), np.nan)


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
    return r, {
        "relative_error": float(np.mean(floor) / max(np.mean(size), 1e-12)),
        "L2": float(np.mean(floor)),
        "delta": reach,
    }


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
