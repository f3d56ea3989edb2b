"""Likelihood of unspliced and spliced values on curves of four states, one compiled pass forward and one back.

The plain form is in `scduet.models.velocity.kinetics`. Gradients by the rates of the genes are those by the numbers in
`GENES`, which are made of the rates in torch.
"""

from __future__ import annotations

from scduet._torch import torch

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from torch import Tensor
from torch.autograd import Function

from scduet.nn.kernels.jit import address, compiled, floats, threads_for
from scduet.nn.kernels.math import REORDERED, exp, log, widest
from scduet.nn.second_order import once_differentiable

f32 = np.float32
STATES = 4
MIN_PER_THREAD = 2**14  # genes of cells
# The numbers of a gene: speeds of splicing and degradation, longest times of induction and of repression, the steady
# state of both kinds and the lag of spliced behind unspliced, the same at the switch, and standard deviations.
GENES = tuple(
    ["beta", "gamma", "rising", "falling", "on_u", "on_s", "lag", "start_u", "start_s", "start_lag", "sd_u", "sd_s"]
)
BETA, GAMMA, RISING, FALLING, ON_U, ON_S, LAG, START_U, START_S, START_LAG, SD_U, SD_S = range(len(GENES))
NUMBERS, ZERO, HALF, ONE = len(GENES), f32(0), f32(0.5), f32(1)
LEAST = f32(np.finfo(np.float32).eps)  # of a share
MOST, OFF, NARROW, HALF_LOG_TAU = ONE - LEAST, f32(10), f32(100), f32(math.log(2 * math.pi) / 2)


