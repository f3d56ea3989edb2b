"""Agreement of clusters with labels: NMI and ARI of k-means and of Leiden over a resolution grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from scduet.metrics.core.inputs import at_least_two, codes, points
from scduet.metrics.core.leiden import leiden
from scduet.metrics.core.neighbors import Neighbors, nearest_neighbors
from scduet.metrics.integration.graph import umap_weights

RESOLUTIONS = tuple(round(0.2 * i, 1) for i in range(1, 11))  # scIB's grid, 0.2 to 2.0
Clusters = Int[np.ndarray, " cell"]


def nmi_kmeans(x: ArrayLike, labels: ArrayLike, seed: int = 0) -> float:
    """Normalized mutual information of the labels and k-means (k = number of labels, best of 10 starts).

    Range [0, 1], higher is better. One start, as in scib-metrics, is luck: 0.965 or 0.999 on the same data.
    """
    return nmi(codes(labels), kmeans_clusters(points(x), codes(labels), seed))


def ari_kmeans(x: ArrayLike, labels: ArrayLike, seed: int = 0) -> float:
    """Adjusted Rand index of the labels and k-means (k = number of labels, best of 10 starts).

    Range [-0.5, 1], 0 is chance, higher is better.
    """
    return ari(codes(labels), kmeans_clusters(points(x), codes(labels), seed))


def nmi_leiden(x: ArrayLike, labels: ArrayLike, seed: int = 0, neighbors: Neighbors | None = None) -> float:
    """Normalized mutual information of the labels and Leiden clusters, the best over resolutions 0.2 to 2.0.

    Range [0, 1], higher is better; optimistic, since the labels choose the resolution (as in scIB).
    """
    labels = codes(labels)
    grid = leiden_clusters(neighbors or nearest_neighbors(points(x), 15), seed)
    return nmi(labels, best_clusters(labels, grid))


def ari_leiden(x: ArrayLike, labels: ArrayLike, seed: int = 0, neighbors: Neighbors | None = None) -> float:
    """Adjusted Rand index of the labels and Leiden clusters at the resolution that has the best NMI (as in scIB).

    Range [-0.5, 1], 0 is chance, higher is better.
    """
    labels = codes(labels)
    grid = leiden_clusters(neighbors or nearest_neighbors(points(x), 15), seed)
    return ari(labels, best_clusters(labels, grid))


def nmi(labels: Clusters, clusters: Clusters) -> float:
    """Normalized mutual information, arithmetic mean of the entropies (scikit-learn's)."""
    from sklearn.metrics import normalized_mutual_info_score

    at_least_two(labels, "NMI", "labels")
    return float(normalized_mutual_info_score(labels, clusters))


def ari(labels: Clusters, clusters: Clusters) -> float:
    """Adjusted Rand index (scikit-learn's)."""
    from sklearn.metrics import adjusted_rand_score

    at_least_two(labels, "ARI", "labels")
    return float(adjusted_rand_score(labels, clusters))


def kmeans_clusters(x: Float[np.ndarray, "cell dim"], labels: Clusters, seed: int = 0) -> Clusters:
    """k-means with as many clusters as labels (or as distinct points, where there are fewer), best of 10 starts."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    k = at_least_two(labels, "k-means against labels", "labels")
    with warnings.catch_warnings():  # fewer distinct points than labels: fewer clusters, scored as such
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(k, n_init=10, random_state=seed).fit_predict((x - x.mean(0)).astype(np.float32))


def leiden_clusters(neighbors: Neighbors, seed: int = 0, resolutions: Sequence[float] = RESOLUTIONS) -> list[Clusters]:
    """Leiden (modularity, two iterations) on UMAP's weights of the 15-neighbor graph, one per resolution."""
    graph = umap_weights(neighbors.first(15))
    return [leiden(graph, resolution, seed) for resolution in resolutions]


def best_clusters(labels: Clusters, grid: Sequence[Clusters]) -> Clusters:
    """The clustering of the grid with the highest NMI against the labels."""
    return max(grid, key=lambda clusters: nmi(labels, clusters))
