"""Neighbors, normalization and moments of spliced and unspliced counts, as arrays: what every velocity starts from.

Constants are those of scVelo (Bergen et al. 2020, Nat Biotechnol 38:1408).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

Dense = Float[np.ndarray, "cell gene"]
Index = Int[np.ndarray, "cell neighbor"]


def shared_counts(spliced: sp.csr_matrix, unspliced: sp.csr_matrix) -> Float[np.ndarray, " gene"]:
    """Number of molecules of each gene in the cells that have it spliced and unspliced."""
    both = (spliced > 0).multiply(unspliced > 0).astype(np.float64)
    return np.asarray(both.multiply(spliced + unspliced).sum(0)).ravel()


def normalized(counts: sp.csr_matrix, totals: Float[np.ndarray, " cell"]) -> sp.csr_matrix:
    """Each cell scaled to the median total; a cell without a count stays empty."""
    factor = np.median(totals) / np.where(totals > 0, totals, 1)
    return sp.csr_matrix(sp.diags(factor.astype(np.float32)) @ counts, dtype=np.float32)


def connected(index: Index) -> sp.csr_matrix:
    """Which cells are neighbors, in either direction."""
    n, k = index.shape
    there = index.ravel() >= 0
    rows, ones = np.repeat(np.arange(n), k)[there], np.ones(int(there.sum()), np.float32)
    found = sp.csr_matrix((ones, (rows, index.ravel()[there])), shape=(n, n))
    return sp.csr_matrix(found.maximum(found.T))


def averaging(connectivities: sp.spmatrix) -> sp.csr_matrix:
    """Rows that average over a cell and its neighbors, unweighted: all with a positive connectivity."""
    linked = sp.csr_matrix(connectivities > 0, dtype=np.float32).maximum(sp.identity(connectivities.shape[0], "f4"))  # type: ignore[attr-defined]
    return sp.csr_matrix(sp.diags((1 / np.asarray(linked.sum(1)).ravel()).astype(np.float32)) @ linked)


def mean_over(average: sp.csr_matrix, values: sp.csr_matrix) -> Dense:
    """Moments: the mean over the neighbors of each cell, dense."""
    return (average @ values).toarray() if sp.issparse(values) else average @ values


def scaled(values: Dense) -> tuple[Dense, Float[np.ndarray, " gene"]]:
    """Each gene from 0 to 1, as veloVI takes it, and the range that it had; a constant gene becomes 0."""
    low, high = values.min(0), values.max(0)
    span = high - low
    return ((values - low) / np.where(span > 0, span, 1)).astype(np.float32), span


def mostly_unspliced(spliced: sp.csr_matrix, unspliced: sp.csr_matrix) -> Bool[np.ndarray, " gene"]:
    """Genes with more unspliced than spliced molecules."""
    return np.asarray(unspliced.sum(0)).ravel() > np.asarray(spliced.sum(0)).ravel()
