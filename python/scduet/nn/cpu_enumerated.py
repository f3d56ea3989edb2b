"""The passes of `enumerated` over every cell with every level, compiled for a CPU, where the units lie side by side.

`product` is what comes of the cell (or of the cell as that level), `shift` of the level.
"""

from __future__ import annotations

from scduet._torch import torch

import numpy as np
from jaxtyping import Float
from torch import Tensor

from scduet._numba import compiled

BITS = 32  # random bits of a unit's dropout
u32, f32 = np.uint32, np.float32
FIRST, SECOND = u32(0x7FEB352D), u32(0x846CA68B)  # factors of the hash "lowbias32" (Wellons 2018)
GOLDEN = u32(0x9E3779B9)  # which spreads neighbours over all numbers
Moments = tuple[Float[Tensor, " hidden"], Float[Tensor, " hidden"]]


def moments(product: Float[Tensor, "#level cell hidden"], shift: Float[Tensor, "level hidden"]) -> Moments:
    """Mean and variance of the units over all pairs."""
    of_cells, of_levels = product.mean((0, 1)), shift.mean(0)
    if len(product) == 1:  # the sum of two parts that know nothing of each other
        spread = (product[0] - of_cells).square().mean(0) + (shift - of_levels).square().mean(0)
        return of_cells + of_levels, spread
    mean, variance = of_cells + of_levels, torch.zeros_like(of_cells)
    _add_squares(*_arrays(product, shift - mean, variance))
    return mean, variance.div_(len(shift) * product.shape[1])


def units(
    product: Float[Tensor, "#level cell hidden"],
    scale: Float[Tensor, " hidden"],
    shift: Float[Tensor, "level hidden"],
    rate: float,
) -> Float[Tensor, "level cell hidden"]:
    """ReLU of product * scale + shift, a share `rate` of it dropped."""
    hidden = product.new_empty(len(shift), *product.shape[1:])
    seed = int(torch.empty((), dtype=torch.int64).random_(2**BITS)) if rate else 0
    _units(*_arrays(product, scale, shift, hidden), u32(seed), u32(round(rate * 2**BITS)))
    return hidden


def cleared(
    by_hidden: Float[Tensor, "level cell hidden"],
    hidden: Float[Tensor, "level cell hidden"],
    product: Float[Tensor, "#level cell hidden"],
    shift: Float[Tensor, "level hidden"],
) -> Moments:
    """Set the slopes of units that are zero to zero; the sums of the slopes, and of slopes times product + shift."""
    sums = product.new_zeros(product.shape[2]), product.new_zeros(product.shape[2])
    _cleared(*_arrays(by_hidden, hidden, product, shift, *sums))
    return sums


def passed_back(
    by_hidden: Float[Tensor, "level cell hidden"],
    product: Float[Tensor, "#level cell hidden"],
    shift: Float[Tensor, "level hidden"],
    factors: tuple[Float[Tensor, " hidden"], Float[Tensor, " hidden"], Float[Tensor, " hidden"]],
) -> tuple[Float[Tensor, "level hidden"], Float[Tensor, "#level cell hidden"]]:
    """Slopes by shift and product: by_hidden * factor + move + (product + shift) * along; overwrites `by_hidden`."""
    by_shift = torch.zeros_like(shift)
    by_product = torch.zeros_like(product) if len(product) < len(shift) else by_hidden
    _passed_back(*_arrays(by_hidden, product, shift, *factors, by_shift, by_product))
    return by_shift, by_product


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors]


@compiled(fastmath={"contract"})
def _add_squares(product, shift, total):
    for level in range(len(shift)):
        of_level = shift[level]
        for of_cell in product[level]:
            for k in range(len(total)):
                unit = of_cell[k] + of_level[k]
                total[k] += unit * unit


@compiled(fastmath={"contract"})
def _units(product, scale, shift, hidden, seed, least):
    """seed: of the dropout; least: the number from which on a unit is kept."""
    for level in range(len(shift)):
        of_level = shift[level]
        for cell in range(hidden.shape[1]):
            of_cell, out = product[level % len(product), cell], hidden[level, cell]
            place = (level * hidden.shape[1] + cell) * len(out)
            for k in range(len(out)):
                unit = of_cell[k] * scale[k] + of_level[k]
                dropped = _hash(u32(u32(place + k) * GOLDEN) ^ seed) < least
                out[k] = f32(0) if dropped or unit < f32(0) else unit  # which lets NaN through


@compiled(inline="always")
def _hash(x):
    """A random-looking number for each number of 32 bits."""
    x = u32(u32(x ^ (x >> u32(16))) * FIRST)
    x = u32(u32(x ^ (x >> u32(15))) * SECOND)
    return u32(x ^ (x >> u32(16)))


@compiled(fastmath={"contract"})
def _cleared(by_hidden, hidden, product, shift, sum_, sum_of_products):
    for level in range(len(shift)):
        of_level = shift[level]
        for cell in range(hidden.shape[1]):
            of_cell, slope, unit = product[level % len(product), cell], by_hidden[level, cell], hidden[level, cell]
            for k in range(len(slope)):
                slope[k] = slope[k] if unit[k] > f32(0) else f32(0)
                sum_[k] += slope[k]
                sum_of_products[k] += slope[k] * (of_cell[k] + of_level[k])


@compiled(fastmath={"contract"})
def _passed_back(by_hidden, product, shift, factor, move, along, by_shift, by_product):
    for level in range(len(shift)):
        of_level, by_level = shift[level], by_shift[level]
        for cell in range(by_hidden.shape[1]):
            of_cell, slope = product[level % len(product), cell], by_hidden[level, cell]
            for k in range(len(slope)):
                slope[k] = slope[k] * factor[k] + move[k] + (of_cell[k] + of_level[k]) * along[k]
                by_level[k] += slope[k]
            if len(product) < len(shift):
                by_cell = by_product[0, cell]
                for k in range(len(slope)):
                    by_cell[k] += slope[k]
