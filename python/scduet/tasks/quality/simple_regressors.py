"""What a deep model must beat where it predicts measurements: nearest neighbors, ridge and kernel ridge on PCA."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from scduet.tasks.quality.baselines import log_normalized, most_variable, principal_axes

Scores = Float[np.ndarray, "cell pc"]
Values = Float[np.ndarray, "cell feature"]
Predict = Callable[[Scores], Values]

N_COMPONENTS, N_NEIGHBORS, PENALTY = 50, 50, 1.0
LENGTH_SCALE, KERNEL_PENALTY = 10.0, 0.2  # of the winner of protein prediction at NeurIPS 2021 (Lance et al. 2022)
MAX_CELLS = 5000  # that kernel ridge learns from: its matrix is of their square
PIECE = 2048  # cells predicted together


def mean(scores: Scores, values: Values, seed: int) -> Predict:
    """The mean of each feature, whatever the cell."""
    return lambda new: np.broadcast_to(values.mean(0), (len(new), values.shape[1]))


def knn(scores: Scores, values: Values, seed: int) -> Predict:
    """The mean of the 50 nearest cells."""
    from sklearn.neighbors import KNeighborsRegressor

    return KNeighborsRegressor(min(N_NEIGHBORS, len(scores))).fit(scores, values).predict


def ridge(scores: Scores, values: Values, seed: int) -> Predict:
    """Linear regression with a small penalty."""
    from sklearn.linear_model import Ridge

    return Ridge(PENALTY).fit(scores, values).predict


def kernel_ridge(scores: Scores, values: Values, seed: int) -> Predict:
    """Ridge with a Gaussian kernel on standardized scores of at most MAX_CELLS cells."""
    from scipy.linalg import solve

    chosen = np.random.default_rng(seed).permutation(len(scores))[:MAX_CELLS]
    known, center = _standardized(scores[chosen]), values.mean(0)
    weights = solve(
        _kernel(known, known) + KERNEL_PENALTY * np.eye(len(known)), values[chosen] - center, assume_a="pos"
    )

    def predict(new: Scores) -> Values:
        starts = range(0, len(new), PIECE)
        parts = [_kernel(_standardized(new[i : i + PIECE]), known) @ weights for i in starts]
        return center + np.concatenate([np.zeros((0, values.shape[1])), *parts])

    return predict


REGRESSORS: dict[str, Callable[[Scores, Values, int], Predict]] = {
    "knn": knn,
    "ridge": ridge,
    "kernel_ridge": kernel_ridge,
    "mean": mean,
}


def scores_of(x, shown: np.ndarray, others: list) -> list[Scores]:
    """PCA scores of counts `x` (cell, gene) and of each of `others`; the cells `shown` of `x` decide on the axes."""
    logged = log_normalized(x)
    genes = most_variable(logged[shown])
    center, axes = principal_axes(logged[shown][:, genes], N_COMPONENTS)
    return [np.asarray(one[:, genes] @ axes) - center @ axes for one in (logged, *map(log_normalized, others))]


def _standardized(scores: Scores) -> Scores:
    """Each cell's scores with mean 0 and standard deviation 1."""
    spread = scores.std(1, keepdims=True)
    return (scores - scores.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)


def _kernel(a: Scores, b: Scores) -> Float[np.ndarray, "a b"]:
    squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return np.exp(-np.maximum(squared, 0) / (2 * LENGTH_SCALE**2))
