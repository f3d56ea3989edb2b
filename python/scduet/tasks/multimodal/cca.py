"""Canonical correlation of two modalities: what a deep model must beat at matching cells.

The maximum of the likelihood of probabilistic CCA, y_m = W_m z + noise (Bach and Jordan 2005), in closed form: a
singular value decomposition of the whitened covariance between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from scduet.metrics.core.inputs import dense
from scduet.tasks.quality.baselines import N_COMPONENTS, log_normalized, most_variable, principal_axes

N_CANONICAL = 10  # pairs of directions
SHRINKAGE = 1e-3  # of each covariance, as a share of its mean variance, towards independent dimensions
Scores = Float[np.ndarray, "cell pc"]


@dataclass(frozen=True)
class Reduced:
    """Principal axes of one modality, by the cells that decided on them."""

    transform: Callable
    columns: np.ndarray
    center: Float[np.ndarray, " column"]
    axes: Float[np.ndarray, "column pc"]

    @classmethod
    def of(cls, x, modality: str) -> Reduced:
        transform = log_counts if modality == "protein" else log_normalized
        values = transform(x)
        columns = most_variable(values)
        return cls(transform, columns, *principal_axes(values[:, columns], N_COMPONENTS))

    def scores(self, x) -> Scores:
        values = self.transform(x)[:, self.columns]
        return np.asarray(values @ self.axes) - self.center @ self.axes


@dataclass(frozen=True)
class CCA:
    """Directions of two sets of scores that correlate most, scaled by how much they do."""

    centers: tuple[Float[np.ndarray, " pc"], Float[np.ndarray, " pc"]]
    directions: tuple[Float[np.ndarray, "pc canonical"], Float[np.ndarray, "pc canonical"]]
    correlations: Float[np.ndarray, " canonical"]

    @classmethod
    def of(cls, x: Scores, y: Scores, n: int = N_CANONICAL) -> CCA:
        """x, y: scores of the same cells, row by row."""
        centers = x.mean(0), y.mean(0)
        a, b = x - centers[0], y - centers[1]
        whites = _whitening(a), _whitening(b)
        u, found, v = np.linalg.svd((a @ whites[0]).T @ (b @ whites[1]) / max(len(a) - 1, 1))
        n = min(n, len(found))
        return cls(centers, (whites[0] @ u[:, :n], whites[1] @ v[:n].T), found[:n])

    def project(self, scores: Scores, side: int) -> Float[np.ndarray, "cell canonical"]:
        """The expected state of a cell by the first (0) or second (1) set of scores, of length 1."""
        z = (scores - self.centers[side]) @ self.directions[side] * self.correlations
        return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


def log_counts(x) -> np.ndarray:
    """log(1 + counts) of proteins, with what was not measured at the mean of its column."""
    values = np.log1p(np.asarray(dense(x), np.float64))
    known = ~np.isnan(values)
    mean = np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known, values, mean)


def _whitening(a: Scores) -> Float[np.ndarray, "pc pc"]:
    covariance = a.T @ a / max(len(a) - 1, 1)
    values, vectors = np.linalg.eigh(covariance)
    least = SHRINKAGE * max(values.mean(), 1e-12)
    return (vectors / np.sqrt(np.maximum(values, 0) + least)) @ vectors.T
