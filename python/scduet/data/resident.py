"""Cells that live on a GPU: minibatches are cut there, and nothing is copied or waited for at each step."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from scduet.contract import CellBatch, Covariates, SparseRows
from scduet.data.cells import Cells
from scduet.data.sources import MemorySource

SHARE_OF_FREE_MEMORY = 0.5  # the rest is for the model


@dataclass(frozen=True)
class Resident:
    """The CSR arrays of all cells and their annotations, on one device."""

    values: Float[Tensor, " entry"]
    column: Int[Tensor, " entry"]
    pointer: Int[Tensor, " cell_and_one"]
    lengths: np.ndarray  # entries of each cell, kept on the host: sizes must be known there without asking the device
    n_genes: int
    batch: Int[Tensor, " cell"]
    label: Int[Tensor, " cell"] | None
    covariates: Covariates

    def minibatches(self, order: np.ndarray, edges: np.ndarray) -> Iterator[CellBatch]:
        """The cells at `order`, cut at `edges`."""
        rows, n_entries = torch.from_numpy(order).to(self.values.device), np.append(0, np.cumsum(self.lengths[order]))
        for start, end in pairwise(edges):
            yield self._batch(rows[start:end], int(n_entries[end] - n_entries[start]))

    def _batch(self, index: Int[Tensor, " cell"], n_entries: int) -> CellBatch:
        first, length = self.pointer[index], self.pointer[index + 1] - self.pointer[index]
        pointer = F.pad(torch.cumsum(length, 0), (1, 0))
        moved = torch.repeat_interleave(first - pointer[:-1], length, output_size=n_entries)
        entry = torch.arange(n_entries, device=index.device) + moved
        return CellBatch(
            x=SparseRows(self.values[entry], self.column[entry].long(), pointer, (len(index), self.n_genes)),
            index=index,
            batch=self.batch[index],
            label=None if self.label is None else self.label[index],
            covariates=Covariates(*(None if known is None else known[index] for known in _each(self.covariates))),
        )


def resident(cells: Cells, device: torch.device) -> Resident | None:
    """The cells on `device`, or None for counts on disk and for more than fits."""
    if not isinstance(cells.counts, MemorySource) or not _fits(cells.counts, device):
        return None
    whole = cells.counts.rows(np.arange(len(cells)))
    return Resident(
        values=torch.from_numpy(whole.data).to(device),
        column=torch.from_numpy(whole.indices.astype(np.int32)).to(device),
        pointer=torch.from_numpy(whole.indptr.astype(np.int64)).to(device),
        lengths=np.diff(whole.indptr),
        n_genes=whole.shape[1],
        batch=torch.from_numpy(cells.batch).to(device),
        label=_moved(cells.label, device),
        covariates=Covariates(*(_moved(a, device) for a in (cells.categorical, cells.continuous, cells.size_factor))),
    )


def _fits(counts: MemorySource, device: torch.device) -> bool:
    needed = 8 * counts.mean_entries * counts.n_cells  # 4 bytes for the value, 4 for the column
    return device.type != "cuda" or needed < SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]


def _moved(array: np.ndarray | None, device: torch.device) -> Tensor | None:
    return None if array is None else torch.from_numpy(array).to(device)


def _each(covariates: Covariates) -> tuple[Tensor | None, ...]:
    return covariates.categorical, covariates.continuous, covariates.size_factor
