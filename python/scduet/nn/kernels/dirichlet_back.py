"""Gradients of draws from Dirichlet distributions, and of their divergence, in one compiled pass.

The derivative of a share by its concentration is that of torch (ATen/native/Distributions.h, BSD-3): a series where the
share or the rest is small, a saddle point where both concentrations are large, a rational function between.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from scduet.nn.kernels.blocks import BLOCK, PARTS, cells_of, read, total_of, write
from scduet.nn.kernels.jit import compiled, floats
from scduet.nn.kernels.math import REORDERED, exp, log, polygamma, widest

f32, f64 = np.float32, np.float64
ZERO, HALF, ONE, SIX = f32(0), f32(0.5), f32(1), f32(6)
# Rows of a block: concentrations, shares and gradients of the parts; then what is of all parts together.
A, X, GRAD = 0, PARTS * BLOCK, 2 * PARTS * BLOCK
TOTAL, MEAN, DIGAMMA, BY_TOTAL = range(3 * PARTS * BLOCK, (3 * PARTS + 4) * BLOCK, BLOCK)
ROWS = 3 * PARTS + 4
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


@compiled(parallel=True)
def gradients_parallel(threads, shape, settings, addresses):
    for thread in numba.prange(threads):
        gradients(thread, threads, shape, settings, addresses)


@compiled()
def gradients(thread, threads, shape, settings, addresses):
    """Writes the gradients of the concentrations of each cell."""
    widest()
    n, genes = shape
    prior = settings[0]
    to_concentration, to_shares, to_grad_shares, to_grad_divergence, to_found = addresses
    concentration, shares = floats(to_concentration, (n, genes, PARTS)), floats(to_shares, (n, genes, PARTS))
    grad_shares, grad_divergence = floats(to_grad_shares, (n, genes, PARTS)), floats(to_grad_divergence, n)
    found = floats(to_found, (n, genes, PARTS))
    given, out = np.empty(ROWS * BLOCK, np.float32), np.empty(PARTS * BLOCK, np.float32)
    for i in cells_of(thread, threads, n):
        for start in range(0, genes, BLOCK):
            width = min(BLOCK, genes - start)
            read(concentration[i], start, width, prior, given, A)
            read(shares[i], start, width, f32(1 / PARTS), given, X)
            read(grad_shares[i], start, width, ZERO, given, GRAD)
            _sum_up(given, prior)
            if _slopes(given, out) > ZERO:
                _slopes_between(given, out)
            _of_slopes(given, grad_divergence[i], prior, out)
            write(out, 0, start, width, found[i])


@compiled(fastmath=REORDERED)
def _sum_up(given, prior):
    """Writes the rows for all parts together: their concentration, the mean of the gradients, digamma of the
    concentration, and what the gradient of the divergence has of it."""
    widest()
    for g in range(BLOCK):
        total = total_of(given, g)
        digamma, second = polygamma(total)
        mean = given[X + g] * given[GRAD + g] + given[X + BLOCK + g] * given[GRAD + BLOCK + g]
        mean += given[X + 2 * BLOCK + g] * given[GRAD + 2 * BLOCK + g]
        mean += given[X + 3 * BLOCK + g] * given[GRAD + 3 * BLOCK + g]
        given[TOTAL + g], given[MEAN + g] = total, mean
        given[DIGAMMA + g], given[BY_TOTAL + g] = digamma, (total - f32(PARTS) * prior) * second


@compiled(fastmath=REORDERED)
def _of_slopes(given, grad_divergence, prior, out):
    """Turns slopes into gradients of the concentrations."""
    widest()
    for k in range(PARTS):
        for g in range(BLOCK):
            e = k * BLOCK + g
            a = given[A + e]
            _, second = polygamma(a + ONE)
            by_divergence = (a - prior) * (second + ONE / (a * a)) - given[BY_TOTAL + g]
            out[e] = out[e] * (given[GRAD + e] - given[MEAN + g]) + grad_divergence * by_divergence


@compiled(inline="always")
def _is_between(x, total):
    """Whether neither series serves: neither the part nor the rest is small."""
    return total * x * (ONE - x) >= (f32(2.5) if x <= HALF else f32(0.75))


@compiled(fastmath=REORDERED)
def _slopes(given, out):
    """Writes the derivative of each share by its concentration, over 1 - share, by a series; returns how many need
    another way.

    It is minus that of the distribution function of Beta(a, total - a) over its density, over 1 - share.
    """
    widest()
    n_between = ZERO
    for k in range(PARTS):
        for g in range(BLOCK):
            x, a, total = given[X + k * BLOCK + g], given[A + k * BLOCK + g], given[TOTAL + g]
            digamma, rest, of_a, log_x, left = given[DIGAMMA + g], total - a, ONE / a, log(x), ONE - x
            after, _ = polygamma(a + ONE)
            low = _near_zero(x, a, of_a, rest, after - digamma - log_x) * x * exp(-rest * log(left))
            high = _near_one(left, rest, a, digamma - after + of_a) * exp((ONE - a) * log_x)
            out[k * BLOCK + g] = low if x <= HALF else high
            n_between += ONE if _is_between(x, total) else ZERO
    return n_between


@compiled(inline="always", fastmath=REORDERED)
def _near_zero(x, a, of_a, b, factor):
    """The series of Beta(a, b) at a small x, from its last term. factor: of its first term."""
    later, series = factor - of_a, ZERO
    for k in range(10):
        i = f32(10 - k)
        r = ONE / (a + i)
        series = (i - b) * x * (ONE / i) * (r * (later + r) + series)
    return of_a * factor + series


@compiled(inline="always", fastmath=REORDERED)
def _near_one(x, a, b, factor):
    """The series of the derivative by b, at a small x."""
    series, by_b = ONE / (a + f32(8)), ZERO
    for k in range(8):
        i = f32(8 - k)
        ratio = -x * (ONE / i)
        by_b = ratio * (series + (b - i) * by_b)
        series = ONE / (a + i - ONE) + ratio * (b - i) * series
    return by_b + factor * series


@compiled(fastmath=REORDERED)
def _slopes_between(given, out):
    widest()
    for k in range(PARTS):
        for g in range(BLOCK):
            x, a, total = given[X + k * BLOCK + g], given[A + k * BLOCK + g], given[TOTAL + g]
            after, _ = polygamma(a + ONE)
            found = _rational(x, a, total) * x * (given[DIGAMMA + g] - after + ONE / a) / (total - a)
            out[k * BLOCK + g] = found if _is_between(x, total) else out[k * BLOCK + g]
    for k in range(PARTS):
        for g in range(BLOCK):
            x, a, total = given[X + k * BLOCK + g], given[A + k * BLOCK + g], given[TOTAL + g]
            if a > SIX and total - a > SIX and _is_between(x, total):
                out[k * BLOCK + g] = _saddle(f64(x), f64(a), f64(total) - f64(a))


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
    """Rice's saddle point, for large a and b, or a polynomial at the mean, where that has no value; in float64."""
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
