"""Silhouettes: separation of labels, and overlap of batches within each label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from scduet.metrics.core import estimates
from scduet.metrics.core.inputs import Undefined, at_least_two, codes, points
from scduet.metrics.core.tiles import enough_precision, group_sums

Rows = Int[np.ndarray, " query"]
Metric = Literal["euclidean", "cosine"]
Other = Literal["nearest", "mean"]  # which other group a cell is compared with


def silhouette_label(x: ArrayLike, labels: ArrayLike) -> float:
    """Cell-type silhouette: (mean s + 1) / 2 over cells, with s = (b - a) / max(a, b), a the mean distance to the
    cell's own label, b to the nearest other label.

    Range [0, 1], higher is better; 0.5 means that labels overlap, the best methods reach 0.55 to 0.75 on real data.
    A label with a single cell counts as s = 0. Exact, no n x n matrix. Source: Rousseeuw 1987; scaled as in scIB
    (Luecken et al. 2022).

    Raises:
        Undefined: only one label, or every cell has its own.
    """
    x = points(x)
    return float((silhouette_samples(x, codes(labels, n_cells=len(x))).mean() + 1) / 2)


def silhouette_batch(x: ArrayLike, labels: ArrayLike, batch: ArrayLike) -> float:
    """Batch silhouette: inside each label 1 - |s| of the batch, mean over cells, then unweighted mean over labels.

    Range [0, 1], higher is better; but unintegrated data commonly score 0.75 to 0.85, and batches that overlap in
    pairs hide all else (s looks at the nearest other batch only), so nested batch effects are not seen: read `bras`.
    Labels with one batch, or with as many batches as cells, are left out. Source: scIB (Luecken et al. 2022).

    Raises:
        Undefined: one batch, or no label has two batches.
    """
    return estimates.mean_of_means(list(_within(points(x), labels, batch, "nearest", "euclidean"))).value


def bras(x: ArrayLike, labels: ArrayLike, batch: ArrayLike, metric: Metric = "cosine") -> float:
    """Batch removal adapted silhouette: as `silhouette_batch`, with b the mean distance to the cells of all other
    batches, which sees nested batch effects.

    Range [0, 1], higher is better; well mixed is 0.99, unmixed about 0.3: the floor is not 0. The paper takes the
    cosine, which depends on where the origin is; "euclidean" does not.
    Source: Rautenstrauch and Ohler, Nat Biotechnol 2025, doi 10.1038/s41587-025-02743-4.

    Raises:
        Undefined: one batch, or no label has two batches.
    """
    return estimates.mean_of_means(list(_within(points(x), labels, batch, "mean", metric))).value


def silhouette_samples(
    x: Float[np.ndarray, "cell dim"],
    groups: Int[np.ndarray, " cell"],
    other: Other = "nearest",
    metric: Metric = "euclidean",
    queries: Rows | None = None,
) -> Float[np.ndarray, " query"]:
    """s of each queried cell against all cells; 0 for the only cell of a group and where a = b = 0."""
    n_groups = at_least_two(groups, "silhouette", "groups")
    if n_groups == len(groups):
        raise Undefined("silhouette needs a group with two cells; here every cell is its own group")
    queries = np.arange(len(x)) if queries is None else queries
    sums = group_sums(x, groups, metric, queries, precision=enough_precision(x, groups, metric))
    size = np.bincount(groups)
    own, rows = groups[queries], np.arange(len(queries))
    a = sums[rows, own] / np.maximum(size[own] - 1, 1)
    if other == "nearest":
        means = sums / size
        means[rows, own] = np.inf
        b = means.min(1)
    else:
        b = (sums.sum(1) - sums[rows, own]) / (len(x) - size[own])
    largest = np.maximum(a, b)
    return np.where((size[own] > 1) & (largest > 0), (b - a) / np.where(largest > 0, largest, 1), 0.0)


def batch_overlap(
    x: Float[np.ndarray, "cell dim"],
    labels: Int[np.ndarray, " cell"],
    batch: Int[np.ndarray, " cell"],
    other: Other,
    metric: Metric,
    sample: dict[int, Rows] | None = None,
) -> Iterator[estimates.Group]:
    """1 - |s| of the batch inside each label that has batches to compare; `sample` names the cells queried."""
    for label in range(int(labels.max()) + 1):
        cells = np.flatnonzero(labels == label)
        groups = np.unique(batch[cells], return_inverse=True)[1]
        if 1 < groups.max() + 1 < len(cells):
            queries = None if sample is None else np.searchsorted(cells, sample[label])
            s = silhouette_samples(x[cells], groups, other, metric, queries)
            yield estimates.Group(1 - np.abs(s), len(cells))


def _within(x: np.ndarray, labels: ArrayLike, batch: ArrayLike, other: Other, metric: Metric) -> list[estimates.Group]:
    labels, batch = codes(labels, n_cells=len(x)), codes(batch, "batch", len(x))
    at_least_two(batch, "the batch silhouette", "batches")
    return some_label(list(batch_overlap(x, labels, batch, other, metric)))


def some_label(groups: list[estimates.Group]) -> list[estimates.Group]:
    """The groups themselves.

    Raises:
        Undefined: there is none, since no label can be compared across batches.
    """
    if not groups:
        raise Undefined("no label has cells of two batches (one with two cells), so batches cannot be compared")
    return groups
