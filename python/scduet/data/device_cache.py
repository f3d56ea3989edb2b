"""Cells that live on a GPU: minibatches are cut there, and nothing is copied or waited for at each step."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from scduet.contract import CellBatch, Covariates, SparseRows
from scduet.data.sources import Cells, Source, gathered

SHARE_OF_FREE_MEMORY = 0.5  # the rest is for the model


@dataclass(frozen=True)
class Entries:
    """The CSR arrays of a matrix, on one device."""

    data: Float[Tensor, " entry"]
    indices: Int[Tensor, " entry"]
    indptr: Int[Tensor, " cell_and_one"]
    edges: np.ndarray  # where the entries of each cell begin, kept on the host: sizes must be known without a wait
    n_columns: int

    def rows(self, index: Int[Tensor, " cell"], n_entries: int) -> SparseRows:
        first, length = self.indptr[index], self.indptr[index + 1] - self.indptr[index]
        indptr = F.pad(torch.cumsum(length, 0), (1, 0))
        moved = torch.repeat_interleave(first - indptr[:-1], length, output_size=n_entries)
        entry = torch.arange(n_entries, device=index.device) + moved
        return SparseRows(self.data[entry], self.indices[entry].long(), indptr, (len(index), self.n_columns))


@dataclass(frozen=True)
class DeviceCache:
    """All cells, on one device."""

    main: Entries | Tensor
    batch: Int[Tensor, " cell"]
    label: Int[Tensor, " cell"] | None
    covariates: Covariates
    extra: Mapping[str, Entries | Tensor]
    measured: Mapping[str, Tensor]

    def minibatches(self, order: np.ndarray, edges: np.ndarray) -> Iterator[CellBatch]:
        """The cells at `order`, cut at `edges`."""
        rows = torch.from_numpy(order).to(self.batch.device)
        for start, end in pairwise(edges):
            yield self._batch(rows[start:end], order[start:end])

    def _batch(self, index: Int[Tensor, " cell"], here: np.ndarray) -> CellBatch:
        """The cells at `index`, which `here` has on the host."""
        return CellBatch(
            x=_taken(self.main, index, here),
            index=index,
            batch=self.batch[index],
            label=None if self.label is None else self.label[index],
            covariates=Covariates(*(None if known is None else known[index] for known in _each(self.covariates))),
            extra={name: _taken(rows, index, here) for name, rows in self.extra.items()},
            measured={name: known[index] for name, known in self.measured.items()},
        )


def device_cache(cells: Cells, device: torch.device) -> DeviceCache | None:
    """The cells on `device`, or None for what is on disk and for more than fits."""
    if any(source.block is not None for source in cells.sources) or not _fits(cells.sources, device):
        return None
    return DeviceCache(
        main=_whole(cells.counts, device),
        batch=torch.from_numpy(cells.batch).to(device),
        label=_moved(cells.label, device),
        covariates=Covariates(*(_moved(a, device) for a in (cells.categorical, cells.continuous, cells.size_factor))),
        extra={name: _whole(source, device) for name, source in cells.extra.items()},
        measured={name: torch.from_numpy(known).to(device) for name, known in cells.measured.items()},
    )


def _whole(source: Source, device: torch.device) -> Entries | Tensor:
    whole = gathered(source)
    if isinstance(whole, np.ndarray):
        return torch.from_numpy(whole).to(device)
    return Entries(
        data=torch.from_numpy(whole.data).to(device),
        indices=torch.from_numpy(whole.indices.astype(np.int32)).to(device),
        indptr=torch.from_numpy(whole.indptr.astype(np.int64)).to(device),
        edges=whole.indptr,
        n_columns=whole.shape[1],
    )


def _taken(rows: Entries | Tensor, index: Int[Tensor, " cell"], here: np.ndarray) -> SparseRows | Tensor:
    if isinstance(rows, Tensor):
        return rows[index]
    return rows.rows(index, int((rows.edges[here + 1] - rows.edges[here]).sum()))


def _fits(sources: tuple[Source, ...], device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    needed = 8 * sum(source.mean_entries * source.n_cells for source in sources)  # 4 bytes for the value, 4 its column
    return needed < SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]


def _moved(array: np.ndarray | None, device: torch.device) -> Tensor | None:
    return None if array is None else torch.from_numpy(array).to(device)


def _each(covariates: Covariates) -> tuple[Tensor | None, ...]:
    return covariates.categorical, covariates.continuous, covariates.size_factor
