"""kBET: chi-squared test of batch proportions in a cell's neighborhood against those of all cells."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from scduet.metrics.core import estimates
from scduet.metrics.core.inputs import at_least_two, codes, points
from scduet.metrics.core.neighbors import Neighbors, nearest_neighbors, neighbor_counts, neighbors_within

ALPHA = 0.05


def kbet(x: ArrayLike, labels: ArrayLike, batch: ArrayLike) -> float:
    """kBET acceptance inside each label, on neighbors searched in the embedding among the label's cells.

    Share of cells whose neighborhood passes the chi-squared test at 0.05, unweighted mean over labels. Range [0, 1],
    higher is better (the R package prints the rejection rate); strict: small shifts are rejected. Neighbors: a quarter
    of the label's mean batch size, 10 to 70, and the cell. Labels with fewer than 10 cells or one batch are left out.
    `kbet_diffusion` is scIB's variant; the values are not comparable. Source: Buettner et al. 2019.

    Raises:
        Undefined: only one batch, or no label can be tested.
    """
    x = points(x)
    labels, batch = codes(labels, n_cells=len(x)), codes(batch, "batch", len(x))
    at_least_two(batch, "kBET", "batches")
    return estimates.mean_of_means(acceptance_within(x, labels, batch)).value


def kbet_global(x: ArrayLike, batch: ArrayLike, n_neighbors: int = 50, neighbors: Neighbors | None = None) -> float:
    """kBET acceptance over all cells without regard to labels (pegasus' and scib-metrics' `kbet`).

    Range [0, 1], higher is better; lowered by true differences in composition. `n_neighbors` counts the cell.

    Raises:
        Undefined: only one batch.
    """
    neighbors = neighbors or nearest_neighbors(points(x), n_neighbors)
    batch = codes(batch, "batch", neighbors.n_cells)
    at_least_two(batch, "kBET", "batches")
    return float(accepted(neighbors.first(n_neighbors), batch).mean())


def acceptance_within(
    x: Float[np.ndarray, "cell dim"],
    labels: Int[np.ndarray, " cell"],
    batch: Int[np.ndarray, " cell"],
    sample: dict[int, Int[np.ndarray, " query"]] | None = None,
) -> list[estimates.Group]:
    """Accepted (1) or rejected (0), for the queried cells of each label that can be tested."""
    near = neighbors_within(x, labels, batch, lambda inside: neighborhood_size(inside) + 1, "kBET", sample)
    return [estimates.Group(accepted(neighbors, inside), len(inside)) for neighbors, inside in near]


def neighborhood_size(batch: Int[np.ndarray, " cell"]) -> int:
    """A quarter of the mean batch size, between 10 and 70 (scIB's rule)."""
    return min(70, max(10, len(batch) // (int(batch.max()) + 1) // 4))


def accepted(
    neighbors: Neighbors, batch: Int[np.ndarray, " cell"], share: Float[np.ndarray, " group"] | None = None
) -> Float[np.ndarray, " query"]:
    """1 where the batches among the neighbors and the cell itself fit `share`, by default that of all cells."""
    from scipy.special import chdtrc

    share = np.bincount(batch) / len(batch) if share is None else share
    observed = neighbor_counts(neighbors, batch, n_groups=len(share))
    observed[np.arange(len(observed)), batch[neighbors.queries]] += 1
    expected = observed.sum(1, keepdims=True) * share
    statistic = (np.square(observed - expected) / expected).sum(1)
    return (chdtrc(len(share) - 1, statistic) >= ALPHA).astype(np.float64)