class Cost(Function):
    """-log p of the u and s of each cell, summed over genes. pi: shares of the states, (cell, gene, 4)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, s: Tensor, pi: Tensor, rho: Tensor, tau: Tensor, genes: Tensor) -> Tensor:
        given, cost = tuple(tensor.contiguous() for tensor in (u, s, pi, rho, tau, genes)), u.new_empty(len(u))
        ctx.save_for_backward(*given)
        _run(_cost, _cost_parallel, u.shape, (*given, cost))
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        given = ctx.saved_tensors
        found = tuple(torch.empty_like(tensor) for tensor in given[2:5])
        of_genes = given[5].new_zeros(torch.get_num_threads(), *given[5].shape)
        _run(_cost_back, _cost_back_parallel, given[0].shape, (*given, grads[0].contiguous(), *found, of_genes))
        return None, None, *found, of_genes.sum(0)


def _run(alone: Callable, parallel: Callable, shape: torch.Size, tensors: tuple[Tensor, ...]) -> None:
    """Goes through all cells, in as many parts as threads."""
    addresses = tuple(address(tensor) for tensor in tensors)
    with threads_for(shape[0] * shape[1], MIN_PER_THREAD) as threads:
        if threads > 1:
            parallel(threads, tuple(shape), addresses)
        else:
            alone(0, 1, tuple(shape), addresses)


@compiled(parallel=True)
def _cost_parallel(threads, shape, addresses):
    for thread in numba.prange(threads):
        _cost(thread, threads, shape, addresses)


@compiled(parallel=True)
def _cost_back_parallel(threads, shape, addresses):
    for thread in numba.prange(threads):
        _cost_back(thread, threads, shape, addresses)


@compiled()
def _cost(thread, threads, shape, addresses):
    n, genes = shape
    to_u, to_s, to_pi, to_rho, to_tau, to_genes, to_cost = addresses
    u, s, pi = floats(to_u, shape), floats(to_s, shape), floats(to_pi, (n, genes, STATES))
    rho, tau = floats(to_rho, shape), floats(to_tau, shape)
    of, cost = floats(to_genes, (NUMBERS, genes)), floats(to_cost, n)
    for i in range(thread * n // threads, (thread + 1) * n // threads):
        cost[i] = _cost_of_cell(u[i], s[i], pi[i], rho[i], tau[i], of)


@compiled(fastmath=REORDERED)
def _cost_of_cell(u, s, pi, rho, tau, of):
    widest()
    cost = ZERO
    for g in range(len(u)):
        up, down = _curve_up(rho[g], of, g), _curve_down(tau[g], of, g)
        shares, _ = _shares(pi[g])
        cost += _mixture(u[g], up[0], of[ON_U, g], down[0], of[SD_U, g], shares)[0]
        cost += _mixture(s[g], up[1], of[ON_S, g], down[1], of[SD_S, g], shares)[0]
        cost += ZERO * (u[g] + s[g] + rho[g] + tau[g])  # exp lets no NaN through
    return cost


@compiled(inline="always", fastmath=REORDERED)
def _curve_up(rho, of, g):
    """u and s during induction, the time, and what is left of either until the steady state."""
    t = of[RISING, g] * rho
    of_u, of_s = exp(-of[BETA, g] * t), exp(-of[GAMMA, g] * t)
    return of[ON_U, g] * (ONE - of_u), of[ON_S, g] * (ONE - of_s) + of[LAG, g] * (of_s - of_u), t, of_u, of_s


@compiled(inline="always", fastmath=REORDERED)
def _curve_down(tau, of, g):
    """The same during repression."""
    t = of[FALLING, g] * tau
    of_u, of_s = exp(-of[BETA, g] * t), exp(-of[GAMMA, g] * t)
    return of[START_U, g] * of_u, of[START_S, g] * of_s - of[START_LAG, g] * (of_s - of_u), t, of_u, of_s


@compiled(inline="always", fastmath=REORDERED)
def _shares(pi):
    """Shares of the states within bounds, and their sum before."""
    total = pi[0] + pi[1] + pi[2] + pi[3]
    scale = ONE / total
    one, two = min(max(pi[0] * scale, LEAST), MOST), min(max(pi[1] * scale, LEAST), MOST)
    three, four = min(max(pi[2] * scale, LEAST), MOST), min(max(pi[3] * scale, LEAST), MOST)
    return (one, two, three, four), total


@compiled(inline="always", fastmath=REORDERED)
def _mixture(x, up, on, down, sd, shares):
    """-log of the density of x; of each state: the distance from it in standard deviations, and its density over that.

    The off state has a tenth of the standard deviation.
    """
    scale = ONE / sd
    a, b, c, d = (x - up) * scale, (x - on) * scale, (x - down) * scale, x * scale
    first, second, third, last = -HALF * a * a, -HALF * b * b, -HALF * c * c, -HALF * NARROW * d * d
    most = max(max(first, second), max(third, last))
    first, second, third, last = exp(first - most), exp(second - most), exp(third - most), OFF * exp(last - most)
    total = shares[0] * first + shares[1] * second + shares[2] * third + shares[3] * last
    over = ONE / total
    cost = log(sd) + HALF_LOG_TAU - most - log(total)
    return cost, (a, b, c, d), (first * over, second * over, third * over, last * over), scale


@compiled(inline="always", fastmath=REORDERED)
def _mixture_back(weight, away, density, shares, scale):
    """Gradients of the cost by the three means and by the standard deviation."""
    up, on, down = shares[0] * density[0] * away[0], shares[1] * density[1] * away[1], shares[2] * density[2] * away[2]
    off = NARROW * shares[3] * density[3] * away[3]
    wide = ONE - up * away[0] - on * away[1] - down * away[2] - off * away[3]
    factor = weight * scale
    return -factor * up, -factor * on, -factor * down, factor * wide


@compiled()
def _cost_back(thread, threads, shape, addresses):
    n, genes = shape
    to_u, to_s, to_pi, to_rho, to_tau, to_genes, to_grad, to_grad_pi, to_grad_rho, to_grad_tau, to_grad_genes = (
        addresses
    )
    u, s, pi = floats(to_u, shape), floats(to_s, shape), floats(to_pi, (n, genes, STATES))
    rho, tau = floats(to_rho, shape), floats(to_tau, shape)
    of, grad = floats(to_genes, (NUMBERS, genes)), floats(to_grad, n)
    grad_pi = floats(to_grad_pi, (n, genes, STATES))
    grad_rho, grad_tau = floats(to_grad_rho, shape), floats(to_grad_tau, shape)
    by = floats(to_grad_genes + thread * 4 * NUMBERS * genes, (NUMBERS, genes))
    for i in range(thread * n // threads, (thread + 1) * n // threads):
        _back_of_cell(u[i], s[i], pi[i], rho[i], tau[i], of, grad[i], grad_pi[i], grad_rho[i], grad_tau[i], by)


@compiled(fastmath=REORDERED)
def _back_of_cell(u, s, pi, rho, tau, of, weight, grad_pi, grad_rho, grad_tau, by):
    """Writes the gradients of a cell, and adds those of the genes."""
    widest()
    for g in range(len(u)):
        u_up, s_up, t_up, left_u, left_s = _curve_up(rho[g], of, g)
        u_down, s_down, t_down, kept_u, kept_s = _curve_down(tau[g], of, g)
        shares, total = _shares(pi[g])
        _, away_u, density_u, scale_u = _mixture(u[g], u_up, of[ON_U, g], u_down, of[SD_U, g], shares)
        _, away_s, density_s, scale_s = _mixture(s[g], s_up, of[ON_S, g], s_down, of[SD_S, g], shares)
        by_u_up, by_u_on, by_u_down, by_sd_u = _mixture_back(weight, away_u, density_u, shares, scale_u)
        by_s_up, by_s_on, by_s_down, by_sd_s = _mixture_back(weight, away_s, density_s, shares, scale_s)
        _back_to_shares(weight, density_u, density_s, shares, total, grad_pi[g])

        by_left_u = (-by_u_up * of[ON_U, g] - by_s_up * of[LAG, g]) * left_u
        by_left_s = by_s_up * (of[LAG, g] - of[ON_S, g]) * left_s
        by_kept_u = (by_u_down * of[START_U, g] + by_s_down * of[START_LAG, g]) * kept_u
        by_kept_s = by_s_down * (of[START_S, g] - of[START_LAG, g]) * kept_s
        by_up = -of[BETA, g] * by_left_u - of[GAMMA, g] * by_left_s
        by_down = -of[BETA, g] * by_kept_u - of[GAMMA, g] * by_kept_s
        grad_rho[g], grad_tau[g] = of[RISING, g] * by_up, of[FALLING, g] * by_down

        by[BETA, g] -= t_up * by_left_u + t_down * by_kept_u
        by[GAMMA, g] -= t_up * by_left_s + t_down * by_kept_s
        by[RISING, g] += rho[g] * by_up
        by[FALLING, g] += tau[g] * by_down
        by[ON_U, g] += by_u_up * (ONE - left_u) + by_u_on
        by[ON_S, g] += by_s_up * (ONE - left_s) + by_s_on
        by[LAG, g] += by_s_up * (left_s - left_u)
        by[START_U, g] += by_u_down * kept_u
        by[START_S, g] += by_s_down * kept_s
        by[START_LAG, g] -= by_s_down * (kept_s - kept_u)
        by[SD_U, g] += by_sd_u
        by[SD_S, g] += by_sd_s


@compiled(inline="always", fastmath=REORDERED)
def _back_to_shares(weight, density_u, density_s, shares, total, grad):
    """Gradients by what the shares were made of: none where a share was at its bounds."""
    one, two = _within(shares[0], density_u[0] + density_s[0]), _within(shares[1], density_u[1] + density_s[1])
    three, four = _within(shares[2], density_u[2] + density_s[2]), _within(shares[3], density_u[3] + density_s[3])
    mean, factor = shares[0] * one + shares[1] * two + shares[2] * three + shares[3] * four, -weight / total
    grad[0], grad[1] = factor * (one - mean), factor * (two - mean)
    grad[2], grad[3] = factor * (three - mean), factor * (four - mean)


@compiled(inline="always", fastmath=REORDERED)
def _within(share, slope):
    return slope if (share > LEAST) & (share < MOST) else ZERO
