"""Diffusion on the kNN graph: scIB's variant of kBET, and diffusion pseudotime."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import sparse

from scduet.metrics.core.inputs import Undefined, at_least_two, codes, points
from scduet.metrics.core.neighbors import Neighbors, nearest_neighbors
from scduet.metrics.integration import kbet as acceptance
from scduet.metrics.integration.graph import umap_weights


def kbet_diffusion(
    x: ArrayLike, labels: ArrayLike, batch: ArrayLike, n_neighbors: int = 50, neighbors: Neighbors | None = None
) -> float:
    """kBET acceptance inside each label, on neighbors in diffusion space (as in scIB; 100 components of UMAP's graph).

    Range [0, 1], higher is better; unweighted mean over labels; comparable with other graph methods, not with `kbet`.
    A label of which components too small to test hold more than a quarter of the cells counts 0. Every label has its
    full number of components (in scib-metrics 0.5.10 a small label reduces those of the labels that sort after it, so
    the score depends on names). Source: Buettner et al. 2019; scIB (Luecken et al. 2022).

    Raises:
        Undefined: only one batch, or no label can be tested.
    """
    neighbors = neighbors or nearest_neighbors(points(x), n_neighbors)
    labels, batch = codes(labels, n_cells=neighbors.n_cells), codes(batch, "batch", neighbors.n_cells)
    at_least_two(batch, "kBET", "batches")
    return acceptance_diffused(neighbors.first(n_neighbors), labels, batch)


def acceptance_diffused(
    neighbors: Neighbors, labels: Int[np.ndarray, " cell"], batch: Int[np.ndarray, " cell"], n_components: int = 100
) -> float:
    """Mean over the labels that can be tested of their acceptance."""
    graph, scores = umap_weights(neighbors), []
    for label in range(int(labels.max()) + 1):
        cells = np.flatnonzero(labels == label)
        inside = np.unique(batch[cells], return_inverse=True)[1]
        if len(cells) >= 10 and inside.max() > 0:
            scores.append(_label_acceptance(graph[cells][:, cells], inside, n_components))
    if not scores:
        raise Undefined("kBET needs a label with at least 10 cells and two batches")
    return float(np.mean(scores))


def _label_acceptance(graph: sparse.csr_array, batch: Int[np.ndarray, " cell"], n_components: int) -> float:
    """Acceptance over the components large enough to test; diffusion never crosses from one to another."""
    k = acceptance.neighborhood_size(batch)
    component = sparse.csgraph.connected_components(graph, directed=False)[1]
    size = np.bincount(component)
    kept = np.flatnonzero(size >= 3 * k) if len(size) > 1 else np.array([0])
    tested = np.isin(component, kept)
    if tested.mean() < 0.75:
        return 0.0
    share = np.bincount(batch[tested], minlength=int(batch.max()) + 1) / tested.sum()
    accepted = []
    for part in kept:
        cells = np.flatnonzero(component == part)
        near = nearest_neighbors(_diffusion_space(graph[cells][:, cells], n_components), k + 1)
        accepted.append(acceptance.accepted(near, batch[cells], share))
    return float(np.concatenate(accepted).mean())


def pseudotime(
    x: ArrayLike, root: int, n_neighbors: int = 15, n_components: int = 10, neighbors: Neighbors | None = None
) -> Float[np.ndarray, " cell"]:
    """Diffusion pseudotime from the cell `root`, 0 to 1; NaN in components of the graph without the root.

    Source: Haghverdi et al. 2016; weights and components as in scanpy, which however drops the slow components that
    carry a long trajectory (eigenvalue above 0.9994).
    """
    neighbors = neighbors or nearest_neighbors(points(x), n_neighbors)
    graph = umap_weights(neighbors.first(n_neighbors))
    component = sparse.csgraph.connected_components(graph, directed=False)[1]
    cells = np.flatnonzero(component == component[root])
    values, vectors = diffusion_map(graph[cells][:, cells], n_components)
    vectors = vectors * _times(values)
    distance = np.linalg.norm(vectors - vectors[np.searchsorted(cells, root)], axis=1)
    time = np.full(neighbors.n_cells, np.nan)
    time[cells] = distance / max(distance.max(), np.finfo(float).tiny)
    return time


def diffusion_map(
    weights: sparse.csr_array, n_components: int
) -> tuple[Float[np.ndarray, " component"], Float[np.ndarray, "cell component"]]:
    """Leading eigenvectors of the symmetric transition matrix, density removed (Coifman et al. 2005)."""
    density = sparse.diags_array(1 / weights.sum(0))
    kernel = density @ weights @ density
    root = sparse.diags_array(1 / np.sqrt(kernel.sum(0)))
    transitions = root @ kernel @ root
    n = len(density.diagonal())
    if n <= max(500, 2 * n_components):
        values, vectors = np.linalg.eigh(transitions.toarray())
    else:
        start = np.random.default_rng(0).normal(size=n)  # ARPACK's own start would be random
        values, vectors = sparse.linalg.eigsh(transitions, min(n_components, n - 1), v0=start)
    order = np.argsort(-np.abs(values))[: min(n_components, n - 1)]
    order = order[np.argsort(-values[order])]
    return values[order], vectors[:, order]


def _diffusion_space(weights: sparse.csr_array, n_components: int) -> Float[np.ndarray, "cell component"]:
    values, vectors = diffusion_map(weights, n_components)
    return vectors * _times(values)


def _times(values: Float[np.ndarray, " component"]) -> Float[np.ndarray, " component"]:
    """Sum of e + e^2 + ... over all diffusion times; 1 for the stationary state, where it diverges."""
    return np.where(values < 1 - 1e-6, values / np.maximum(1 - values, 1e-12), 1.0)
