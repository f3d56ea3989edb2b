"""Values of four parts of each gene as rows of blocks of genes.

A block has a row of fixed length for each part, all in one array, so that the compiler sees that rows do not overlap
and can work on 16 genes at a time.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable

from torch import Tensor

from scduet.nn.kernels.jit import address, compiled, threads_for
from scduet.nn.kernels.math import REORDERED

PARTS = 4
BLOCK = 64  # genes
MIN_PER_THREAD = 2**14  # genes of cells


def run(alone: Callable, parallel: Callable, shape: torch.Size, settings: tuple, tensors: tuple[Tensor, ...]) -> None:
    """Goes through all cells, in as many parts as threads. shape: cells and genes."""
    addresses = tuple(address(tensor) for tensor in tensors)
    with threads_for(shape[0] * shape[1], MIN_PER_THREAD) as threads:
        if threads > 1:
            parallel(threads, tuple(shape), settings, addresses)
        else:
            alone(0, 1, tuple(shape), settings, addresses)


@compiled()
def cells_of(thread, threads, n):
    """The cells of one thread."""
    return range(thread * n // threads, (thread + 1) * n // threads)


@compiled()
def read(values, start, width, other, out, row):
    """Values of a block's genes from `start` on, as rows from `row` on; of genes that there are not, `other`."""
    for g in range(width):
        for k in range(PARTS):
            out[row + k * BLOCK + g] = values[start + g, k]
    for g in range(width, BLOCK):
        for k in range(PARTS):
            out[row + k * BLOCK + g] = other


@compiled()
def write(rows, row, start, width, out):
    """The way back."""
    for g in range(width):
        for k in range(PARTS):
            out[start + g, k] = rows[row + k * BLOCK + g]


@compiled(inline="always", fastmath=REORDERED)
def total_of(given, g):
    """Of the four parts, in the first rows."""
    return given[g] + given[BLOCK + g] + given[2 * BLOCK + g] + given[3 * BLOCK + g]
