"""Draws from Dirichlet distributions of four parts, one compiled pass forward and one back; the plain form is in
`scduet.nn.dirichlet`.

The parts are gammas over their sum. The logarithm of a gamma is drawn as in Marsaglia & Tsang (2000): all genes of a
cell get a first trial in a loop without branches, and the few that fail are tried again one by one. Gradients of a draw
are those of torch (ATen/native/Distributions.h, BSD-3): its series where a part or the rest is small, its saddle point
where both concentrations are large, and its rational function between. Random numbers are a hash of their place and of one seed,
so that they do not depend on the number of threads.
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
from scduet.nn.kernels.math import REORDERED, exp, hashed, log, widest
from scduet.nn.second_order import once_differentiable

f32, f64, i32, u32 = np.float32, np.float64, np.int32, np.uint32
PARTS = 4
MIN_PER_THREAD = 2**14  # distributions
TRIALS = 100  # after which a concentration is taken for no number; one in twenty trials fails
ZERO, HALF, ONE, TWO, SIX = f32(0), f32(0.5), f32(1), f32(2), f32(6)
TINY, NEARLY_ONE, FAILED = f32(1.2e-38), f32(1 - 2.0**-24), f32(np.inf)
HALF_LOG_TAU = f32(math.log(2 * math.pi) / 2)
# Of torch's rational function, by powers of log x, log(a / x) and log(total x / a).
P = (
    (
        (f32(1.003668233), f32(-0.01061107488), f32(-0.0657888334), f32(0.01201642863)),
        (f32(0.6336835991), f32(-0.3557432599), f32(0.05486251648), f32(-0.001465281033)),
        (f32(-0.03276231906), f32(0.004474107445), f32(0.002429354597), f32(-0.0001557569013)),
    ),
    (
        (f32(0.221950385), f32(-0.3187676331), f32(0.01799915743), f32(0.01074823814)),
        (f32(-0.2951249643), f32(0.06219954479), f32(0.01535556598), f32(0.001550077057)),
        (f32(0.02155310298), f32(0.004170831599), f32(0.001292462449), f32(6.976601077e-05)),
    ),
    (
        (f32(-0.05980841433), f32(0.008441916499), f32(0.01085618172), f32(0.002319392565)),
        (f32(0.02911413504), f32(0.01400243777), f32(-0.002721828457), f32(0.000751041181)),
        (f32(0.005900514878), f32(-0.001936558688), f32(-9.495446725e-06), f32(5.385558597e-05)),
    ),
)
Q = (
    (
        (f32(1), f32(-0.02924021934), f32(-0.04438342661), f32(0.007285809825)),
        (f32(0.6357567472), f32(-0.3473456711), f32(0.05454656494), f32(-0.002407477521)),
        (f32(-0.03301322327), f32(0.004845219414), f32(0.00231480583), f32(-0.0002307248149)),
    ),
    (
        (f32(0.5925320577), f32(-0.1757678135), f32(0.01505928619), f32(0.000564515273)),
        (f32(0.1014815858), f32(-0.06589186703), f32(0.01272886114), f32(-0.0007316646956)),
        (f32(-0.007258481865), f32(0.001096195486), f32(0.0003934994223), f32(-4.12701925e-05)),
    ),
    (
        (f32(0.06469649321), f32(-0.0236701437), f32(0.002902096474), f32(-5.896963079e-05)),
        (f32(0.001925008108), f32(-0.002869809258), f32(0.0008000589141), f32(-6.063713228e-05)),
        (f32(-0.0003477407336), f32(6.959756487e-05), f32(1.097287507e-05), f32(-1.650964693e-06)),
    ),
)


class Draw(Function):
    @staticmethod
    def forward(ctx: Any, concentration: Tensor, prior: float) -> tuple[Tensor, Tensor]:
        shares, divergence = torch.empty_like(concentration), concentration.new_empty(len(concentration))
        ctx.save_for_backward(concentration, shares)
        ctx.prior, ctx.shape = f32(prior), concentration.shape[:2]
        constant = f32(PARTS * math.lgamma(prior) - math.lgamma(PARTS * prior))
        seed = int(torch.empty((), dtype=torch.int64).random_(2**32))
        settings = u32(seed), ctx.prior, constant
        _run(_draw, _draw_parallel, ctx.shape, settings, (concentration, shares, divergence))
        return shares, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        concentration, shares = ctx.saved_tensors
        found = torch.empty_like(concentration)
        tensors = concentration, shares, *(grad.contiguous() for grad in grads), found
        _run(_draw_back, _draw_back_parallel, ctx.shape, (ctx.prior,), tensors)
        return found, None


def _run(alone: Callable, parallel: Callable, shape: torch.Size, settings: tuple, tensors: tuple[Tensor, ...]) -> None:
    """Goes through all cells, in as many parts as threads."""
    addresses = tuple(address(tensor) for tensor in tensors)
    with threads_for(shape[0] * shape[1], MIN_PER_THREAD) as threads:
        if threads > 1:
            parallel(threads, tuple(shape), settings, addresses)
        else:
            alone(0, shape[0], tuple(shape), settings, addresses)


@compiled(parallel=True)
def _draw_parallel(threads, shape, settings, addresses):
    for k in numba.prange(threads):
        _draw(k * shape[0] // threads, (k + 1) * shape[0] // threads, shape, settings, addresses)


@compiled(parallel=True)
def _draw_back_parallel(threads, shape, settings, addresses):
    for k in numba.prange(threads):
        _draw_back(k * shape[0] // threads, (k + 1) * shape[0] // threads, shape, settings, addresses)


@compiled()
def _draw(first, last, shape, settings, addresses):
    """Shares of the parts of each gene in cells from `first` to `last`, and the divergences of the cells."""
    n, genes = shape
    seed, prior, constant = settings
    to_concentration, to_shares, to_divergence = addresses
    concentration, shares = floats(to_concentration, (n, genes, PARTS)), floats(to_shares, (n, genes, PARTS))
    divergence, memory = floats(to_divergence, n), np.empty((2, PARTS, genes), np.float32)
    a, drawn = memory
    for i in range(first, last):
        _apart(concentration[i], a)
        _first_trials(a, u32(i * genes), u32(n * genes), seed, drawn)
        _further_trials(a, u32(i * genes), seed, drawn)
        _normalized(drawn, shares[i])
        divergence[i] = f32(genes) * constant + _divergence(a, prior)


@compiled(fastmath=REORDERED)
def _apart(values, out):
    """Values of each gene and part, as rows of parts."""
    widest()
    for g in range(len(values)):
        for k in range(PARTS):
            out[k, g] = values[g, k]


@compiled(fastmath=REORDERED)
def _first_trials(a, place, size, seed, drawn):
    """Writes log gammas, or FAILED. Each of `size` distributions has numbers of its own, from `place` on."""
    widest()
    for k in range(PARTS):
        for g in range(a.shape[1]):  # random numbers 0 to 3 of a distribution are for normals, the next for trials
            at = place + u32(g)
            pair = u32(k & 2)
            normals = _normals(hashed(at + pair * size, seed), hashed(at + (pair + u32(1)) * size, seed))
            noise = normals[1] if k & 1 else normals[0]
            accepting, growing = at + u32(4 + k) * size, at + u32(8 + k) * size
            drawn[k, g] = _trial(a[k, g], noise, hashed(accepting, seed), hashed(growing, seed))


@compiled()
def _further_trials(a, place, seed, drawn):
    for k in range(PARTS):
        for g in range(a.shape[1]):
            trial = 1
            while drawn[k, g] == FAILED and trial < TRIALS:
                at, again = place + u32(g), hashed(u32(PARTS * trial + k), seed ^ u32(0x5BF03635))
                normals = _normals(hashed(at, again), hashed(at, again + u32(1)))
                drawn[k, g] = _trial(a[k, g], normals[0], hashed(at, again + u32(2)), hashed(at, again + u32(3)))
                trial += 1


@compiled(inline="always", fastmath=REORDERED)
def _uniform(bits):
    """A number between 0 and 1, both excluded, from the upper 23 bits."""
    return (f32(i32(bits >> u32(9))) + HALF) * f32(2.0**-23)


@compiled(inline="always", fastmath=REORDERED)
def _normals(first, second):
    """Two standard normals (Box & Muller 1958). The angle is within an eighth of a turn of an axis, chosen by two bits."""
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
def _normalized(drawn, shares):
    widest()
    for g in range(len(shares)):
        most = max(max(drawn[0, g], drawn[1, g]), max(drawn[2, g], drawn[3, g]))
        one, two = exp(drawn[0, g] - most), exp(drawn[1, g] - most)
        three, four = exp(drawn[2, g] - most), exp(drawn[3, g] - most)
        factor = ONE / (one + two + three + four)
        shares[g, 0] = min(max(one * factor, TINY), NEARLY_ONE)
        shares[g, 1] = min(max(two * factor, TINY), NEARLY_ONE)
        shares[g, 2] = min(max(three * factor, TINY), NEARLY_ONE)
        shares[g, 3] = min(max(four * factor, TINY), NEARLY_ONE)


@compiled(inline="always", fastmath=REORDERED)
def _shifted(x):
    """x, or x + 6 where x < 6; there also the product p of x, x + 1, ..., x + 5, p' and p'', elsewhere 1, 0 and 0."""
    low, q, steep = x < SIX, x * (x + f32(5)), TWO * x + f32(5)
    p = q * (q * (q + f32(10)) + f32(24)) if low else ONE
    by_q = q * (f32(3) * q + f32(20)) + f32(24) if low else ZERO
    second = (SIX * q + f32(20)) * steep * steep + TWO * by_q if low else ZERO
    return x + (SIX if low else ZERO), p, by_q * steep, second


