"""Poisson deviance."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def poisson_deviance(
    observed: Float[np.ndarray, "cell gene"], mean: Float[np.ndarray, "cell gene"]
) -> Float[np.ndarray, " cell"]:
    """Poisson deviance of each cell, summed over genes; 0 where the mean is what was observed."""
    from scipy.special import xlogy

    return 2 * (xlogy(observed, observed) - xlogy(observed, mean) - observed + mean).sum(1)
