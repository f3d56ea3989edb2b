"""Isolated labels: separation of cell types that occur in few batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from scduet.metrics.core import estimates
from scduet.metrics.core.inputs import Undefined, at_least_two, codes, points
from scduet.metrics.core.neighbors import Neighbors, nearest_neighbors
from scduet.metrics.integration.clustering import leiden_clusters
from scduet.metrics.integration.silhouette import silhouette_samples


def isolated_labels(x: ArrayLike, labels: ArrayLike, batch: ArrayLike, threshold: int | None = None) -> float:
    """Silhouette of the isolated labels: mean (s + 1) / 2 of each label's cells, unweighted mean over labels.

    Isolated: present in at most `threshold` batches, by default the fewest batches that any label is in. Range [0, 1],
    higher is better. Undefined if every label is in every batch (scib-metrics then silently scores all labels). Source:
    scIB (Luecken et al. 2022).

    Raises:
        Undefined: no label is isolated.
    """
    x = points(x)
    labels, batch = codes(labels, n_cells=len(x)), codes(batch, "batch", len(x))
    wanted = find_isolated(labels, batch, threshold)
    cells = np.flatnonzero(np.isin(labels, wanted))
    return by_label(silhouette_samples(x, labels, queries=cells), labels[cells], wanted, np.bincount(labels)).value


def isolated_f1(
    x: ArrayLike,
    labels: ArrayLike,
    batch: ArrayLike,
    threshold: int | None = None,
    seed: int = 0,
    neighbors: Neighbors | None = None,
) -> float:
    """F1 of each isolated label against its best Leiden cluster over resolutions 0.2 to 2.0, mean over labels.

    Range [0, 1], higher is better. Source: scIB (Luecken et al. 2022), which used Louvain.

    Raises:
        Undefined: no label is isolated.
    """
    labels = codes(labels)
    wanted = find_isolated(labels, codes(batch, "batch", len(labels)), threshold)
    return best_f1(labels, wanted, leiden_clusters(neighbors or nearest_neighbors(points(x), 15), seed))


def find_isolated(
    labels: Int[np.ndarray, " cell"], batch: Int[np.ndarray, " cell"], threshold: int | None = None
) -> Int[np.ndarray, " isolated"]:
    """Labels that are in at most `threshold` batches (default: the fewest of any label), if that is not all batches."""
    n_batches = at_least_two(batch, "isolated labels", "batches")
    pairs = np.unique(labels * n_batches + batch) // n_batches
    present = np.bincount(pairs, minlength=int(labels.max()) + 1)
    threshold = int(present.min()) if threshold is None else threshold
    found = np.flatnonzero(present <= threshold)
    if threshold >= n_batches or not len(found):
        raise Undefined("no label is isolated: every label is in every batch")
    return found


def by_label(
    silhouette: Float[np.ndarray, " query"],
    labels: Int[np.ndarray, " query"],
    wanted: Int[np.ndarray, " isolated"],
    size: np.ndarray,
) -> estimates.Estimate:
    """Mean over the wanted labels of the mean (s + 1) / 2 of their queried cells."""
    return estimates.mean_of_means([estimates.Group((silhouette[labels == w] + 1) / 2, int(size[w])) for w in wanted])


def best_f1(
    labels: Int[np.ndarray, " cell"], wanted: Int[np.ndarray, " isolated"], grid: Sequence[Int[np.ndarray, " cell"]]
) -> float:
    """For each wanted label the highest F1 of any cluster of any clustering, averaged over labels."""
    best = np.zeros(len(wanted))
    for clusters in grid:
        size = np.bincount(clusters)
        for i, label in enumerate(wanted):
            hits = np.bincount(clusters[labels == label], minlength=len(size))
            best[i] = max(best[i], (2 * hits / (size + hits.sum())).max())
    return float(best.mean())
