"""A metric's value with its standard error: zero when every cell was used, positive when cells were sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Estimate:
    """A number, how far sampling may have moved it (0 = all cells were used), from how many cells it comes, and why it
    is NaN where it is."""

    value: float
    standard_error: float = 0.0
    n_cells: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Group:
    """Values of the sampled cells of a group that has `size` cells in all."""

    values: Float[np.ndarray, " cell"]
    size: int


def mean(group: Group) -> Estimate:
    """Mean over cells; standard error of simple random sampling without replacement."""
    n = len(group.values)
    if n >= group.size:
        return Estimate(float(np.mean(group.values)), 0.0, n)
    spread = float(np.std(group.values, ddof=1)) if n > 1 else float("nan")
    return Estimate(float(np.mean(group.values)), spread * np.sqrt((1 - n / group.size) / n), n)


def mean_of_means(groups: Sequence[Group]) -> Estimate:
    """Unweighted mean of the means of groups, sampled independently of each other."""
    each = [mean(group) for group in groups]
    error = np.sqrt(sum(e.standard_error**2 for e in each)) / len(each)
    return Estimate(float(np.mean([e.value for e in each])), float(error), sum(e.n_cells for e in each))


def median(group: Group, scale: float = 1.0, shift: float = 0.0, seed: int = 0) -> Estimate:
    """`scale * (median - shift)`; standard error from 200 bootstrap samples of the cells."""
    values = scale * (group.values - shift)
    n = len(values)
    if n >= group.size:
        return Estimate(float(np.median(values)), 0.0, n)
    draws = np.random.default_rng(seed).integers(0, n, (200, n))
    error = np.std(np.median(values[draws], axis=1), ddof=1) * np.sqrt(1 - n / group.size)
    return Estimate(float(np.median(values)), float(error), n)


def weighted_mean(groups: Sequence[Group]) -> Estimate:
    """Mean over the cells of all groups, sampled independently of each other (stratified sampling)."""
    each, total = [mean(group) for group in groups], sum(group.size for group in groups)
    share = np.array([group.size / total for group in groups])
    value = share @ [e.value for e in each]
    error = np.sqrt(np.square(share) @ [e.standard_error**2 for e in each])
    return Estimate(float(value), float(error), sum(e.n_cells for e in each))
