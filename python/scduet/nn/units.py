"""Batch normalisation, ReLU and dropout of hidden units on a CPU: a compiled pass forwards and a compiled pass back.

In a small model the dozen steps that torch takes for them cost more in between than within, and drawing the numbers of
the dropout one after the other costs most: here a unit's number is a hash of its place and of one number of the step.
Units of every cell with every level of a covariate are never stored before normalisation: there each is the sum of what
comes of the cell and of what comes of the level.
"""

from __future__ import annotations

from scduet._torch import torch

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function

from scduet._numba import address, compiled, floats, integers
from scduet.nn.cpu_math import REORDERED, hashed, widest
from scduet.nn.second_order import layers_are_compiled, once_differentiable

f32, u32 = np.float32, np.uint32
BITS = 32  # of a unit's number
BLOCK = 32  # rows that are summed up in float32


def can_compile(x: Tensor, norm: nn.BatchNorm1d) -> bool:
    fits = norm.training and x.device.type == "cpu" and x.dtype == torch.float32 == norm.weight.dtype
    return fits and layers_are_compiled()


def normalized_units(
    x: Float[Tensor, "*#level cell hidden"],
    shift: Float[Tensor, "level hidden"] | None,
    norm: nn.BatchNorm1d,
    rate: float,
) -> Float[Tensor, "row hidden"]:
    """`dropout(relu(norm(x + shift)), rate)` in training; moves the running statistics of `norm`.

    x: of each cell, or of each cell with each level. shift: of each level; without it there is one. The rows, which are
    normalised together, are all cells with the first level, and so on.
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
        places = *(address(tensor) for tensor in tensors), address(norm.num_batches_tracked, torch.int64)  # type: ignore[arg-type]
        ctx.sizes, ctx.rate, ctx.shifted = ((levels, cells, width), own), rate, shift is not None
        _forward(*ctx.sizes, places, norm.momentum, norm.eps, 1 / (1 - rate), seed, int(rate * 2**BITS))
        ctx.save_for_backward(x, apart, weight, out, each)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, apart, weight, out, each = ctx.saved_tensors
        by_x, by_shift = torch.zeros_like(x), torch.zeros_like(apart)
        of_norm = torch.empty_like(weight), torch.empty_like(weight)
        tensors = slopes[0].contiguous(), x, apart, weight, out, each, by_x, by_shift, *of_norm
        _backward(*ctx.sizes, tuple(address(tensor) for tensor in tensors), 1 / (1 - ctx.rate))
        return by_x, by_shift if ctx.shifted else None, *of_norm, None, None


@compiled(fastmath=REORDERED)
def _forward(shape, own, places, momentum, eps, kept, seed, least):
    """own: levels of x. kept: factor of the units that are not dropped, those whose number is `least` or more.

    Turns `apart`, the shift of each level, into what takes x to its distance from the mean; `each` is to be one over
    the standard deviation.
    """
    levels, cells, width = shape
    x, apart = floats(places[0], (own, cells, width)), floats(places[1], (levels, width))
    weight, bias = floats(places[2], width), floats(places[3], width)
    running_mean, running_variance = floats(places[4], width), floats(places[5], width)
    out, each = floats(places[6], shape), floats(places[7], width)
    integers(places[8], 1)[0] += 1  # batches tracked
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
def _backward(shape, own, places, kept):
    levels, cells, width = shape
    slope, x, apart = (
        floats(places[0], shape),
        floats(places[1], (own, cells, width)),
        floats(places[2], (levels, width)),
    )
    weight, out, each = floats(places[3], width), floats(places[4], shape), floats(places[5], width)
    by_x, by_shift = floats(places[6], (own, cells, width)), floats(places[7], (levels, width))
    by_weight, by_bias = floats(places[8], width), floats(places[9], width)
    n, kept, by_unit = levels * cells, f32(kept), np.empty(width, np.float32)
    of_weight, of_bias, parts = np.zeros(width), np.zeros(width), np.zeros((2, width), np.float32)
    for level in range(levels):
        for cell in range(cells):
            _clear(slope[level, cell], out[level, cell], kept, by_unit)
            _add_products(by_unit, x[level % own, cell], apart[level], parts[0])
            _add(by_unit, parts[1])
            if cell % BLOCK == BLOCK - 1 or cell == cells - 1:
                _settle(parts[0], of_weight)
                _settle(parts[1], of_bias)
    factor, move, along = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    for k in range(width):  # the slopes lose their mean, and what changes only the spread of a unit
        by_weight[k], by_bias[k] = of_weight[k] * each[k], of_bias[k]
        factor[k] = weight[k] * each[k]
        along[k], move[k] = -factor[k] * each[k] * by_weight[k] / n, -factor[k] * of_bias[k] / n
    for level in range(levels):
        for cell in range(cells):
            _clear(slope[level, cell], out[level, cell], kept, by_unit)
            _pass_on(by_unit, x[level % own, cell], apart[level], factor, move, along)
            _add(by_unit, by_x[level % own, cell])
            _add(by_unit, by_shift[level])


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
def _add_products(slope, x, apart, total):
    widest()
    for k in range(len(total)):
        total[k] += slope[k] * (x[k] + apart[k])


@compiled()
def _settle(part, total):
    """Moves sums over a few rows to those over all, which are float64."""
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
def _clear(slope, out, kept, by_unit):
    """Slopes by the units: zero for those that are zero."""
    widest()
    for k in range(len(out)):
        by_unit[k] = slope[k] * kept if out[k] > f32(0) else f32(0)


@compiled(fastmath=REORDERED)
def _pass_on(by_unit, x, apart, factor, move, along):
    """Turns slopes by the units into slopes by what is normalised."""
    widest()
    for k in range(len(x)):
        by_unit[k] = by_unit[k] * factor[k] + move[k] + (x[k] + apart[k]) * along[k]
