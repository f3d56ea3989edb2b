"""All cells of a data set, encoded: what the loader slices and a model trains on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scduet.data.sources import Source


@dataclass(frozen=True)
class Cells:
    """Counts and annotations as arrays, one row or entry a cell; absent annotations are None."""

    counts: Source  # (cell, gene)
    total: np.ndarray  # sum of the counts of each cell
    batch: np.ndarray  # code of the technical batch
    label: np.ndarray | None = None  # code of the cell type, -1 = unlabeled
    categorical: np.ndarray | None = None  # (cell, covariate) codes
    continuous: np.ndarray | None = None  # (cell, covariate)
    size_factor: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.batch)


def library_moments(cells: Cells, n_batches: int) -> dict[str, np.ndarray]:
    """Mean and variance, within each batch, of the log of the cells' totals: the prior of a learned library size."""
    log_total = np.log(np.maximum(cells.total, 1e-8), dtype=np.float64)
    n = np.bincount(cells.batch, minlength=n_batches)
    mean = np.bincount(cells.batch, log_total, n_batches) / np.maximum(n, 1)
    variance = np.bincount(cells.batch, (log_total - mean[cells.batch]) ** 2, n_batches) / np.maximum(n, 1)
    variance = np.where(n > 0, variance, 1.0)
    return {"library_log_mean": mean.astype(np.float32), "library_log_variance": variance.astype(np.float32)}