@compiled(inline="always", fastmath=REORDERED)
def _log_gamma(x):
    """log Γ(x) and its derivative: recurrence to 6, then Stirling's series (Abramowitz & Stegun 6.1.40, 6.3.18)."""
    y, p, slope, _ = _shifted(x)
    r, log_y = ONE / y, log(y)
    s = r * r
    value = (y - HALF) * log_y - y + HALF_LOG_TAU + r * (f32(1 / 12) - s * (f32(1 / 360) - s * f32(1 / 1260))) - log(p)
    grad = log_y - HALF * r - s * (f32(1 / 12) - s * (f32(1 / 120) - s * f32(1 / 252))) - slope / p
    return value, grad


@compiled(inline="always", fastmath=REORDERED)
def _polygamma(x):
    """The first and the second derivative of log Γ(x) (Abramowitz & Stegun 6.3.18, 6.4.12)."""
    y, p, slope, second = _shifted(x)
    r, ratio = ONE / y, slope / p
    s = r * r
    first = log(y) - HALF * r - s * (f32(1 / 12) - s * (f32(1 / 120) - s * f32(1 / 252))) - ratio
    return first, r + HALF * s + r * s * (f32(1 / 6) - s * (f32(1 / 30) - s * f32(1 / 42))) + ratio * ratio - second / p


