"""Samples and densities of diagonal Gaussians, one compiled pass forward and one backward; the plain forms are in
`scduet.nn.gaussians`."""

from __future__ import annotations

from scduet._torch import torch

import math
from typing import Any

import numpy as np
from torch import Tensor
from torch.autograd import Function

from scduet.nn.kernels.jit import address, compiled, floats
from scduet.nn.kernels.math import REORDERED, exp, log
from scduet.nn.second_order import once_differentiable

f32 = np.float32
VARIANCE_FLOOR = 1e-4  # added to a posterior's variance, as in scvi-tools
ONE, HALF, LEAST, LOG_TAU = f32(1), f32(0.5), f32(VARIANCE_FLOOR), f32(math.log(2 * math.pi))


class Draw(Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.empty_like(noise), noise.new_empty(noise.shape[:-1])
        ctx.save_for_backward(heads, noise)
        _draw(_shape(noise), *(address(tensor) for tensor in (heads, noise, *found)))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        heads, noise = ctx.saved_tensors
        tensors = heads, noise, *(grad.contiguous() for grad in grads), torch.empty_like(heads)
        _draw_back(_shape(noise), *map(address, tensors))
        return tensors[-1], None


class LogDensity(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: Tensor) -> Tensor:
        found = heads.new_empty(heads.shape[:-1])
        ctx.save_for_backward(x, heads)
        _density((len(heads), *x.shape), *(address(tensor) for tensor in (x, heads, found)))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, heads = ctx.saved_tensors
        grad_x, grad_heads = torch.zeros_like(x), torch.empty_like(heads)
        tensors = x, heads, grads[0].contiguous(), grad_x, grad_heads
        _density_back((len(heads), *x.shape), *(address(tensor) for tensor in tensors))
        return grad_x, grad_heads


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
def _draw_back(shape, heads, noise, grad_draw, grad_divergence, grad_heads):
    n, width = shape
    heads, grad_heads = floats(heads, (n, 2 * width)), floats(grad_heads, (n, 2 * width))
    noise, grad_draw, grad_divergence = floats(noise, shape), floats(grad_draw, shape), floats(grad_divergence, n)
    for row in range(n):
        for k in range(width):
            grown = exp(heads[row, width + k])
            variance, grad = grown + LEAST, grad_draw[row, k]
            grad_heads[row, k] = grad + grad_divergence[row] * heads[row, k]
            grad_variance = grad * noise[row, k] / np.sqrt(variance) + grad_divergence[row] * (ONE - ONE / variance)
            grad_heads[row, width + k] = HALF * grad_variance * grown


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
def _density_back(shape, x, heads, grad, grad_x, grad_heads):
    levels, n, width = shape
    x, both = floats(x, (n, width)), (levels, n, 2 * width)
    heads, grad_heads = floats(heads, both), floats(grad_heads, both)
    grad, grad_x = floats(grad, (levels, n)), floats(grad_x, (n, width))
    for level in range(levels):
        for row in range(n):
            for k in range(width):
                apart = x[row, k] - heads[level, row, k]
                steep = apart * exp(-heads[level, row, width + k])
                grad_x[row, k] -= grad[level, row] * steep
                grad_heads[level, row, k] = grad[level, row] * steep
                grad_heads[level, row, width + k] = HALF * grad[level, row] * (apart * steep - ONE)
