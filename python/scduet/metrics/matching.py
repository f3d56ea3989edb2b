"""Metrics of matched modalities: embeddings of the same cells by two modalities, row by row, or a matrix of matches."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from numpy.typing import ArrayLike

from scduet.metrics.core.inputs import Undefined, points
from scduet.metrics.integration.lisi import ilisi

TILE = 1024  # cells whose distances to all others are held together


def foscttm(x: ArrayLike, y: ArrayLike) -> float:
    """Fraction of samples closer than the true match: of the other cells, those nearer than the cell's own other half.

    x, y: the same cells (cell, dim) by two modalities, in the same order. A mean over cells and both directions.
    Range [0, 1], 0 is perfect, 0.5 is chance, lower is better. Ties count as not closer. Source: Liu et al. 2019, WABI
    143:10.

    Raises:
        Undefined: fewer than two cells.
    """
    x, y = _paired(x, y)
    closer = np.zeros(2)
    for start in range(0, len(x), TILE):
        for way, (a, b) in enumerate(((x, y), (y, x))):
            squared, own = _squared(a, b, start)
            closer[way] += (squared < own[:, None]).sum()
    return float(closer.mean() / (len(x) * (len(x) - 1)))


def top_k_accuracy(x: ArrayLike, y: ArrayLike, k: int = 5) -> float:
    """Share of cells whose own other half is among the `k` nearest cells of the other modality, both directions.

    x, y: as in `foscttm`. Range [0, 1], k / n by chance, higher is better. Ties count as not closer.

    Raises:
        Undefined: fewer than two cells.
    """
    x, y = _paired(x, y)
    if k < 1:
        raise ValueError(f"k={k} is a number of cells, from 1 up")
    found = np.zeros(2)
    for start in range(0, len(x), TILE):
        for way, (a, b) in enumerate(((x, y), (y, x))):
            squared, own = _squared(a, b, start)
            found[way] += ((squared < own[:, None]).sum(1) < k).sum()
    return float(found.mean() / len(x))


def match_probability(matches: ArrayLike | sp.spmatrix) -> float:
    """Mean probability of the true match, of a matrix (cell, cell) of weights whose true matches are on the diagonal.

    Weights below 0 count as 0, and a row without any as probability 0. Range [0, 1], 1 / n by chance, higher is better.
    Source: Lance et al. 2022, PMLR 176:162.

    Raises:
        ValueError: the matrix is not square, or holds NaN.
    """
    weights = sp.csr_matrix(matches, dtype=np.float64)
    if weights.shape[0] != weights.shape[1] or not weights.shape[0]:
        raise ValueError(f"matches has shape {weights.shape}; expected a square matrix, cells x cells")
    if not np.isfinite(weights.data).all():
        raise ValueError("matches has NaN or infinite weights")
    weights = weights.maximum(0)
    total = np.asarray(weights.sum(1)).ravel()
    return float((weights.diagonal() / np.where(total > 0, total, 1)).mean())


def knn_overlap(x: ArrayLike, y: ArrayLike, n_neighbors: int = 30) -> float:
    """Share of a cell's nearest cells by one modality that are also among those by the other.

    x, y: as in `foscttm`, each in a space of its own: distances between the two are not used. The cell itself does not
    count. Range [0, 1], n_neighbors / n by chance, higher is better. Source: "knn_auc" of Open Problems is the mean of
    this over numbers of neighbors (Luecken et al. 2025, Nature Biotechnology).

    Raises:
        Undefined: fewer than two cells, or all in one place.
    """
    from scduet.metrics.core.neighbors import nearest_neighbors

    x, y = _paired(x, y, same_width=False)
    first, second = (nearest_neighbors(one, n_neighbors + 1).index for one in (x, y))
    shared = [len(np.intersect1d(a, b)) for a, b in zip(first, second, strict=True)]
    return float(np.mean(shared) / first.shape[1])


def modality_mixing(x: ArrayLike, y: ArrayLike, n_neighbors: int = 90) -> float:
    """Integration LISI of the two modalities in their common space: 1 where every neighborhood has as many of both.

    x, y: cells (cell, dim) by two modalities, not necessarily the same ones. Range [0, 1], higher is better. Mixing is
    necessary for matching and not sufficient: cells can mix and be at the wrong place, so read it beside `foscttm`.
    """
    x, y = points(x, "x"), points(y, "y")
    _check_width(x, y)
    return ilisi(np.concatenate([x, y]), np.repeat([0, 1], [len(x), len(y)]), n_neighbors)


def _paired(x: ArrayLike, y: ArrayLike, same_width: bool = True) -> tuple[np.ndarray, np.ndarray]:
    x, y = points(x, "x"), points(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} cells and y {len(y)}: they must be the same cells in the same order")
    if same_width:
        _check_width(x, y)
    if len(x) < 2:
        raise Undefined("a match needs two cells or more to choose from")
    return x, y


def _check_width(x: np.ndarray, y: np.ndarray) -> None:
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} dimensions and y {y.shape[1]}: they are not in one space")


def _squared(
    a: np.ndarray, b: np.ndarray, start: int
) -> tuple[Float[np.ndarray, "part cell"], Float[np.ndarray, " part"]]:
    """Squared distances of some cells of `a` to all of `b`, and of each to its own other half."""
    part = a[start : start + TILE]
    squared = np.square(part).sum(1)[:, None] + np.square(b).sum(1) - 2 * part @ b.T
    return squared, squared[np.arange(len(part)), np.arange(start, start + len(part))]
