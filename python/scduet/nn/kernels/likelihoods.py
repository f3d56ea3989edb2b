"""log NB and log ZINB of sparse counts on a CPU, with gradients, in one compiled pass over the genes of each cell.

The plain form is `scduet.nn.sparse_likelihoods`, which takes a dozen passes over whole matrices. Same names:
`a` is mean / r, `nb` is -log NB(0), and `u` its gradient w.r.t. the log-mean. The loops over genes have no branches, so
that the compiler can vectorize over 8 or 16 genes.
"""

from __future__ import annotations

from scduet._torch import torch

import math

import numba
import numpy as np
from jaxtyping import Float
from torch import Tensor

from scduet.contract import SparseRows
from scduet.nn.heads import Matrix
from scduet.nn.kernels.jit import address, compiled, floats, integers, threads_for
from scduet.nn.kernels.math import REORDERED, exp, largest, log, log_gamma, sum_of_logs, widest
from scduet.nn.likelihoods import EPS

f32 = np.float32
MIN_PER_THREAD = 2**15  # minimum number of entries per thread
SMALL = 12  # counts up to this use a sum; about one in fifty nonzero UMI counts is larger
LARGE = 500  # dispersion whose power of SMALL is a float32
ONE, GUARD, FAR = f32(1), f32(EPS), f32(-20)  # four factors of e^20 are a float32


def negative_binomial(
    x: SparseRows,
    logits: Matrix,
    log_library: Float[Tensor, "cell 1"],
    r: Float[Tensor, "*#cell gene"],
    dropout: Matrix | None,
    grad_library: Float[Tensor, "cell 1"],
    grad_r: Float[Tensor, "cell gene"],
    limits: tuple[float, float] | None = None,
) -> Float[Tensor, " cell"]:
    """-log p of each cell. Writes its gradients w.r.t. log-library and log r, and those of the matrices.

    limits: None where shares are the softmax of the logits; else means are their exponentials, within these limits.
    """
    n, genes = x.shape
    cost = torch.empty_like(log_library)
    others = log_library.contiguous(), r.contiguous(), grad_library, grad_r, cost
    inflated = (0, 0, 0) if dropout is None else _matrix(dropout)
    addresses = *_matrix(logits), *inflated, *(address(tensor) for tensor in others)
    counts = address(x.data), address(x.indices, torch.int64), address(x.indptr, torch.int64)
    sizes = n, genes, len(x.data), r.numel() // genes
    bounds = (f32(0), f32(0)) if limits is None else (f32(limits[0]), f32(limits[1]))
    with threads_for(n * genes, MIN_PER_THREAD) as threads:
        if threads > 1:
            _parallel(threads, sizes, counts, addresses, bounds)
        else:
            _cells(0, n, sizes, counts, addresses, bounds)
    return cost[:, 0]


def _matrix(matrix: Matrix) -> tuple[int, int, int]:
    """Addresses of its values, of the bias (0 for none), and of its gradients."""
    return address(matrix.value), 0 if matrix.bias is None else address(matrix.bias), address(matrix.grads)


