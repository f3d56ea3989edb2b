"""Rows of counts written out for a dense layer: on a CPU by one compiled pass."""

from __future__ import annotations

from scduet._torch import torch

from jaxtyping import Float
from torch import Tensor

from scduet._numba import compiled
from scduet.contract import SparseRows


def written_out(x: SparseRows, values: Float[Tensor, " entry"]) -> Float[Tensor, "row column"]:
    """`x.dense(values)`, for values that need no gradient."""
    if values.device.type != "cpu" or values.dtype != torch.float32:
        return x.dense(values)
    out = torch.empty(x.shape)
    _write(*(array.numpy() for array in (values, x.column, x.pointer, out)))
    return out


@compiled()
def _write(values, column, pointer, out):
    for row in range(len(out)):
        out[row] = 0
        for entry in range(pointer[row], pointer[row + 1]):
            out[row, column[entry]] = values[entry]
