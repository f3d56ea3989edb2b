"""Log-normalized counts, and the mean and standard deviation of each gene in groups of cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from scduet.data.loader_source import stretches
from scduet.data.sources import Cells

PIECE = 4096  # cells that are read together


def relative(cells: Cells, rows: Int[np.ndarray, " chosen"], size: Float[np.ndarray, " cell"]) -> sp.csr_matrix:
    """Counts of some cells divided by the `size` of each (of all cells): (chosen, gene), float64."""
    return _divided(cells.counts.rows(rows), size[rows])


def _divided(counts: sp.csr_matrix, size: Float[np.ndarray, " cell"]) -> sp.csr_matrix:
    x = counts.astype(np.float64)
    x.data = x.data / np.repeat(size, np.diff(x.indptr))
    return x


def moments(
    cells: Cells,
    size: Float[np.ndarray, " cell"],
    of: Callable[[np.ndarray], np.ndarray] = np.log1p,
    group: Int[np.ndarray, " cell"] | None = None,
    n_groups: int = 1,
) -> tuple[Float[np.ndarray, "group gene"], Float[np.ndarray, "group gene"]]:
    """Mean and standard deviation (ddof 1) of `of(counts / size)` of each gene in each group, 0 without cells.

    of: of the stored values; it leaves 0 at 0. group: codes of the cells, None for one group.
    """
    group = np.zeros(len(cells), np.int64) if group is None else group
    first, second = (np.zeros((n_groups, cells.counts.n_genes)) for _ in range(2))
    for rows, counts in stretches(cells.counts, PIECE):
        x = _divided(counts, size[rows])
        x.data = of(x.data)
        member = sp.csr_matrix((np.ones(len(rows)), (group[rows], np.arange(len(rows)))), (n_groups, len(rows)))
        first += (member @ x).toarray()
        second += (member @ x.multiply(x)).toarray()
    n = np.bincount(group, minlength=n_groups)[:, None]
    mean = first / np.maximum(n, 1)
    return mean, np.sqrt(np.maximum(second - n * mean**2, 0) / np.maximum(n - 1, 1))


def normalized_dispersion(mean: Float[np.ndarray, " gene"], deviation: Float[np.ndarray, " gene"]) -> np.ndarray:
    """Dispersion (variance / mean) of genes, z-scored among genes with a like mean: scanpy's flavor "seurat".

    A gene alone in its bin of means has 1, one without counts -inf. Source: Satija et al. 2015, Nat Biotechnol 33:495.
    """
    there = mean > 0
    dispersion = np.log(np.maximum(deviation**2, 1e-12) / np.maximum(mean, 1e-12))
    logs = np.log1p(mean)
    place = np.digitize(logs, np.linspace(logs.min(), logs.max(), 21)[1:-1])
    found = np.full(len(mean), -np.inf)
    for i in np.unique(place[there]):
        own = (place == i) & there
        values = dispersion[own]
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        found[own] = (values - values.mean()) / spread if spread > 0 else 1.0
    return found
