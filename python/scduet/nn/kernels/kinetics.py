"""Likelihood of unspliced and spliced values on curves of four states, one compiled pass forward and one back.

The plain form is in `scduet.models.velocity.kinetics`, whose `numbers` makes the table of genes of their rates.
"""

from __future__ import annotations

from scduet._torch import torch

import math
from typing import Any

import numba
import numpy as np
from torch import Tensor
from torch.autograd import Function

from scduet.nn.kernels.blocks import BLOCK, PARTS, cells_of, read, run, write
from scduet.nn.kernels.jit import compiled, floats
from scduet.nn.kernels.math import REORDERED, exp, log, widest
from scduet.nn.second_order import once_differentiable

f32 = np.float32
# The numbers of a gene: speeds of splicing and degradation, longest times of induction and of repression, the steady
# state of both kinds and the lag of spliced behind unspliced, the same at the switch, and standard deviations.
NUMBERS, ROWS = 12, 20
# Rows of a block: the numbers of the genes, then the values of a cell.
BETA, GAMMA, RISING, FALLING, ON_U, ON_S, LAG, START_U, START_S, START_LAG, SD_U, SD_S = range(0, 12 * BLOCK, BLOCK)
RHO, TAU, U, S, INDUCED, ON, REPRESSED, OFF = range(12 * BLOCK, 20 * BLOCK, BLOCK)
ZERO, HALF, ONE = f32(0), f32(0.5), f32(1)
LEAST = f32(np.finfo(np.float32).eps)  # of a share
MOST, HALF_LOG_TAU = ONE - LEAST, f32(math.log(2 * math.pi) / 2)
MOST_LOG = f32(60)  # beyond, arithmetic comes near the least float32 and takes far longer
TIGHTER, TIGHTER_SQUARED = f32(10), f32(100)  # the off state has a tenth of the standard deviation


