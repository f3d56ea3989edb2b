"""Functions of numbers for compiled loops without branches, in which the compiler works on 8 or 16 numbers at a time.

Exponential and logarithm are polynomials (after Cephes' expf and logf, Moshier 1989), their relative error below 2e-7.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from scduet.nn.kernels.jit import compiled

f32, i32, u32 = np.float32, np.int32, np.uint32
HALF_LOG_TAU = math.log(2 * math.pi) / 2
ONE, HALF = f32(1), f32(0.5)
FIRST, SECOND = u32(0x7FEB352D), u32(0x846CA68B)  # factors of the hash "lowbias32" (Wellons 2018)
GOLDEN = u32(0x9E3779B9)  # which spreads neighbors over all numbers
REORDERED = {"contract", "reassoc", "nsz", "arcp"}  # lets sums be reordered; NaN and infinity stay what they are


@intrinsic
def _float_of(_, bits):
    """The float32 of these bits."""
    return types.float32(types.int32), lambda c, b, s, args: b.bitcast(args[0], ir.FloatType())


@intrinsic
def _bits_of(_, number):
    return types.int32(types.float32), lambda c, b, s, args: b.bitcast(args[0], ir.IntType(32))


@intrinsic
def widest(_=None):
    """Lets the loops of the function that says this use registers of 512 bits, where there are any.

    What is inlined forgets it, so that a function that Python calls says it too.
    """

    def code(context, builder, signature, args):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite names no such attribute
        return context.get_dummy_value()

    return types.void(), code


@compiled(inline="always", fastmath=REORDERED)
def exp(x):
    """e^x for x from -87 to 88; beyond, that of the nearest of these."""
    x = min(max(x, f32(-87)), f32(88))
    n = np.floor(x * f32(1.4426950408889634) + HALF)
    y = x - n * f32(0.693359375) + n * f32(2.12194440e-4)  # x - n log 2
    p = f32(1.9875691500e-4)
    p = p * y + f32(1.3981999507e-3)
    p = p * y + f32(8.3334519073e-3)
    p = p * y + f32(4.1665795894e-2)
    p = p * y + f32(1.6666665459e-1)
    p = p * y + f32(5.0000001201e-1)
    return (p * y * y + y + ONE) * _float_of((i32(n) + i32(127)) << i32(23))  # type: ignore[call-arg]


@compiled(inline="always", fastmath=REORDERED)
def log(x):
    """log x for a positive normal number."""
    bits = _bits_of(x)  # type: ignore[call-arg]
    n = (bits - i32(0x3F3504F3)) >> i32(23)  # x = 2^n (1 + m), 1 + m between the square roots of 1/2 and 2
    m = _float_of(bits - (n << i32(23))) - ONE
    p = f32(7.0376836292e-2)
    p = p * m + f32(-1.1514610310e-1)
    p = p * m + f32(1.1676998740e-1)
    p = p * m + f32(-1.2420140846e-1)
    p = p * m + f32(1.4249322787e-1)
    p = p * m + f32(-1.6668057665e-1)
    p = p * m + f32(2.0000714765e-1)
    p = p * m + f32(-2.4999993993e-1)
    p = p * m + f32(3.3333331174e-1)
    return (m + (p * m * m * m - f32(n) * f32(2.12194440e-4) - HALF * m * m)) + f32(n) * f32(0.693359375)


@compiled(inline="always", fastmath=REORDERED)
def sum_of_logs(x):
    """Of numbers from 1 to e^21, of which the product of four is a float32."""
    quarter, total = len(x) // 4, f32(0)
    for k in range(quarter):
        total += log(x[k] * x[k + quarter] * x[k + 2 * quarter] * x[k + 3 * quarter])
    for k in range(4 * quarter, len(x)):
        total += log(x[k])
    return total


@compiled()
def largest(x):
    """The largest of these numbers; any number where one is none. Among integers, which the compiler orders fast."""
    widest()
    most = _ordered(x[0])
    for g in range(len(x)):
        most = max(most, _ordered(x[g]))
    return _float_of(most ^ ((most >> i32(31)) & i32(0x7FFFFFFF)))  # type: ignore[call-arg]


@compiled(inline="always")
def _ordered(x):
    """An integer that is larger for larger numbers."""
    bits = _bits_of(x)  # type: ignore[call-arg]
    return bits ^ ((bits >> i32(31)) & i32(0x7FFFFFFF))


@compiled()
def log_gamma(x):
    """log Γ(x) and its derivative, for x > 0: recurrence to 8, then Stirling's series (Abramowitz & Stegun 6.1.40)."""
    product, steep = 1.0, 0.0  # and its derivative
    while x < 8:
        steep = steep * x + product
        product *= x
        x += 1
    s, log = 1 / (x * x), math.log(x)
    series = (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s * (1 / 1680 - s / 1188)))) / x
    grad = log - steep / product - 0.5 / x - s * (1 / 12 - s * (1 / 120 - s * (1 / 252 - s * (1 / 240 - s / 132))))
    return (x - 0.5) * log - x + HALF_LOG_TAU + series - math.log(product), grad


@compiled(inline="always", fastmath=REORDERED)
def _shifted(x):
    """x, or x + 6 where x < 6; there also the product p of x, x + 1, ..., x + 5, p' and p'', elsewhere 1, 0 and 0."""
    low, q, steep = x < f32(6), x * (x + f32(5)), f32(2) * x + f32(5)
    p = q * (q * (q + f32(10)) + f32(24)) if low else ONE
    by_q = q * (f32(3) * q + f32(20)) + f32(24) if low else f32(0)
    second = (f32(6) * q + f32(20)) * steep * steep + f32(2) * by_q if low else f32(0)
    return x + (f32(6) if low else f32(0)), p, by_q * steep, second


@compiled(inline="always", fastmath=REORDERED)
def log_gamma32(x):
    """The same in float32 and without branches (6.1.40, 6.3.18)."""
    y, p, slope, _ = _shifted(x)
    r, log_y = ONE / y, log(y)
    s = r * r
    series = r * (f32(1 / 12) - s * (f32(1 / 360) - s * f32(1 / 1260)))
    value = (y - HALF) * log_y - y + f32(HALF_LOG_TAU) + series - log(p)
    grad = log_y - HALF * r - s * (f32(1 / 12) - s * (f32(1 / 120) - s * f32(1 / 252))) - slope / p
    return value, grad


@compiled(inline="always", fastmath=REORDERED)
def polygamma(x):
    """The first and the second derivative of log Γ(x) (Abramowitz & Stegun 6.3.18, 6.4.12)."""
    y, p, slope, second = _shifted(x)
    r, ratio = ONE / y, slope / p
    s = r * r
    first = log(y) - HALF * r - s * (f32(1 / 12) - s * (f32(1 / 120) - s * f32(1 / 252))) - ratio
    return first, r + HALF * s + r * s * (f32(1 / 6) - s * (f32(1 / 30) - s * f32(1 / 42))) + ratio * ratio - second / p


@compiled(inline="always")
def hashed(place, seed):
    """A random-looking number of 32 bits for each place, another one for each seed."""
    x = u32(u32(place * GOLDEN) ^ seed)
    x = u32(u32(x ^ (x >> u32(16))) * FIRST)
    x = u32(u32(x ^ (x >> u32(15))) * SECOND)
    return u32(x ^ (x >> u32(16)))
