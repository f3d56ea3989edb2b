"""How near estimated proportions of cell types are to true ones, (spot, type) each.

RMSE and divergence are means over spots, correlations means over types, AUPR is over all entries. Compare with the same
proportions in every spot, which a method should beat.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from scduet.metrics.core.inputs import Undefined, points


def proportion_rmse(truth: ArrayLike, proportions: ArrayLike) -> float:
    """Root mean squared error over the types of a spot, averaged over spots. Range [0, 1], lower is better."""
    truth, found = _pair(truth, proportions)
    return float(np.sqrt(np.square(truth - found).mean(1)).mean())


def proportion_jsd(truth: ArrayLike, proportions: ArrayLike) -> float:
    """Jensen-Shannon divergence with logs to base 2, averaged over spots. Range [0, 1], lower is better."""
    from scipy.special import rel_entr

    truth, found = _pair(truth, proportions)
    middle = (truth + found) / 2
    return float(((rel_entr(truth, middle) + rel_entr(found, middle)).sum(1) / 2 / np.log(2)).mean())


def presence_aupr(truth: ArrayLike, proportions: ArrayLike) -> float:
    """Area under the precision-recall curve of finding the types that are in a spot, over all entries.

    Range [0, 1], higher is better; chance is the share of entries above zero.

    Raises:
        Undefined: all types are in every spot.
    """
    from sklearn.metrics import average_precision_score

    truth, found = _pair(truth, proportions)
    there = truth > 0
    if there.all():
        raise Undefined("AUPR of presence needs spots without some type")
    return float(average_precision_score(there.ravel(), found.ravel()))


def type_correlation(truth: ArrayLike, proportions: ArrayLike) -> Float[np.ndarray, " type"]:
    """Pearson correlation across spots for each type, higher is better.

    0 for a type whose estimate is the same everywhere, NaN for one whose true share is.
    """
    return _by_type(truth, proportions, _pearson)


def type_concordance(truth: ArrayLike, proportions: ArrayLike) -> Float[np.ndarray, " type"]:
    """Lin's concordance correlation across samples for each type: 1 on the diagonal, unlike Pearson's also in size.

    Range [-1, 1], higher is better; NaN for a type whose true share is the same everywhere.
    Source: Lin 1989, Biometrics 45:255.
    """
    return _by_type(truth, proportions, _concordance)


def _by_type(truth: ArrayLike, proportions: ArrayLike, function) -> Float[np.ndarray, " type"]:
    pairs = zip(*(values.T for values in _pair(truth, proportions)), strict=True)
    return np.array([np.nan if np.ptp(a) == 0 else function(a, b) for a, b in pairs])


def _pearson(truth: Float[np.ndarray, " spot"], found: Float[np.ndarray, " spot"]) -> float:
    return float(np.corrcoef(truth, found)[0, 1]) if np.ptp(found) > 0 else 0.0


def _concordance(truth: Float[np.ndarray, " spot"], found: Float[np.ndarray, " spot"]) -> float:
    apart = (truth.mean() - found.mean()) ** 2
    return float(2 * np.cov(truth, found, bias=True)[0, 1] / (truth.var() + found.var() + apart))


def _pair(
    truth: ArrayLike, proportions: ArrayLike
) -> tuple[Float[np.ndarray, "spot type"], Float[np.ndarray, "spot type"]]:
    truth, found = points(truth, "truth"), points(proportions, "proportions")
    if truth.shape != found.shape:
        raise ValueError(f"truth has shape {truth.shape} and proportions {found.shape}; they must agree")
    if min(truth.min(), found.min()) < 0:
        raise ValueError("proportions are not below 0")
    return truth, found
