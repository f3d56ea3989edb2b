"""Diagonal Gaussians whose means and log-variances lie side by side, as two linear heads give them together.

On a CPU a draw with its divergence, and a density, are each one compiled pass forwards and one back.
"""

from __future__ import annotations

from scduet._torch import torch

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from scduet._numba import address, compiled, floats
from scduet.nn.cpu_math import REORDERED, exp, log
from scduet.nn.layers import FLOOR, kl_to_normal
from scduet.nn.second_order import layers_are_compiled, once_differentiable

f32 = np.float32
ONE, HALF, LEAST, LOG_TAU = f32(1), f32(0.5), f32(FLOOR), f32(math.log(2 * math.pi))
Heads = Float[Tensor, "*row both"]  # means, then as many log-variances


def draw(heads: Heads) -> tuple[Float[Tensor, "*row latent"], Float[Tensor, "*row"]]:
    """A draw from each Gaussian that gradients pass through, and its KL divergence from the standard normal.

    To the variance the floor of posteriors is added.
    """
    mean, log_variance = heads.chunk(2, -1)
    noise = torch.randn_like(mean)
    if _can_compile(heads):
        return _Draw.apply(heads.contiguous(), noise)  # pyright: ignore[reportReturnType]
    variance = log_variance.exp() + FLOOR
    return mean + variance.sqrt() * noise, kl_to_normal(mean, variance)


def log_density(
    x: Float[Tensor, "cell latent"], heads: Float[Tensor, "level cell both"]
) -> Float[Tensor, "level cell"]:
    """log density of each cell's x under its Gaussian of each level, summed over dimensions."""
    if _can_compile(heads):
        return _LogDensity.apply(x.contiguous(), heads.contiguous())  # pyright: ignore[reportReturnType]
    mean, log_variance = heads.chunk(2, -1)
    return log_normal(x, mean, log_variance)


def log_normal(x: Tensor, mean: Tensor, log_variance: Tensor) -> Float[Tensor, "*cell"]:
    """log density of a diagonal normal, summed over dimensions."""
    return -0.5 * ((x - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)).sum(-1)


def _can_compile(heads: Tensor) -> bool:
    return heads.device.type == "cpu" and heads.dtype == torch.float32 and layers_are_compiled()


class _Draw(Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.empty_like(noise), noise.new_empty(noise.shape[:-1])
        ctx.save_for_backward(heads, noise)
        _draw(_shape(noise), *(address(tensor) for tensor in (heads, noise, *found)))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (heads, noise), (by_draw, by_divergence) = ctx.saved_tensors, (slope.contiguous() for slope in slopes)
        by_heads = torch.empty_like(heads)
        _draw_back(_shape(noise), *(address(tensor) for tensor in (heads, noise, by_draw, by_divergence, by_heads)))
        return by_heads, None


class _LogDensity(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: Tensor) -> Tensor:
        found = heads.new_empty(heads.shape[:-1])
        ctx.save_for_backward(x, heads)
        _density((len(heads), *x.shape), *(address(tensor) for tensor in (x, heads, found)))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, heads = ctx.saved_tensors
        by_x, by_heads = torch.zeros_like(x), torch.empty_like(heads)
        tensors = x, heads, slopes[0].contiguous(), by_x, by_heads
        _density_back((len(heads), *x.shape), *(address(tensor) for tensor in tensors))
        return by_x, by_heads


def _shape(rows: Tensor) -> tuple[int, int]:
    return rows.numel() // rows.shape[-1], rows.shape[-1]


@compiled(fastmath=REORDERED)
def _draw(shape, heads, noise, drawn, divergence):
    n, width = shape
    heads, divergence = floats(heads, (n, 2 * width)), floats(divergence, n)
    noise, drawn = floats(noise, shape), floats(drawn, shape)
    for row in range(n):
        total = f32(0)
        for k in range(width):
            mean, variance = heads[row, k], exp(heads[row, width + k]) + LEAST
            drawn[row, k] = mean + np.sqrt(variance) * noise[row, k]
            total += variance + mean * mean - ONE - log(variance)
        divergence[row] = HALF * total


@compiled(fastmath=REORDERED)
def _draw_back(shape, heads, noise, by_draw, by_divergence, by_heads):
    n, width = shape
    heads, by_heads = floats(heads, (n, 2 * width)), floats(by_heads, (n, 2 * width))
    noise, by_draw, by_divergence = floats(noise, shape), floats(by_draw, shape), floats(by_divergence, n)
    for row in range(n):
        for k in range(width):
            grown = exp(heads[row, width + k])
            variance, slope = grown + LEAST, by_draw[row, k]
            by_heads[row, k] = slope + by_divergence[row] * heads[row, k]
            by_variance = slope * noise[row, k] / np.sqrt(variance) + by_divergence[row] * (ONE - ONE / variance)
            by_heads[row, width + k] = HALF * by_variance * grown


@compiled(fastmath=REORDERED)
def _density(shape, x, heads, density):
    levels, n, width = shape
    x, heads, density = floats(x, (n, width)), floats(heads, (levels, n, 2 * width)), floats(density, (levels, n))
    for level in range(levels):
        for row in range(n):
            total = f32(0)
            for k in range(width):
                log_variance, apart = heads[level, row, width + k], x[row, k] - heads[level, row, k]
                total += apart * apart * exp(-log_variance) + log_variance + LOG_TAU
            density[level, row] = -HALF * total


@compiled(fastmath=REORDERED)
def _density_back(shape, x, heads, slope, by_x, by_heads):
    levels, n, width = shape
    x, both = floats(x, (n, width)), (levels, n, 2 * width)
    heads, by_heads = floats(heads, both), floats(by_heads, both)
    slope, by_x = floats(slope, (levels, n)), floats(by_x, (n, width))
    for level in range(levels):
        for row in range(n):
            for k in range(width):
                apart = x[row, k] - heads[level, row, k]
                steep = apart * exp(-heads[level, row, width + k])
                by_x[row, k] -= slope[level, row] * steep
                by_heads[level, row, k] = slope[level, row] * steep
                by_heads[level, row, width + k] = HALF * slope[level, row] * (apart * steep - ONE)
