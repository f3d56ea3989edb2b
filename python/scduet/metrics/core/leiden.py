"""Communities of a graph by the Leiden algorithm (Traag, Waltman and van Eck 2019)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from scipy import sparse


def leiden(
    weights: sparse.sparray | sparse.spmatrix, resolution: float, seed: int, n_iterations: int = 2
) -> Int[np.ndarray, " node"]:
    """The community of each node, by modularity; graspologic-native's Leiden with the randomness of igraph's.

    weights: (node, node), symmetric, none negative. The same seed gives the same communities.
    """
    from graspologic_native import leiden_csr

    graph = sparse.csr_array(weights)
    if graph.nnz == 0:  # which graspologic-native refuses
        return np.arange(graph.shape[0])
    arrays = graph.indptr.astype(np.int64), graph.indices.astype(np.int32), graph.data.astype(np.float64)
    options = dict(resolution=resolution, randomness=0.01, iterations=n_iterations, seed=seed)
    _, community = leiden_csr(*arrays, graph.shape[0], **options)
    return np.array([community[node] for node in range(graph.shape[0])])
