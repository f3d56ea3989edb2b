"""What CarDEC measures in the cells: how genes are scaled within batches, and where clusters begin."""

from __future__ import annotations

from scduet._torch import torch

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from scduet.contract import CellBatch, Measured, Reference
from scduet.data.moments import moments, normalized_dispersion, relative
from scduet.data.samplers import evenly_spaced
from scduet.data.sources import Cells
from scduet.nn.layers import to_dense

MOST_CELLS = 20_000  # that k-means starts from


def moments_by_batch(cells: Cells, reference: Reference) -> dict[str, np.ndarray | Measured]:
    """Median total; of each gene its dispersion, and the mean and deviation of its logs in each batch."""
    known = reference.arrays.get("median")  # of a query: the model goes on with that of the cells trained on
    median = np.median(cells.total) if known is None else known[0]
    size = np.maximum(cells.total, 1) / median
    mean, deviation = moments(cells, size, group=cells.batch, n_groups=reference.n_batches)
    deviation[deviation == 0] = 1
    spread = normalized_dispersion(*(values[0] for values in moments(cells, size, of=lambda x: x)))
    found = {"median": np.array([median], np.float32), "dispersion": spread.astype(np.float32)}
    by_batch = {"batch_mean": mean, "batch_deviation": deviation}
    return found | {name: Measured(values.astype(np.float32), "batch") for name, values in by_batch.items()}


class BatchScaling(nn.Module):
    """log(1 + counts / total * median total), each gene to mean 0 and standard deviation 1 in the batch of the cell."""

    def __init__(self, reference: Reference):
        super().__init__()
        for name in ("median", "batch_mean", "batch_deviation"):
            self.register_buffer(name, torch.from_numpy(reference.arrays[name]), persistent=False)

    def forward(self, cells: CellBatch) -> Float[Tensor, "cell gene"]:
        size = cells.x.sum().clamp(min=1) / self.median
        logs = to_dense(cells.x, (cells.x.data / size[cells.x.row]).log1p())
        return (logs - self.batch_mean[cells.batch]) / self.batch_deviation[cells.batch]  # type: ignore[index]


def kmeans_start(
    cells: Cells, reference: Reference, genes: Int[np.ndarray, " chosen"], n_clusters: int, n_components: int
) -> tuple[Float[np.ndarray, "chosen pc"], Float[np.ndarray, "cluster pc"]]:
    """Principal axes of the scaled `genes`, and the centers of k-means on them, of values that are not centered."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    arrays = reference.arrays
    rows = evenly_spaced(len(cells), MOST_CELLS)
    x = relative(cells, rows, np.maximum(cells.total, 1) / arrays["median"][0]).log1p()[:, genes].toarray()
    mean, deviation = (arrays[f"batch_{name}"][:, genes] for name in ("mean", "deviation"))
    x = (x - mean[cells.batch[rows]]) / deviation[cells.batch[rows]]
    axes = PCA(n_components, random_state=0).fit(x).components_.T
    return axes, KMeans(n_clusters, n_init=10, random_state=0).fit(x @ axes).cluster_centers_