@compiled(fastmath=REORDERED)
def _divergence(a, prior):
    """KL divergence of all genes from the prior, up to a constant."""
    widest()
    found = ZERO
    for g in range(a.shape[1]):
        total = a[0, g] + a[1, g] + a[2, g] + a[3, g]
        value, grad = _log_gamma(total)
        found += value - (total - f32(PARTS) * prior) * grad
    for k in range(PARTS):
        for g in range(a.shape[1]):
            value, grad = _log_gamma(a[k, g])
            found += (a[k, g] - prior) * grad - value
    return found


@compiled()
def _draw_back(first, last, shape, settings, addresses):
    n, genes = shape
    prior = settings[0]
    to_concentration, to_shares, to_grad_shares, to_grad_divergence, to_found = addresses
    concentration, shares = floats(to_concentration, (n, genes, PARTS)), floats(to_shares, (n, genes, PARTS))
    grad_shares, grad_divergence = floats(to_grad_shares, (n, genes, PARTS)), floats(to_grad_divergence, n)
    found, memory = floats(to_found, (n, genes, PARTS)), np.empty((3, PARTS, genes), np.float32)
    a, x, out = memory
    of_total, total = np.empty((3, genes), np.float32), np.empty(genes, np.float32)
    for i in range(first, last):
        _apart(concentration[i], a)
        _apart(shares[i], x)
        _totals(a, x, grad_shares[i], prior, total, of_total)
        for k in range(PARTS):
            n_between = _slopes(x[k], a[k], total, of_total[0], out[k])
            if n_between > ZERO:
                _slopes_between(x[k], a[k], total, of_total[0], out[k])
        _gathered(a, out, grad_shares[i], of_total, grad_divergence[i], prior, found[i])


@compiled(fastmath=REORDERED)
def _totals(a, x, grad, prior, total, of_total):
    """Concentrations of all parts; of each: digamma, its part of the divergence's gradient, mean of the gradients."""
    widest()
    for g in range(len(total)):
        total[g] = a[0, g] + a[1, g] + a[2, g] + a[3, g]
        first, second = _polygamma(total[g])
        of_total[0, g], of_total[1, g] = first, (total[g] - f32(PARTS) * prior) * second
        of_total[2, g] = x[0, g] * grad[g, 0] + x[1, g] * grad[g, 1] + x[2, g] * grad[g, 2] + x[3, g] * grad[g, 3]


@compiled(inline="always")
def _is_between(x, total):
    """Whether neither series serves: neither the part nor the rest is small."""
    return total * x * (ONE - x) >= (f32(2.5) if x <= HALF else f32(0.75))


@compiled(fastmath=REORDERED)
def _slopes(x, a, total, digamma_total, out):
    """Writes the derivative of a part x by its concentration, over 1 - x, by a series; returns how many need another way.

    It is minus that of the distribution function of Beta(a, total - a) over its density, over 1 - x.
    """
    widest()
    n_between = ZERO
    for g in range(len(out)):
        rest, of_a, log_x, left = total[g] - a[g], ONE / a[g], log(x[g]), ONE - x[g]
        after, _ = _polygamma(a[g] + ONE)
        low, high = _near_zero(x[g], a[g], of_a, rest, after - digamma_total[g] - log_x), ZERO
        low *= x[g] * exp(-rest * log(left))
        high = _near_one(left, rest, a[g], digamma_total[g] - after + of_a) * exp((ONE - a[g]) * log_x)
        out[g] = low if x[g] <= HALF else high
        n_between += ONE if _is_between(x[g], total[g]) else ZERO
    return n_between


