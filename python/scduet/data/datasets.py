"""Small real data that needs no network, and data simulated with known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scduet.data.simulate import simulate
from scduet.options import seed_of

__all__ = ["pbmc68k", "simulate"]


def pbmc68k(batch_effect: bool = True, seed: int = 0) -> AnnData:
    """700 peripheral blood cells, 765 genes, raw counts: the subset of the 68k PBMC that scanpy ships.

    scanpy holds log-normalized values; the counts come back exactly, because within a cell every value is
    log(1 + count * constant) and the smallest count is 1.

    `obs`: "cell_type" (10 kinds, from purified references), "phase" (cell cycle), and with `batch_effect` "batch":
    the cells are real, the second batch is not. A random half of the cells becomes batch "b", as if it came from a less
    sensitive kit: each of its counts is kept with a probability of its own for each gene, drawn from Beta(2, 2)
    (binomial thinning, so counts stay counts).

    Source: Zheng et al., Massively parallel digital transcriptional profiling of single cells, Nat Commun 2017.
    """
    import scanpy

    shipped = scanpy.datasets.pbmc68k_reduced()
    counts = counts_from_lognormal(shipped.raw.X)
    obs = shipped.obs[["bulk_labels", "phase"]].rename(columns={"bulk_labels": "cell_type"}).copy()
    obs.index.name = None
    adata = AnnData(counts, obs=obs)
    adata.var_names = shipped.raw.var_names.astype(str)
    if batch_effect:
        _add_batch(adata, seed)
    return adata


def counts_from_lognormal(values: sparse.spmatrix | sparse.sparray) -> sparse.csr_matrix:
    """Raw counts (cell, gene) from log1p(count * size factor of the cell), if each cell has a gene counted once."""
    matrix = sparse.csr_matrix(values, dtype=np.float64, copy=True)
    matrix.data = np.expm1(matrix.data)
    smallest = np.minimum.reduceat(matrix.data, matrix.indptr[:-1])
    matrix.data = np.rint(matrix.data / np.repeat(smallest, np.diff(matrix.indptr)))
    return matrix.astype(np.float32)


def _add_batch(adata: AnnData, seed: int) -> None:
    random = np.random.default_rng(seed_of(seed))
    second = np.zeros(adata.n_obs, dtype=bool)
    second[random.choice(adata.n_obs, adata.n_obs // 2, replace=False)] = True
    kept = random.beta(2, 2, adata.n_vars)
    adata.obs["batch"] = pd.Categorical(np.where(second, "b", "a"))
    counts = adata.X
    entry = np.repeat(second, np.diff(counts.indptr))
    counts.data[entry] = random.binomial(counts.data[entry].astype(int), kept[counts.indices[entry]])
    counts.eliminate_zeros()
