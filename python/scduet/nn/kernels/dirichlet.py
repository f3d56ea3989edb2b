"""Draws from Dirichlet distributions of four parts, one compiled pass forward and one back; the plain form is in
`scduet.nn.dirichlet`.

The parts are gammas over their sum. The logarithm of a gamma is drawn as in Marsaglia & Tsang (2000): all genes of a
cell get a first trial in a loop without branches, and the few that fail are tried again one by one. Random numbers are
a hash of their place and of one seed, so that they do not depend on the number of threads.
"""

from __future__ import annotations

from scduet._torch import torch

import math
from typing import Any

import numba
import numpy as np
from torch import Tensor
from torch.autograd import Function

from scduet.nn.kernels.blocks import BLOCK, PARTS, cells_of, read, run, total_of, write
from scduet.nn.kernels.dirichlet_back import gradients, gradients_parallel
from scduet.nn.kernels.jit import compiled, floats
from scduet.nn.kernels.math import REORDERED, exp, hashed, log, log_gamma32, widest
from scduet.nn.second_order import once_differentiable

f32, i32, u32 = np.float32, np.int32, np.uint32
TRIALS = 100  # after which a concentration is taken for no number; one in twenty trials fails
ZERO, HALF, ONE = f32(0), f32(0.5), f32(1)
TINY, NEARLY_ONE, FAILED = f32(1.2e-38), f32(1 - 2.0**-24), f32(np.inf)
LEAST_LOG = f32(-60)  # of a part over the largest one: arithmetic with numbers near the least float32 takes far longer


class Draw(Function):
    @staticmethod
    def forward(ctx: Any, concentration: Tensor, prior: float) -> tuple[Tensor, Tensor]:
        shares, divergence = torch.empty_like(concentration), concentration.new_empty(len(concentration))
        ctx.save_for_backward(concentration, shares)
        ctx.prior, ctx.shape = f32(prior), concentration.shape[:2]
        constant = f32(PARTS * math.lgamma(prior) - math.lgamma(PARTS * prior))
        seed = int(torch.empty((), dtype=torch.int64).random_(2**32))
        settings = u32(seed), ctx.prior, constant
        run(_draw, _draw_parallel, ctx.shape, settings, (concentration, shares, divergence))
        return shares, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        concentration, shares = ctx.saved_tensors
        found = torch.empty_like(concentration)
        tensors = concentration, shares, *(grad.contiguous() for grad in grads), found
        run(gradients, gradients_parallel, ctx.shape, (ctx.prior,), tensors)
        return found, None


@compiled(parallel=True)
def _draw_parallel(threads, shape, settings, addresses):
    for thread in numba.prange(threads):
        _draw(thread, threads, shape, settings, addresses)


@compiled()
def _draw(thread, threads, shape, settings, addresses):
    """Shares of the parts of each gene of each cell, and the divergences of the cells."""
    widest()
    n, genes = shape
    seed, prior, constant = settings
    to_concentration, to_shares, to_divergence = addresses
    concentration, shares = floats(to_concentration, (n, genes, PARTS)), floats(to_shares, (n, genes, PARTS))
    divergence = floats(to_divergence, n)
    given, drawn = np.empty(PARTS * BLOCK, np.float32), np.empty(PARTS * BLOCK, np.float32)
    for i in cells_of(thread, threads, n):
        divergence[i] = ZERO
        for start in range(0, genes, BLOCK):
            width, place = min(BLOCK, genes - start), u32(i * genes + start)
            read(concentration[i], start, width, prior, given, 0)
            _draw_noise(place, u32(n * genes), seed, drawn)
            _first_trials(given, place, u32(n * genes), seed, drawn)
            _further_trials(given, width, place, seed, drawn)
            _normalize(drawn)
            write(drawn, 0, start, width, shares[i])
            divergence[i] += _divergence(given, prior) + f32(BLOCK) * constant


@compiled(fastmath=REORDERED)
def _draw_noise(place, size, seed, drawn):
    """Writes standard normals. Each of `size` distributions has random numbers of its own, from its place on: four for
    normals, four for trials, four for those that are to be less."""
    widest()
    for half in range(2):
        for g in range(BLOCK):
            at = place + u32(g) + u32(2 * half) * size
            one, two = _normals(hashed(at, seed), hashed(at + size, seed))
            drawn[2 * half * BLOCK + g], drawn[(2 * half + 1) * BLOCK + g] = one, two


