"""What a network that denoises must beat, each a function of counts (CSR) that gives expected counts (cell, gene).

Results are at the depth of each cell, unless said otherwise.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from numpy.typing import ArrayLike

from scduet.errors import DataError, OptionError
from scduet.metrics.core.inputs import codes, dense
from scduet.tasks.quality.baselines import log_normalized, principal_components

Expected = Float[np.ndarray, "cell gene"]


def gene_mean(counts: sp.csr_matrix) -> Expected:
    """The gene's share of all molecules, times the depth of the cell: the zero of every score."""
    return np.outer(totals(counts), np.asarray(counts.sum(0)).ravel() / counts.sum())


def type_means(counts: sp.csr_matrix, labels: ArrayLike) -> Expected:
    """The same within each cell type."""
    kind, found = codes(labels), np.empty(counts.shape)
    for level in range(kind.max() + 1):
        rows = np.flatnonzero(kind == level)
        found[rows] = gene_mean(counts[rows])
    return found


def walk(counts: sp.csr_matrix, t: int = 3, n_neighbors: int = 15, n_components: int = 30) -> Expected:
    """Shares of genes averaged along a lazy random walk of `t` steps on the graph of nearest neighbors.

    The neighbors are those in `n_components` principal components of the square roots of the shares, each cell one of
    its own. Source: the "diffusion" of Batson, Royer and Webber 2019, bioRxiv 786269.

    Raises OptionError for numbers below 1, DataError for fewer cells than neighbors.
    """
    from sklearn.neighbors import kneighbors_graph

    for name, value in {"t": t, "n_neighbors": n_neighbors, "n_components": n_components}.items():
        if value < 1:
            raise OptionError(f"{name}={value!r}", f"{name} is a whole number from 1 up")
    if counts.shape[0] < n_neighbors:
        raise DataError(f"{counts.shape[0]} cells do not have {n_neighbors} neighbors", "pass a smaller n_neighbors=")
    total = totals(counts)
    shares = sp.csr_matrix(sp.diags(1 / total) @ counts)
    root = shares.copy()
    root.data = np.sqrt(root.data * np.median(total))
    graph = kneighbors_graph(principal_components(root, n_components), n_neighbors, include_self=True)
    graph = graph + graph.T
    step = 0.5 * (sp.diags(1 / np.asarray(graph.sum(1)).ravel()) @ graph + sp.identity(len(total)))
    step, found = sp.csr_matrix(step, dtype=np.float32), shares.astype(np.float32).toarray()
    for _ in range(t):
        found = step @ found
    return at_depth(found, total)


def alra(counts: sp.csr_matrix, rank: int | None = None) -> Expected:
    """ALRA: a low rank of the log-normalized counts, what is near zero set to zero, moments of the others restored.

    rank: None for the last singular value whose gap to the next stands out of those from the 79th on. Observed counts
    are put back where the result is zero: the values are no expectations. Needs more than 101 cells and genes unless
    the rank is given. Source: Linderman et al. 2022, Nature Communications 13:192.
    """
    logged = dense(log_normalized(counts))
    n = min(100, min(logged.shape) - 1)
    if rank is None and n < 100:
        raise DataError(f"{logged.shape} cells and genes are too few to find the rank", "pass rank=")
    left, values, right = _leading(logged, n)
    k = _rank(values) if rank is None else rank
    low = (left[:, :k] * values[:k]) @ right[:k]
    kept = np.where(low > np.abs(np.quantile(low, 0.001, axis=0)), low, 0)
    (mean, spread), (old_mean, old_spread) = _moments(kept), _moments(logged)
    with np.errstate(all="ignore"):
        factor = old_spread / spread
    scaled = np.where(np.isfinite(factor), kept * factor + old_mean - mean * factor, kept)
    found = np.maximum(np.where(kept == 0, 0, scaled), 0)
    found = np.where((logged > 0) & (found == 0), logged, found)
    return at_depth(np.expm1(found), totals(counts))


def magic(counts: sp.csr_matrix, t: int = 3, n_neighbors: int = 5, seed: int = 0) -> Expected:
    """MAGIC, by its package: the square roots of normalized counts diffused, and squared; biased low for patchy genes.

    Raises OptionError where the package, whose license is the GPL, is not installed. Source: van Dijk et al. 2018, Cell
    174:716.
    """
    try:
        from magic import MAGIC  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise OptionError("method='magic' needs the package magic-impute", "pip install magic-impute") from error
    total = totals(counts)
    root = np.sqrt(counts.toarray() / total[:, None] * 1e4)
    found = MAGIC(t=t, knn=n_neighbors, random_state=seed, verbose=0).fit_transform(root)
    return at_depth(np.square(np.maximum(np.asarray(found), 0)), total)


def totals(counts: sp.csr_matrix) -> Float[np.ndarray, " cell"]:
    return np.asarray(counts.sum(1), np.float64).ravel()


def at_depth(values: Expected, total: Float[np.ndarray, " cell"]) -> Expected:
    """The values with each cell's sum made its total."""
    return values * (total / np.maximum(values.sum(1), 1e-9))[:, None].astype(values.dtype)


def _leading(x: Expected, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `n` largest singular values, largest first, and their vectors."""
    from scipy.sparse.linalg import svds

    left, values, right = svds(x, n, v0=np.ones(min(x.shape)))
    return left[:, ::-1], values[::-1], right[::-1]


def _rank(values: Float[np.ndarray, " component"]) -> int:
    gaps = values[:-1] - values[1:]
    tail = gaps[78:]
    return int(np.flatnonzero((gaps - tail.mean()) / tail.std(ddof=1) > 6).max(initial=0)) + 1


def _moments(x: Expected) -> tuple[Float[np.ndarray, " gene"], Float[np.ndarray, " gene"]]:
    """Mean and standard deviation of the values of each gene that are not zero."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # genes with no such value, or one
        there = np.where(x != 0, x, np.nan)
        return np.nanmean(there, 0), np.nanstd(there, 0, ddof=1)
