"""Batch normalization, ReLU and dropout of hidden units on a CPU: one compiled pass forward and one back.

The plain form is in `MLP.units` (`scduet.nn.layers`). In a small model the overhead of torch's dozen operations exceeds
their arithmetic, and drawing the dropout mask costs most of all: here the random number of a unit is a hash of its
position and of one seed a step. Units of every cell with every level of a covariate are never stored before
normalization: each is the sum of a part that depends on the cell and one that depends on the level.
"""

from __future__ import annotations

from scduet._torch import torch

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function

from scduet.nn.kernels.jit import address, compiled, floats, integers, usable
from scduet.nn.kernels.math import REORDERED, hashed, widest
from scduet.nn.second_order import once_differentiable

f32, u32 = np.float32, np.uint32
BITS = 32  # of a unit's number
BLOCK = 32  # rows that are summed in float32


def can_compile(x: Tensor, norm: nn.BatchNorm1d) -> bool:
    return norm.training and usable(x, norm.weight)


def normalized_units(
    x: Float[Tensor, "*#level cell hidden"],
    shift: Float[Tensor, "level hidden"] | None,
    norm: nn.BatchNorm1d,
    rate: float,
) -> Float[Tensor, "row hidden"]:
    """`dropout(relu(norm(x + shift)), rate)` in training; moves the running statistics of `norm`.

    x: of each cell, or of each cell with each level. shift: of each level; without it there is one level. The rows are
    all cells with the first level, then all with the second, and so on; they are normalized together.
    """
    return _Units.apply(x, shift, norm.weight, norm.bias, norm, rate)  # pyright: ignore[reportReturnType]


class _Units(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, norm: nn.BatchNorm1d, rate: float
    ) -> Float[Tensor, "row hidden"]:
        cells, width = x.shape[-2:]
        x, own, levels = x.contiguous(), x.numel() // (cells * width), 1 if shift is None else len(shift)
        apart = torch.zeros(1, width) if shift is None else shift.clone(memory_format=torch.contiguous_format)
        out, each = torch.empty(levels * cells, width), torch.empty(width)
        seed = int(torch.empty((), dtype=torch.int64).random_(2**BITS)) if rate else 0
        tensors = x, apart, weight, bias, norm.running_mean, norm.running_var, out, each
        addresses = *(address(tensor) for tensor in tensors), address(norm.num_batches_tracked, torch.int64)  # type: ignore[arg-type]
        ctx.sizes, ctx.rate, ctx.shifted = ((levels, cells, width), own), rate, shift is not None
        _forward(*ctx.sizes, addresses, norm.momentum, norm.eps, 1 / (1 - rate), seed, int(rate * 2**BITS))
        ctx.save_for_backward(x, apart, weight, out, each)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, apart, weight, out, each = ctx.saved_tensors
        grad_x, grad_shift = torch.zeros_like(x), torch.zeros_like(apart)
        of_norm = torch.empty_like(weight), torch.empty_like(weight)
        tensors = grads[0].contiguous(), x, apart, weight, out, each, grad_x, grad_shift, *of_norm
        _backward(*ctx.sizes, tuple(address(tensor) for tensor in tensors), 1 / (1 - ctx.rate))
        return grad_x, grad_shift if ctx.shifted else None, *of_norm, None, None


@compiled(fastmath=REORDERED)
def _forward(shape, own, addresses, momentum, eps, kept, seed, least):
    """own: levels of x. kept: scale of units that are not dropped, whose random number is at least `least`.

    Turn `apart`, the shift of each level, into the offset that centers x; `each` becomes one over the standard
    deviation.
    """
    widest()
    levels, cells, width = shape
    to_x, to_apart, to_weight, to_bias, to_mean, to_variance, to_out, to_each, to_n_tracked = addresses
    x, apart = floats(to_x, (own, cells, width)), floats(to_apart, (levels, width))
    weight, bias = floats(to_weight, width), floats(to_bias, width)
    running_mean, running_variance = floats(to_mean, width), floats(to_variance, width)
    out, each = floats(to_out, shape), floats(to_each, width)
    integers(to_n_tracked, 1)[0] += 1
    n, total, part = levels * cells, np.zeros(width), np.zeros(width, np.float32)
    for level in range(own):
        for cell in range(cells):
            _add(x[level, cell], part)
            if cell % BLOCK == BLOCK - 1 or cell == cells - 1:
                _settle(part, total)
    mean = total / (own * cells)
    for level in range(levels):
        mean += apart[level] / np.float64(levels)
    for level in range(levels):
        for k in range(width):
            apart[level, k] -= mean[k]
    total[:] = 0
    for level in range(levels):
        for cell in range(cells):
            _add_squares(x[level % own, cell], apart[level], part)
            if cell % BLOCK == BLOCK - 1 or cell == cells - 1:
                _settle(part, total)
    factor, height = np.empty(width, np.float32), np.empty(width, np.float32)
    for k in range(width):
        running_mean[k] += momentum * (mean[k] - running_mean[k])
        running_variance[k] += momentum * (total[k] / (n - 1) - running_variance[k])
        each[k] = 1 / np.sqrt(total[k] / n + eps)
        factor[k], height[k] = weight[k] * each[k] * kept, bias[k] * kept
    for level in range(levels):
        for cell in range(cells):
            units, place = out[level, cell], (level * cells + cell) * width
            _units(x[level % own, cell], apart[level], factor, height, units)
            if least:
                _drop(units, u32(place), u32(seed), u32(least))