class Cost(Function):
    """-log p of the u and s of each cell, summed over genes. pi: shares of the states, (cell, gene, 4)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, s: Tensor, pi: Tensor, rho: Tensor, tau: Tensor, genes: Tensor) -> Tensor:
        given, cost = tuple(tensor.contiguous() for tensor in (u, s, pi, rho, tau, genes)), u.new_zeros(len(u))
        ctx.save_for_backward(*given)
        run(_cost, _cost_parallel, u.shape, (), (*given, cost))
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        given = ctx.saved_tensors
        found = tuple(torch.empty_like(tensor) for tensor in given[2:5])
        of_genes = given[5].new_zeros(torch.get_num_threads(), *given[5].shape)
        tensors = *given, grads[0].contiguous(), *found, of_genes
        run(_cost_back, _cost_back_parallel, given[0].shape, (), tensors)
        return None, None, *found, of_genes.sum(0)


@compiled(parallel=True)
def _cost_parallel(threads, shape, settings, addresses):
    for thread in numba.prange(threads):
        _cost(thread, threads, shape, settings, addresses)


@compiled(parallel=True)
def _cost_back_parallel(threads, shape, settings, addresses):
    for thread in numba.prange(threads):
        _cost_back(thread, threads, shape, settings, addresses)


@compiled()
def _cost(thread, threads, shape, settings, addresses):
    widest()
    n, genes = shape
    to_u, to_s, to_pi, to_rho, to_tau, to_genes, to_cost = addresses
    cell = floats(to_rho, shape), floats(to_tau, shape), floats(to_u, shape), floats(to_s, shape)
    pi, cost = floats(to_pi, (n, genes, PARTS)), floats(to_cost, n)
    numbers, given = floats(to_genes, (NUMBERS, genes)), np.empty(ROWS * BLOCK, np.float32)
    for first in range(0, genes, BLOCK):
        width = min(BLOCK, genes - first)
        _read_genes(numbers, first, width, given)
        for i in cells_of(thread, threads, n):
            _read_cell(cell, i, first, width, given)
            read(pi[i], first, width, ONE, given, INDUCED)
            cost[i] += _cost_of_block(given, width)


@compiled()
def _read_genes(numbers, first, width, out):
    for k in range(NUMBERS):
        for g in range(width):
            out[k * BLOCK + g] = numbers[k, first + g]


@compiled()
def _read_cell(values, i, first, width, out):
    for g in range(width):
        out[RHO + g], out[TAU + g] = values[0][i, first + g], values[1][i, first + g]
        out[U + g], out[S + g] = values[2][i, first + g], values[3][i, first + g]


@compiled(fastmath=REORDERED)
def _cost_of_block(of, width):
    widest()
    cost = ZERO
    for g in range(width):
        up, down, (shares, _) = _curve_up(of, g), _curve_down(of, g), _shares(of, g)
        cost += _mixture(of[U + g], up[0], of[ON_U + g], down[0], of[SD_U + g], shares)[0]
        cost += _mixture(of[S + g], up[1], of[ON_S + g], down[1], of[SD_S + g], shares)[0]
        cost += ZERO * (of[U + g] + of[S + g] + of[RHO + g] + of[TAU + g])  # exp lets no NaN through
    return cost


@compiled(inline="always", fastmath=REORDERED)
def _left(x):
    """e^-x, but at least that of MOST_LOG."""
    return exp(-min(x, MOST_LOG))


@compiled(inline="always", fastmath=REORDERED)
def _curve_up(of, g):
    """u and s during induction, the time, and what is left of either until the steady state."""
    t = of[RISING + g] * of[RHO + g]
    of_u, of_s = _left(of[BETA + g] * t), _left(of[GAMMA + g] * t)
    return of[ON_U + g] * (ONE - of_u), of[ON_S + g] * (ONE - of_s) + of[LAG + g] * (of_s - of_u), t, of_u, of_s


@compiled(inline="always", fastmath=REORDERED)
def _curve_down(of, g):
    """The same during repression."""
    t = of[FALLING + g] * of[TAU + g]
    of_u, of_s = _left(of[BETA + g] * t), _left(of[GAMMA + g] * t)
    return of[START_U + g] * of_u, of[START_S + g] * of_s - of[START_LAG + g] * (of_s - of_u), t, of_u, of_s


@compiled(inline="always", fastmath=REORDERED)
def _shares(of, g):
    """Shares of the states within bounds, and one over their sum before."""
    scale = ONE / (of[INDUCED + g] + of[ON + g] + of[REPRESSED + g] + of[OFF + g])
    one, two = min(max(of[INDUCED + g] * scale, LEAST), MOST), min(max(of[ON + g] * scale, LEAST), MOST)
    three, four = min(max(of[REPRESSED + g] * scale, LEAST), MOST), min(max(of[OFF + g] * scale, LEAST), MOST)
    return (one, two, three, four), scale


@compiled(inline="always", fastmath=REORDERED)
def _mixture(x, up, on, down, sd, shares):
    """-log of the density of x; of each state: how far x is, in standard deviations, and its density over that."""
    scale = ONE / sd
    a, b, c, d = (x - up) * scale, (x - on) * scale, (x - down) * scale, x * scale
    first, second, third, last = -HALF * a * a, -HALF * b * b, -HALF * c * c, -HALF * TIGHTER_SQUARED * d * d
    most = max(max(first, second), max(third, last))
    first, second, third = _left(most - first), _left(most - second), _left(most - third)
    last = TIGHTER * _left(most - last)
    total = shares[0] * first + shares[1] * second + shares[2] * third + shares[3] * last
    over = ONE / total
    cost = log(sd) + HALF_LOG_TAU - most - log(total)
    return cost, (a, b, c, d), (first * over, second * over, third * over, last * over), scale


@compiled(inline="always", fastmath=REORDERED)
def _mixture_back(weight, away, density, shares, scale):
    """Gradients of the cost by the three means and by the standard deviation."""
    up, on, down = shares[0] * density[0] * away[0], shares[1] * density[1] * away[1], shares[2] * density[2] * away[2]
    off = TIGHTER_SQUARED * shares[3] * density[3] * away[3]
    wide = ONE - up * away[0] - on * away[1] - down * away[2] - off * away[3]
    factor = weight * scale
    return -factor * up, -factor * on, -factor * down, factor * wide


@compiled()
def _cost_back(thread, threads, shape, settings, addresses):
    widest()
    n, genes = shape
    to_u, to_s, to_pi, to_rho, to_tau, to_genes, to_grad, to_grad_pi, to_grad_rho, to_grad_tau, to_by_genes = addresses
    cell = floats(to_rho, shape), floats(to_tau, shape), floats(to_u, shape), floats(to_s, shape)
    pi, numbers, grad = floats(to_pi, (n, genes, PARTS)), floats(to_genes, (NUMBERS, genes)), floats(to_grad, n)
    grad_pi = floats(to_grad_pi, (n, genes, PARTS))
    grad_rho, grad_tau = floats(to_grad_rho, shape), floats(to_grad_tau, shape)
    by_genes = floats(to_by_genes + thread * 4 * NUMBERS * genes, (NUMBERS, genes))
    given, found = np.empty(ROWS * BLOCK, np.float32), np.empty(ROWS * BLOCK, np.float32)
    for first in range(0, genes, BLOCK):
        width = min(BLOCK, genes - first)
        _read_genes(numbers, first, width, given)
        found[: NUMBERS * BLOCK] = ZERO
        for i in cells_of(thread, threads, n):
            _read_cell(cell, i, first, width, given)
            read(pi[i], first, width, ONE, given, INDUCED)
            _back_of_block(given, width, grad[i], found)
            for g in range(width):
                grad_rho[i, first + g], grad_tau[i, first + g] = found[RHO + g], found[TAU + g]
            write(found, INDUCED, first, width, grad_pi[i])
        for k in range(NUMBERS):
            for g in range(width):
                by_genes[k, first + g] = found[k * BLOCK + g]


@compiled(fastmath=REORDERED)
def _back_of_block(of, width, weight, by):
    """Writes the gradients of a cell, and adds those of the genes."""
    widest()
    for g in range(width):
        u_up, s_up, t_up, left_u, left_s = _curve_up(of, g)
        u_down, s_down, t_down, kept_u, kept_s = _curve_down(of, g)
        shares, per_total = _shares(of, g)
        _, away_u, density_u, scale_u = _mixture(of[U + g], u_up, of[ON_U + g], u_down, of[SD_U + g], shares)
        _, away_s, density_s, scale_s = _mixture(of[S + g], s_up, of[ON_S + g], s_down, of[SD_S + g], shares)
        by_u_up, by_u_on, by_u_down, by_sd_u = _mixture_back(weight, away_u, density_u, shares, scale_u)
        by_s_up, by_s_on, by_s_down, by_sd_s = _mixture_back(weight, away_s, density_s, shares, scale_s)

        one, two = _within(shares[0], density_u[0] + density_s[0]), _within(shares[1], density_u[1] + density_s[1])
        three, four = _within(shares[2], density_u[2] + density_s[2]), _within(shares[3], density_u[3] + density_s[3])
        mean, factor = shares[0] * one + shares[1] * two + shares[2] * three + shares[3] * four, -weight * per_total
        by[INDUCED + g], by[ON + g] = factor * (one - mean), factor * (two - mean)
        by[REPRESSED + g], by[OFF + g] = factor * (three - mean), factor * (four - mean)

        by_left_u = (-by_u_up * of[ON_U + g] - by_s_up * of[LAG + g]) * left_u
        by_left_s = by_s_up * (of[LAG + g] - of[ON_S + g]) * left_s
        by_kept_u = (by_u_down * of[START_U + g] + by_s_down * of[START_LAG + g]) * kept_u
        by_kept_s = by_s_down * (of[START_S + g] - of[START_LAG + g]) * kept_s
        by_up = -of[BETA + g] * by_left_u - of[GAMMA + g] * by_left_s
        by_down = -of[BETA + g] * by_kept_u - of[GAMMA + g] * by_kept_s
        by[RHO + g], by[TAU + g] = of[RISING + g] * by_up, of[FALLING + g] * by_down

        by[BETA + g] -= t_up * by_left_u + t_down * by_kept_u
        by[GAMMA + g] -= t_up * by_left_s + t_down * by_kept_s
        by[RISING + g] += of[RHO + g] * by_up
        by[FALLING + g] += of[TAU + g] * by_down
        by[ON_U + g] += by_u_up * (ONE - left_u) + by_u_on
        by[ON_S + g] += by_s_up * (ONE - left_s) + by_s_on
        by[LAG + g] += by_s_up * (left_s - left_u)
        by[START_U + g] += by_u_down * kept_u
        by[START_S + g] += by_s_down * kept_s
        by[START_LAG + g] -= by_s_down * (kept_s - kept_u)
        by[SD_U + g] += by_sd_u
        by[SD_S + g] += by_sd_s


@compiled(inline="always", fastmath=REORDERED)
def _within(share, slope):
    """The slope; none where the share is at its bounds."""
    return slope if (share > LEAST) & (share < MOST) else ZERO
