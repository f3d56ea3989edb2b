"""Predictors of unmeasured genes from measured ones, learned in cells that have both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

PER_CELL = 1e4  # counts that cells are scaled to before the logarithm

Values = Float[np.ndarray, "cell gene"]


@dataclass(frozen=True)
class Panel:
    """Counts of the genes that spatial and single-cell data share, in the cells of one of the two."""

    counts: sp.csr_matrix  # (cell, gene)

    @cached_property
    def total(self) -> Float[np.ndarray, " cell"]:
        """Counts of each cell in these genes."""
        return np.asarray(self.counts.sum(1), np.float64).ravel()

    @cached_property
    def scores(self) -> Values:
        """Log shares as z-scores over these cells, which takes out what a platform does to the mean of a gene."""
        return _standardized(log_shares(self.counts, self.total).toarray())

    @cached_property
    def depth(self) -> Float[np.ndarray, "cell 1"]:
        """The z-score of the log total."""
        return _standardized(np.log1p(self.total)[:, None])


@dataclass(frozen=True)
class Target:
    """Counts of the genes to predict in the single cells, and the total that their shares are of."""

    counts: sp.csr_matrix  # (cell, gene)
    total: Float[np.ndarray, " cell"]

    @cached_property
    def logged(self) -> sp.csr_matrix:
        """Log shares."""
        return log_shares(self.counts, self.total)


Imputer = Callable[[Panel, Target, Panel], Values]  # shared genes of the single cells, genes to predict, other cells


def log_shares(counts: sp.csr_matrix, total: Float[np.ndarray, " cell"]) -> sp.csr_matrix:
    """log(1 + counts per 10,000 of `total`); zero in cells where that is."""
    factor = np.where(total > 0, PER_CELL / np.maximum(total, 1), 0)
    return sp.csr_matrix(sp.diags(factor) @ counts, dtype=np.float32).log1p()


def ridge(known: Panel, target: Target, new: Panel) -> Values:
    """Linear regression on the z-scores of the shared genes, with the number of cells as penalty."""
    return _linear(known.scores, target, new.scores)


def knn(known: Panel, target: Target, new: Panel, n_neighbors: int) -> Values:
    """The mean of the cells that are nearest by the cosine of the z-scores."""
    from sklearn.neighbors import NearestNeighbors

    k = min(n_neighbors, len(known.total))
    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(known.scores)
    near = search.kneighbors(new.scores, return_distance=False)
    starts = np.arange(0, near.size + 1, k)
    average = sp.csr_matrix(
        (np.full(near.size, 1 / k, np.float32), near.ravel(), starts), (len(near), target.counts.shape[0])
    )
    return (average @ target.logged).toarray()


def depth(known: Panel, target: Target, new: Panel) -> Values:
    """Linear regression on the log total alone, which knows nothing of what a cell is."""
    return _linear(known.depth, target, new.depth)


def mean(known: Panel, target: Target, new: Panel) -> Values:
    """The mean of each gene, whatever the cell."""
    return np.tile(np.asarray(target.logged.mean(0), np.float32), (len(new.total), 1))


IMPUTERS: Mapping[str, Imputer] = {
    "ridge": ridge,
    "knn": partial(knn, n_neighbors=50),
    "knn_10": partial(knn, n_neighbors=10),
}
CHANCE: Mapping[str, Imputer] = {"depth": depth, "mean": mean}  # what an imputer has to beat


def _linear(x: Values, target: Target, new: Values) -> Values:
    center = np.asarray(target.logged.mean(0), np.float32).ravel()
    gram = x.T @ x + len(x) * np.eye(x.shape[1], dtype=x.dtype)  # z-scores sum to 0: the target need not be centered
    return np.maximum(center + new @ np.linalg.solve(gram, (target.logged.T @ x).T), 0)


def _standardized(x: np.ndarray) -> Values:
    spread = x.std(0)
    return ((x - x.mean(0)) / np.where(spread > 1e-6, spread, 1)).astype(np.float32)