@compiled(inline="always", fastmath=REORDERED)
def _near_zero(x, a, of_a, b, factor):
    """The series of Beta(a, b) at a small x. factor: of its first term."""
    numerator, series = ONE, of_a * factor
    factor -= of_a
    for i in range(1, 11):
        numerator *= (f32(i) - b) * x * (ONE / f32(i))
        r = ONE / (a + f32(i))
        series += numerator * r * (factor + r)
    return series


@compiled(inline="always", fastmath=REORDERED)
def _near_one(x, a, b, factor):
    """The series of the derivative by b, at a small x."""
    numerator, betas, by_b, series = ONE, ONE, ZERO, factor / a
    for i in range(1, 9):
        numerator *= -x * (ONE / f32(i))
        by_b = by_b * (b - f32(i)) + betas
        betas *= b - f32(i)
        series += numerator / (a + f32(i)) * (by_b + factor * betas)
    return series


@compiled(fastmath=REORDERED)
def _slopes_between(x, a, total, digamma_total, out):
    widest()
    for g in range(len(out)):
        after, _ = _polygamma(a[g] + ONE)
        rest = total[g] - a[g]
        found = _rational(x[g], a[g], total[g]) * x[g] * (digamma_total[g] - after + ONE / a[g]) / rest
        out[g] = found if _is_between(x[g], total[g]) else out[g]
    for g in range(len(out)):
        if a[g] > SIX and total[g] - a[g] > SIX and _is_between(x[g], total[g]):
            out[g] = _saddle(f64(x[g]), f64(a[g]), f64(total[g]) - f64(a[g]))


@compiled(inline="always", fastmath=REORDERED)
def _cubic(b, c):
    return c[0] + b * (c[1] + b * (c[2] + b * c[3]))


@compiled(inline="always", fastmath=REORDERED)
def _quadratic(a, b, c):
    return _cubic(b, c[0]) + a * (_cubic(b, c[1]) + a * _cubic(b, c[2]))


@compiled(inline="always", fastmath=REORDERED)
def _rational(x, alpha, total):
    u = log(x)
    a = log(alpha) - u
    b = log(total) - a
    p = _quadratic(a, b, P[0]) + u * (_quadratic(a, b, P[1]) + u * _quadratic(a, b, P[2]))
    return p / (_quadratic(a, b, Q[0]) + u * (_quadratic(a, b, Q[1]) + u * _quadratic(a, b, Q[2])))


@compiled()
def _saddle(x, a, b):
    """Rice's saddle point where a and b are large, and a polynomial at the mean, where that has no value. In float64."""
    total = a + b
    mean, sd = a / total, math.sqrt(a * b / (total + 1)) / total
    if abs(x - mean) <= 0.1 * sd:
        poly = a * (8 * (1 - x) * (135 * b - 11)) + (453 + 1620 * b * (1 - x) - 455 * x) * b
        poly = a * (a * poly + 3 * (59 + 180 * b - 90 * x) * b * b) + (43 + 20 * (16 + 27 * b) * x) * b**3
        poly = 47 * x * b**4 + a * poly
        return (1 + 12 * a) * (1 + 12 * b) / total**2 / (1 - x) * poly / (12960 * a**3 * b**2 * (1 + 12 * total))
    stirling = (1 + 1 / (12 * a) + 1 / (288 * a * a)) * (1 + 1 / (12 * b) + 1 / (288 * b * b))
    stirling /= 1 + 1 / (12 * total) + 1 / (288 * total * total)
    away = a * (x - 1) + b * x
    first = (2 * a * a * (x - 1) + a * b * (x - 1) - x * b * b) / (math.sqrt(2 * a / b) * total**1.5 * away * away)
    power = (b * math.log(b / (total * (1 - x))) + a * math.log(a / (total * x))) ** -1.5
    second = math.sqrt(8 * a * b / total) / away + (power if x < mean else -power)
    return -stirling * x / math.sqrt(2 * a * b / total) * (first + 0.5 * math.log(a / (total * x)) * second)


@compiled(fastmath=REORDERED)
def _gathered(a, slopes, grad, of_total, grad_divergence, prior, found):
    """Gradients of the concentrations of a cell."""
    widest()
    for g in range(len(found)):
        for k in range(PARTS):
            _, second = _polygamma(a[k, g] + ONE)
            by_divergence = (a[k, g] - prior) * (second + ONE / (a[k, g] * a[k, g])) - of_total[1, g]
            found[g, k] = slopes[k, g] * (grad[g, k] - of_total[2, g]) + grad_divergence * by_divergence