@compiled(fastmath=REORDERED)
def _backward(shape, own, addresses, kept):
    widest()
    levels, cells, width = shape
    to_grad, to_x, to_apart, to_weight, to_out, to_each, to_grad_x, to_grad_shift, to_grad_w, to_grad_b = addresses
    grad, out = floats(to_grad, shape), floats(to_out, shape)
    x, grad_x = floats(to_x, (own, cells, width)), floats(to_grad_x, (own, cells, width))
    apart, grad_shift = floats(to_apart, (levels, width)), floats(to_grad_shift, (levels, width))
    weight, each = floats(to_weight, width), floats(to_each, width)
    grad_weight, grad_bias = floats(to_grad_w, width), floats(to_grad_b, width)
    n, kept, grad_unit = levels * cells, f32(kept), np.empty(width, np.float32)
    of_weight, of_bias, parts = np.zeros(width), np.zeros(width), np.zeros((2, width), np.float32)
    for level in range(levels):
        for cell in range(cells):
            _clear(grad[level, cell], out[level, cell], kept, grad_unit)
            _add_products(grad_unit, x[level % own, cell], apart[level], parts[0])
            _add(grad_unit, parts[1])
            if cell % BLOCK == BLOCK - 1 or cell == cells - 1:
                _settle(parts[0], of_weight)
                _settle(parts[1], of_bias)
    factor, move, along = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    for k in range(width):  # the gradients lose their mean, and what changes only the spread of a unit
        grad_weight[k], grad_bias[k] = of_weight[k] * each[k], of_bias[k]
        factor[k] = weight[k] * each[k]
        along[k], move[k] = -factor[k] * each[k] * grad_weight[k] / n, -factor[k] * of_bias[k] / n
    for level in range(levels):
        for cell in range(cells):
            _clear(grad[level, cell], out[level, cell], kept, grad_unit)
            _pass_on(grad_unit, x[level % own, cell], apart[level], factor, move, along)
            _add(grad_unit, grad_x[level % own, cell])
            _add(grad_unit, grad_shift[level])


@compiled(fastmath=REORDERED)
def _add(values, total):
    widest()
    for k in range(len(total)):
        total[k] += values[k]


@compiled(fastmath=REORDERED)
def _add_squares(values, apart, total):
    widest()
    for k in range(len(total)):
        total[k] += (values[k] + apart[k]) * (values[k] + apart[k])


@compiled(fastmath=REORDERED)
def _add_products(grad, x, apart, total):
    widest()
    for k in range(len(total)):
        total[k] += grad[k] * (x[k] + apart[k])


@compiled()
def _settle(part, total):
    """Add sums over a few rows to the float64 totals."""
    for k in range(len(total)):
        total[k] += part[k]
        part[k] = 0


@compiled(fastmath=REORDERED)
def _units(x, apart, factor, height, out):
    widest()
    for k in range(len(out)):
        unit = (x[k] + apart[k]) * factor[k] + height[k]
        out[k] = f32(0) if unit < f32(0) else unit  # which lets NaN through


@compiled(fastmath=REORDERED)
def _drop(units, place, seed, least):
    widest()
    for k in range(len(units)):
        units[k] = f32(0) if hashed(place + u32(k), seed) < least else units[k]


@compiled(fastmath=REORDERED)
def _clear(grad, out, kept, grad_unit):
    """Gradients w.r.t. the units: zero for inactive ones."""
    widest()
    for k in range(len(out)):
        grad_unit[k] = grad[k] * kept if out[k] > f32(0) else f32(0)


@compiled(fastmath=REORDERED)
def _pass_on(grad_unit, x, apart, factor, move, along):
    """Turn gradients w.r.t. the units into gradients w.r.t. the normalized input."""
    widest()
    for k in range(len(x)):
        grad_unit[k] = grad_unit[k] * factor[k] + move[k] + (x[k] + apart[k]) * along[k]
