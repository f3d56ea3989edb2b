"""Principal component regression: how much of the variance a covariate explains, before and after integration."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from scduet.metrics.core.inputs import Undefined, at_least_two, codes, points


def pcr_comparison(before: ArrayLike, after: ArrayLike, batch: ArrayLike) -> float:
    """Share of the batch variance that integration removed: (PCR_before - PCR_after) / PCR_before, at least 0.

    Range [0, 1], higher is better; blind to cell types, so a method that removes true differences in composition
    scores 1. With all components, PCR (variance-weighted R2) is the between-batch share of the total sum of squares,
    so neither PCA nor regression is needed. Source: scIB (Luecken et al. 2022), Buettner et al. 2019.

    Raises:
        Undefined: one batch, a constant `after`, or a `before` in which the batches have equal means.
    """
    before, after = points(before, "before"), points(after, "after")
    groups = codes(batch, "batch", len(after))
    at_least_two(groups, "PCR comparison", "batches")
    if (after == after[0]).all():
        raise Undefined("PCR comparison: the embedding is constant, so it has no variance to explain")
    first = explained_variance(before, np.eye(groups.max() + 1)[groups])
    if first < 1e-12:
        raise Undefined("PCR comparison: the batches explain none of the variance before integration")
    return float(max(0.0, (first - explained_variance(after, np.eye(groups.max() + 1)[groups])) / first))


def explained_variance(x: Float[np.ndarray, "cell dim"], design: Float[np.ndarray, "cell covariate"]) -> float:
    """Share of the total variance of `x` that a linear model on `design` explains; 0 for a constant `x`."""
    x, design = x - x.mean(0), design - design.mean(0)
    total = np.square(x).sum()
    if total <= 0:
        return 0.0
    # the design has few columns: its small Gram matrix is cheaper than any factorization of x
    cross = design.T @ x
    return float(np.sum(cross * (np.linalg.pinv(design.T @ design, 1e-10, hermitian=True) @ cross)) / total)