@compiled(fastmath=REORDERED)
def _first_trials(given, place, size, seed, drawn):
    """Turns normals into log gammas, or FAILED."""
    widest()
    for k in range(PARTS):
        for g in range(BLOCK):
            accepting, growing = place + u32(g) + u32(4 + k) * size, place + u32(g) + u32(8 + k) * size
            numbers = hashed(accepting, seed), hashed(growing, seed)
            drawn[k * BLOCK + g] = _trial(given[k * BLOCK + g], drawn[k * BLOCK + g], numbers[0], numbers[1])


@compiled()
def _further_trials(given, width, place, seed, drawn):
    for k in range(PARTS):
        for g in range(width):
            trial = 1
            while drawn[k * BLOCK + g] == FAILED and trial < TRIALS:
                at, again = place + u32(g), hashed(u32(PARTS * trial + k), seed ^ u32(0x5BF03635))
                normal, _ = _normals(hashed(at, again), hashed(at, again + u32(1)))
                numbers = hashed(at, again + u32(2)), hashed(at, again + u32(3))
                drawn[k * BLOCK + g] = _trial(given[k * BLOCK + g], normal, numbers[0], numbers[1])
                trial += 1


@compiled(inline="always", fastmath=REORDERED)
def _uniform(bits):
    """A number between 0 and 1, both excluded, from the upper 23 bits."""
    return (f32(i32(bits >> u32(9))) + HALF) * f32(2.0**-23)


@compiled(inline="always", fastmath=REORDERED)
def _normals(first, second):
    """Two standard normals (Box & Muller 1958); the angle is near an axis, which two bits choose."""
    radius, angle = np.sqrt(f32(-2) * log(_uniform(first))), (_uniform(second) - HALF) * f32(math.pi / 2)
    t = angle * angle
    sine = angle * (ONE - t * (f32(1 / 6) - t * (f32(1 / 120) - t * f32(1 / 5040))))
    cosine = ONE - t * (HALF - t * (f32(1 / 24) - t * (f32(1 / 720) - t * f32(1 / 40320))))
    cosine = -cosine if second & u32(1) else cosine
    turned = second & u32(2)
    return radius * (sine if turned else cosine), radius * (cosine if turned else sine)


@compiled(inline="always", fastmath=REORDERED)
def _trial(a, noise, accepting, growing):
    """The logarithm of a gamma of concentration a, or FAILED. Below 1 it is one of a + 1, times u^(1/a)."""
    below = a < ONE
    d = (a + ONE if below else a) - f32(1 / 3)
    root = ONE + noise / np.sqrt(f32(9) * d)
    v = root * root * root
    log_v = log(max(v, TINY))
    accepted = (v > ZERO) & (log(_uniform(accepting)) < HALF * noise * noise + d * (ONE - v + log_v))
    less = log(_uniform(growing)) / a if below else ZERO
    return log(d) + log_v + less if accepted else FAILED


@compiled(fastmath=REORDERED)
def _normalize(drawn):
    """Turns log gammas into shares."""
    widest()
    for g in range(BLOCK):
        a, b, c, d = drawn[g], drawn[BLOCK + g], drawn[2 * BLOCK + g], drawn[3 * BLOCK + g]
        most = max(max(a, b), max(c, d))
        a, b = exp(max(a - most, LEAST_LOG)), exp(max(b - most, LEAST_LOG))
        c, d = exp(max(c - most, LEAST_LOG)), exp(max(d - most, LEAST_LOG))
        factor = ONE / (a + b + c + d)
        drawn[g], drawn[BLOCK + g] = min(a * factor, NEARLY_ONE), min(b * factor, NEARLY_ONE)
        drawn[2 * BLOCK + g], drawn[3 * BLOCK + g] = min(c * factor, NEARLY_ONE), min(d * factor, NEARLY_ONE)


@compiled(fastmath=REORDERED)
def _divergence(given, prior):
    """KL divergence of a block's genes from the prior, up to a constant."""
    widest()
    found = ZERO
    for g in range(BLOCK):
        total = total_of(given, g)
        value, grad = log_gamma32(total)
        found += value - (total - f32(PARTS) * prior) * grad
    for g in range(PARTS * BLOCK):
        a = given[g]
        value, grad = log_gamma32(a)
        found += (a - prior) * grad - value
    return found
