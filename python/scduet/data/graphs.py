"""Graphs of cells by the correlation of their values, and pairs of cells that have no edge."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int

PIECE = 1000  # cells whose correlations with all others are held at once


def most_correlated(values: sp.csr_matrix, n_neighbors: int) -> Int[np.ndarray, "2 edge"]:
    """Edges from each row to the others with the highest Pearson correlation over columns, each edge once."""
    n, mean = values.shape[0], np.asarray(values.mean(1)).ravel()
    deviation = np.sqrt(np.maximum(np.asarray(values.multiply(values).mean(1)).ravel() - mean**2, 1e-12))
    pairs = []
    for start in range(0, n, PIECE):
        own = np.arange(start, min(start + PIECE, n))
        together = (values[own] @ values.T).toarray() / values.shape[1] - np.outer(mean[own], mean)
        correlation = together / np.outer(deviation[own], deviation)
        correlation[own - start, own] = -2
        near = np.argsort(-correlation, axis=1, kind="stable")[:, :n_neighbors]
        pairs.append(np.stack([np.repeat(own, n_neighbors), near.ravel()]))
    return np.unique(np.sort(np.concatenate(pairs, 1), axis=0), axis=1)


def without_edge(
    edges: Int[np.ndarray, "2 edge"], n_cells: int, n: int, draw: np.random.Generator
) -> Int[np.ndarray, "2 pair"]:
    """`n` random pairs of cells without an edge, or fewer where there are not that many."""
    known = edges.min(0) * n_cells + edges.max(0)
    pairs = np.unique(np.sort(draw.integers(0, n_cells, (2, 4 * n)), axis=0), axis=1)
    free = (pairs[0] != pairs[1]) & ~np.isin(pairs[0] * n_cells + pairs[1], known)
    return draw.permutation(pairs[:, free], axis=1)[:, :n]
