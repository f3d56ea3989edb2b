"""What a deep model must beat: PCA of the data as they are, and Harmony on it."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from scduet.data.checks import flags
from scduet.data.locate import locate_main, var_of_main
from scduet.errors import DataError
from scduet.metrics.core.inputs import dense
from scduet.metrics.integration.genes import variable_genes

N_GENES, N_COMPONENTS = 2000, 50


def unintegrated_pca(
    adata, layer: str | None = None, *, n_components: int = N_COMPONENTS
) -> Float[np.ndarray, "cell pc"]:
    """Principal components of the log-normalized data, nothing integrated; `adata` is left as it is.

    adata: AnnData; whole numbers in X (or `layer`) are taken for counts and log-normalized to 10,000 a cell, anything
    else is used as it is. Genes: var["highly_variable"] if present, else the 2,000 most variable. Deterministic.

    Raises DataError where there is no matrix, or it is not finite.
    """
    if layer is None and getattr(adata, "mod", None) is not None:
        adata = adata.mod["rna" if "rna" in adata.mod else next(iter(adata.mod))]
    x, var = locate_main(adata, layer).values, var_of_main(adata, layer)
    if 0 in x.shape:
        raise DataError("there is no X to compute the unintegrated PCA from", 'pass layer=, or set obsm["X_pca"]')
    flagged = flags(var, "highly_variable") if "highly_variable" in var else np.zeros(0, bool)
    x = log_normalized(x)
    return principal_components(x[:, np.flatnonzero(flagged) if flagged.any() else most_variable(x)], n_components)


def log_normalized(x) -> sp.csr_matrix | np.ndarray:
    """log(1 + 10,000 x share of the cell) of counts; the same matrix, as float64, where it is not counts."""
    x = sp.csr_matrix(x, dtype=np.float64) if sp.issparse(x) else np.asarray(x, dtype=np.float64)
    values = np.asarray(x.data if sp.issparse(x) else x)
    if not np.isfinite(values).all():
        raise DataError("X holds NaN or infinite values", "remove or mend them")
    if (values < 0).any() or (values != np.rint(values)).any():
        return x
    total = np.asarray(x.sum(1)).ravel()
    scale = 1e4 / np.where(total > 0, total, 1)
    return (sp.diags(scale) @ x).tocsr().log1p() if sp.issparse(x) else np.log1p(x * scale[:, None])


def principal_components(x, n_components: int = N_COMPONENTS) -> Float[np.ndarray, "cell pc"]:
    """Scores on the leading eigenvectors of the covariance (cells x at most `n_components`); exact, sparse input."""
    mean, vectors = principal_axes(x, n_components)
    return np.asarray(x @ vectors) - mean @ vectors


def principal_axes(
    x, n_components: int = N_COMPONENTS
) -> tuple[Float[np.ndarray, " gene"], Float[np.ndarray, "gene pc"]]:
    """Mean of the cells, and the leading eigenvectors of their covariance: other cells can be projected on these."""
    from scipy.sparse.linalg import eigsh

    x = x.tocsr() if sp.issparse(x) else np.asarray(x, dtype=np.float64)
    mean, covariance = np.asarray(x.mean(0), dtype=np.float64).ravel(), np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, x.shape[0], 4096):  # dense blocks: twice as fast as a sparse product, memory bounded
        block = x[start : start + 4096]
        block = dense(block) - mean
        covariance += block.T @ block
    n = min(n_components, x.shape[1], max(x.shape[0] - 1, 1))
    few = x.shape[1] <= 4 * n_components or not covariance.any()  # ARPACK wants neither
    vectors = (np.linalg.eigh(covariance) if few else eigsh(covariance, n, v0=np.ones(len(mean))))[1][:, ::-1][:, :n]
    vectors *= np.sign(vectors[np.abs(vectors).argmax(0), np.arange(n)])  # one of two mirror images, always the same
    return mean, vectors


def harmony(pca: Float[np.ndarray, "cell pc"], batch, seed: int = 0) -> Float[np.ndarray, "cell pc"]:
    """The PCA corrected by Harmony (Korsunsky et al. 2019) with harmonypy's defaults."""
    import harmonypy
    import pandas as pd

    table = pd.DataFrame({"batch": np.asarray(batch).astype(str)})
    found = harmonypy.run_harmony(pca, table, "batch", random_state=seed, verbose=False).Z_corr
    return np.asarray(found if found.shape[0] == len(pca) else found.T)


def harmony_installed() -> bool:
    """Is harmonypy there?"""
    return find_spec("harmonypy") is not None


def most_variable(x) -> np.ndarray:
    """Columns of the genes that the unintegrated PCA is of: the 2,000 most variable, ascending."""
    logged = (x.data if sp.issparse(x) else x).min(initial=0) >= 0
    genes = variable_genes(x, N_GENES) if logged and x.shape[1] > N_GENES else np.arange(min(x.shape[1], 5000))
    return np.sort(genes)