@compiled(parallel=True)
def _parallel(threads, sizes, counts, addresses, bounds):
    """The cells in as many parts as threads."""
    for k in numba.prange(threads):
        _cells(k * sizes[0] // threads, (k + 1) * sizes[0] // threads, sizes, counts, addresses, bounds)


@compiled(inline="always", fastmath=REORDERED)
def _nb_zero(a, r):
    """-log NB(0) and its gradient w.r.t. the log-mean."""
    return r * log(a + ONE), r * a / (a + ONE)


@compiled(inline="always", fastmath=REORDERED)
def _zinb_zero(nb, dropout):
    """e^ of -log ZINB(0) without the second value, which is zero unless the probability of a dropout is tiny.

    Also the probability that the zero is not a dropout, the gradient w.r.t. the dropout logit, and sigmoid(dropout).
    """
    logit = nb + dropout
    near, near_logit = max(dropout, FAR), max(logit, FAR)
    odds, odds_kept = exp(-near), exp(-near_logit)
    both = ONE / ((ONE + odds) * (ONE + odds_kept))
    prior, dropped = (ONE + odds_kept) * both, (ONE + odds) * both
    more = (near - dropout) - (near_logit - logit)
    return (ONE + odds) * dropped, more, odds_kept * dropped, prior - dropped, prior


@compiled(fastmath=REORDERED)
def _exponentials(logits, bias, out):
    """Writes e^(logit + bias - the largest of these); returns the sum, and the largest."""
    widest()
    not_a_number = f32(0)
    for g in range(len(logits)):
        out[g] = logits[g] + bias[g]
        not_a_number += f32(0) * out[g]
    total, most = f32(0), largest(out)
    for g in range(len(logits)):
        out[g] = exp(out[g] - most)
        total += out[g]
    return total + not_a_number, most


@compiled(fastmath=REORDERED)
def _bounded(logits, bias, bounds, out):
    """Writes e^(logit + bias) within bounds; returns 1, the total that they are divided by."""
    widest()
    not_a_number = f32(0)
    for g in range(len(logits)):
        value = logits[g] + bias[g]
        not_a_number += f32(0) * value
        out[g] = min(max(exp(value), bounds[0]), bounds[1])
    return ONE + not_a_number


@compiled(fastmath=REORDERED)
def _nb_zeros(shape, scale, per_r, r, grad_mean, grad_r):
    """-log NB of a cell without counts; writes its gradients. per_r: 1 / r."""
    widest()
    cost = f32(0)
    for g in range(len(shape)):
        nb, u = _nb_zero(shape[g] * (scale * per_r[g]), r[g])
        cost += nb
        grad_r[g], grad_mean[g] = nb - u, u
    return cost


@compiled(fastmath=REORDERED)
def _zinb_zeros(shape, scale, per_r, r, dropout, grad_mean, grad_r, grad_dropout, ratio):
    """-log ZINB of a cell without counts; writes its gradients. `ratio`: memory of the same length."""
    widest()
    cost = f32(0)
    for g in range(len(shape)):
        nb, u = _nb_zero(shape[g] * (scale * per_r[g]), r[g])
        ratio[g], more, kept, grad_dropout[g], _ = _zinb_zero(nb, dropout[g])
        cost += more
        grad_r[g], grad_mean[g] = (nb - u) * kept, u * kept
    return cost + sum_of_logs(ratio)


@compiled()
def _rising_factorial(count, r):
    """log Γ(count + r) / (Γ(r) count!) and its derivative by r. For small counts a sum, which loses no precision."""
    if count > SMALL or count != math.floor(count):
        (above, rise), (below, start), (whole, _) = log_gamma(count + r), log_gamma(r), log_gamma(count + 1)
        return above - below - whole, rise - start
    product, grad = 1.0, 0.0
    for k in range(int(count)):
        product *= (r + k) / (k + 1)
        grad += 1 / (r + k)
    return math.log(product), grad


@compiled(fastmath=REORDERED)
def _rising_factorials(count, r, factor, logs, grad):
    """The same for many, the logarithm as log(factor) + logs: a loop without branches will take that of the factor."""
    widest()
    for j in range(len(count)):
        product, steep = r[j], ONE  # r (r + 1) ... / (1 * 2 ...) and its derivative
        for k in range(1, SMALL):
            upper, per = r[j] + f32(k), ONE / f32(k + 1)
            steep = (steep * upper + product) * per if f32(k) < count[j] else steep
            product = product * (upper * per) if f32(k) < count[j] else product
        factor[j], logs[j], grad[j] = product, f32(0), steep / product
    for j in range(len(count)):
        if count[j] > SMALL or r[j] > LARGE or count[j] != math.floor(count[j]):
            large, steep_ = _rising_factorial(np.float64(count[j]), np.float64(r[j]))
            factor[j], logs[j], grad[j] = ONE, f32(large), f32(steep_)


@compiled()
def _positive(values, indices, shape, scale, per_r, r, gene, count, a, own_r):
    """Copy the values for nonzero counts; return their number, since zeros may be stored too."""
    n = 0
    for j in range(len(values)):
        if values[j] != 0:
            g = indices[j]
            gene[n], count[n], a[n], own_r[n] = g, values[j], shape[g] * (scale * per_r[g]), r[g]
            n += 1
    return n


@compiled(fastmath=REORDERED)
def _nb_counts(count, a, r, factor, logs, grad, grad_mean, grad_r):
    """Contribution of these counts to -log NB(0) of their cell; writes their gradients."""
    added = f32(0)
    for j in range(len(count)):
        nb, u = _nb_zero(a[j], r[j])
        guarded, total = r[j] + GUARD, a[j] + ONE
        upper, per_total = a[j] + GUARD / guarded, count[j] / total
        added -= log(factor[j]) + logs[j] + count[j] * log(upper / total)
        grad_mean[j] = u + per_total * a[j] * (GUARD / guarded - ONE) / upper
        grad_r[j] = nb - u + (per_total / guarded - grad[j]) * r[j]
    return added


@compiled(fastmath=REORDERED)
def _no_dropouts(a, r, dropout, grad_dropout):
    """Contribution of these nonzero counts to -log ZINB of a cell; writes their gradients."""
    added = f32(0)
    for j in range(len(a)):
        nb, _ = _nb_zero(a[j], r[j])
        ratio, more, _, _, prior = _zinb_zero(nb, dropout[j])
        added += max(dropout[j], f32(0)) + log(ONE + exp(-abs(dropout[j]))) + nb - log(ratio) - more
        grad_dropout[j] = prior
    return added


@compiled()
def _added(place, genes):
    """The bias added to each value of a matrix."""
    return floats(place, genes) if place else np.zeros(genes, np.float32)


@compiled()
def _cells(first, last, sizes, counts, addresses, bounds):
    """The cells from `first` up to `last`; the gradients may be where the values are. bounds: zeros for a softmax."""
    widest()
    (n, genes, entries, own), shape = sizes, (sizes[0], sizes[1])
    x, indices, indptr = floats(counts[0], entries), integers(counts[1], entries), integers(counts[2], n + 1)
    to_logits, to_bias, to_grad_logits, to_dropout, to_shift, to_grad_dropout = addresses[:6]
    to_log_library, to_r, to_grad_library, to_grad_r, to_cost = addresses[6:]
    logits, bias, grad_logits = floats(to_logits, shape), _added(to_bias, genes), floats(to_grad_logits, shape)
    dropout, shift, grad_dropout = floats(to_dropout, shape), _added(to_shift, genes), floats(to_grad_dropout, shape)
    log_library, r, grad_library = floats(to_log_library, n), floats(to_r, (own, genes)), floats(to_grad_library, n)
    grad_r, cost, inflated, shared = floats(to_grad_r, shape), floats(to_cost, n), to_dropout != 0, own == 1
    shape, own_dropout, gene = np.empty(genes, np.float32), np.empty(genes, np.float32), np.empty(genes, np.int64)
    memory, per_r = np.empty((8, genes), np.float32), ONE / (r[0] + GUARD)
    for i in range(first, last):
        own_r, stored = r[0] if shared else r[i], slice(indptr[i], indptr[i + 1])
        if not shared:
            per_r = ONE / (own_r + GUARD)
        bounded = bounds[1] > 0
        if bounded:
            total = _bounded(logits[i], bias, bounds, shape)
        else:
            total, _ = _exponentials(logits[i], bias, shape)
        scale = f32(math.exp(log_library[i]) / total)
        if inflated:
            own_dropout[:] = dropout[i] + shift  # which may be overwritten
            grads = grad_logits[i], grad_r[i], grad_dropout[i]
            zeros = _zinb_zeros(shape, scale, per_r, own_r, own_dropout, *grads, memory[0])
        else:
            zeros = _nb_zeros(shape, scale, per_r, own_r, grad_logits[i], grad_r[i])
        n = _positive(x[stored], indices[stored], shape, scale, per_r, own_r, gene, memory[0], memory[1], memory[2])
        at, count, a, r_at, factor = gene[:n], memory[0][:n], memory[1][:n], memory[2][:n], memory[3][:n]
        logs, grad, grad_mean, grad_r_at = memory[4][:n], memory[5][:n], memory[6][:n], memory[7][:n]
        _rising_factorials(count, r_at, factor, logs, grad)
        added = _nb_counts(count, a, r_at, factor, logs, grad, grad_mean, grad_r_at)
        for j in range(n):
            grad_logits[i, at[j]], grad_r[i, at[j]] = grad_mean[j], grad_r_at[j]
        if inflated:
            for j in range(n):
                factor[j] = own_dropout[at[j]]
            added += _no_dropouts(a, r_at, factor, logs)
            for j in range(n):
                grad_dropout[i, at[j]] = logs[j]
        cost[i] = zeros + added + f32(0) * scale  # a scale that is no number shows in the cost
        if bounded:
            grad_library[i] = _bounded_backward(grad_logits[i], shape, bounds)
        else:
            grad_library[i] = _softmax_backward(grad_logits[i], shape, total)


@compiled(fastmath=REORDERED)
def _softmax_backward(grads, shape, total):
    """Turn gradients w.r.t. the log-mean into those w.r.t. the logits.

    Returns the sum of the former, which is the gradient w.r.t. the log-library.
    """
    widest()
    grad_library = f32(0)
    for g in range(len(grads)):
        grad_library += grads[g]
    share = grad_library / total
    for g in range(len(grads)):
        grads[g] -= shape[g] * share
    return grad_library


@compiled(fastmath=REORDERED)
def _bounded_backward(grads, shape, bounds):
    """The same where means are exponentials within bounds: beyond these they do not follow the logits."""
    widest()
    grad_library = f32(0)
    for g in range(len(grads)):
        grad_library += grads[g]
        grads[g] = grads[g] if (shape[g] > bounds[0]) & (shape[g] < bounds[1]) else f32(0)
    return grad_library
