"""Batched inference that halves the minibatch when memory runs out."""

from __future__ import annotations

from scduet._torch import torch

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from scduet.contract import CellBatch, TokenBatch
from scduet.data.loader import minibatches
from scduet.data.loader_source import Cutter, LoaderSource
from scduet.data.samplers import sequential
from scduet.data.sources import Cells
from scduet.errors import DeviceError, ScduetWarning

Cut = Callable[[int, int], Iterator[Any]]  # (cells done, size) -> minibatches of the other cells, in a fixed order
Progress = Callable[[int, int, float], object]  # cells done, all cells, seconds left


def each(
    function: Callable[[Any], Tensor],
    cut: Cut,
    n_cells: int,
    size: int,
    device: torch.device,
    progress: Progress | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The index of the cells of each minibatch, and `function` of it.

    size: of a minibatch, in cells or in padded tokens. When memory runs out the minibatches from there on are half as
    large, and a ScduetWarning says so. Raises DeviceError when one cell alone is too much.
    """
    done, started = 0, time.monotonic()
    while True:
        too_large = None
        for batch in cut(done, size):
            try:
                result = function(batch.to(device))
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if len(batch) == 1:
                    message = f"a cell with {_extent(batch)} does not fit into memory ({device})"
                    remedy = "lower max_length, or use precision='bf16' or another accelerator"
                    raise DeviceError(message, remedy) from error
                too_large = batch
                break
            done += len(batch)
            yield batch.index, result
            if progress is not None:
                left = max(0, n_cells - done)  # of a loader, the number of cells may be unknown (0)
                progress(done, max(done, n_cells), (time.monotonic() - started) / done * left)
        if too_large is None:
            return
        size = min(size, _size(too_large)) // 2  # here the error, and with it the tensors it keeps, is gone
        if device.type == "cuda":
            torch.cuda.empty_cache()
        message = f"{len(too_large)} cells at once do not fit into memory ({device}): going on with half as many"
        warnings.warn(message, ScduetWarning, stacklevel=4)


def in_order(cells: Cells) -> Cut:
    """Minibatches of cells for models of counts, in the order of the data, or in that of a loader."""
    if isinstance(cells.counts, LoaderSource):
        return Cutter(cells.counts.walk())
    return lambda done, size: minibatches(cells, sequential(len(cells))[done:], size)


def _size(batch: CellBatch | TokenBatch) -> int:
    return batch.gene.numel() if isinstance(batch, TokenBatch) else len(batch)


def _extent(batch: CellBatch | TokenBatch) -> str:
    return f"{batch.gene.shape[1]} tokens" if isinstance(batch, TokenBatch) else f"{batch.x.shape[1]} genes"


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
