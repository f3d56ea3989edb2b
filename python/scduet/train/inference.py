"""Batched inference that halves the batch size on CUDA out-of-memory."""

from __future__ import annotations

from scduet._torch import torch

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.data.sources import Cells
from scduet.errors import ScduetWarning


def each(function: Callable[[Any], Tensor], cells: Cells, size: int, device: torch.device) -> Iterator[Tensor]:
    """`function` of each minibatch of `size` cells, in the order of the cells.

    When a GPU runs out of memory the minibatches from there on are half as large, and a ScduetWarning says so; the
    error is raised when one cell alone is too much.
    """
    done = 0
    while done < len(cells):
        try:
            for batch in minibatches(cells, sequential(len(cells))[done:], size):
                yield function(batch.to(device))
                done += len(batch)
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
        if done < len(cells):  # here the error, and with it the tensors it keeps, is gone
            torch.cuda.empty_cache()
            warnings.warn(f"out of GPU memory: going on with minibatches of {size} cells", ScduetWarning, stacklevel=4)
