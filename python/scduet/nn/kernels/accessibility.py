"""Likelihoods of peaks on a CPU: one compiled pass over the peaks of each cell, and for Bernoulli one for gradients.

The plain forms are in `scduet.nn.sparse_bernoulli` and, of Poisson, in `scduet.nn.sparse_likelihoods`.
Of a peak: t = e^-a with the decoder's logit a; the depth d of its cell, the factor f of the peak, and m = 1 - d f, made
without a difference. Then p = d f / (1 + t) and 1 - p = (m + t) / (1 + t).
"""

from __future__ import annotations

from scduet._torch import torch

import math
from collections.abc import Callable

import numba
import numpy as np
from jaxtyping import Float
from torch import Tensor

from scduet.contract import SparseRows
from scduet.nn.heads import Matrix
from scduet.nn.kernels.jit import address, compiled, floats, integers, threads_for
from scduet.nn.kernels.likelihoods import MIN_PER_THREAD, _exponentials
from scduet.nn.kernels.math import REORDERED, exp, log, log_gamma, sum_of_logs, widest

f32 = np.float32
ONE = f32(1)
LEAST = f32(math.exp(-20))  # of m + t: below, the cost gets a correction, for the product of four must be a float32
LOG_FACTORIALS = np.array([math.lgamma(count + 1) for count in range(64)], np.float32)

Cells = Float[Tensor, "4 cell"]  # depth, 1 - depth, log depth, weight of the cell in the gradients
Peaks = Float[Tensor, "4 peak"]  # factor, 1 - factor, log factor, bias of the logits


def bernoulli(x: SparseRows, logits: Float[Tensor, "cell peak"], cells: Cells, peaks: Peaks) -> Float[Tensor, " cell"]:
    """-log p of which peaks of each cell are open. logits: without the bias."""
    cost = torch.empty(len(x))
    _run(_bernoulli, _bernoulli_parallel, x, (logits, cells, peaks, cost))
    return cost


def bernoulli_backward(
    x: SparseRows, logits: Float[Tensor, "cell peak"], cells: Cells, peaks: Peaks
) -> tuple[Float[Tensor, "cell peak"], Float[Tensor, " cell"], Float[Tensor, " peak"], Float[Tensor, " peak"]]:
    """Gradients of the weighted sum of that by the logits, the log depth, the log factor and the bias."""
    grads, of_cells = torch.empty_like(logits), torch.empty(len(x))
    of_peaks = torch.zeros(torch.get_num_threads(), 2, x.shape[1])
    _run(_bernoulli_backward, _bernoulli_backward_parallel, x, (logits, cells, peaks, grads, of_cells, of_peaks))
    factor, bias = of_peaks.sum(0)
    return grads, of_cells, factor, bias


def poisson(
    x: SparseRows, logits: Matrix, log_library: Float[Tensor, "cell 1"], grad_library: Float[Tensor, "cell 1"]
) -> Float[Tensor, " cell"]:
    """-log Poisson(x | library · softmax(logits)) of each cell. Writes its gradients by log-library and logits."""
    cost, bias = torch.empty(len(x)), logits.value.new_zeros(x.shape[1]) if logits.bias is None else logits.bias
    tensors = logits.value, bias, log_library.contiguous(), logits.grads, grad_library, cost
    _run(_poisson, _poisson_parallel, x, tensors)
    return cost


def _run(alone: Callable, parallel: Callable, x: SparseRows, tensors: tuple[Tensor, ...]) -> None:
    """Goes through all cells, in as many parts as threads."""
    counts = address(x.data), address(x.indices, torch.int64), address(x.indptr, torch.int64)
    sizes, addresses = (*x.shape, len(x.data)), tuple(address(tensor) for tensor in tensors)
    with threads_for(x.shape[0] * x.shape[1], MIN_PER_THREAD) as threads:
        if threads > 1:
            parallel(threads, sizes, counts, addresses)
        else:
            alone(0, 1, sizes, counts, addresses)


@compiled(parallel=True)
def _bernoulli_parallel(threads, sizes, counts, addresses):
    for thread in numba.prange(threads):
        _bernoulli(thread, threads, sizes, counts, addresses)


@compiled(parallel=True)
def _bernoulli_backward_parallel(threads, sizes, counts, addresses):
    for thread in numba.prange(threads):
        _bernoulli_backward(thread, threads, sizes, counts, addresses)


@compiled(parallel=True)
def _poisson_parallel(threads, sizes, counts, addresses):
    for thread in numba.prange(threads):
        _poisson(thread, threads, sizes, counts, addresses)


@compiled()
def _csr(counts, sizes):
    """Values, columns and pointers of the counts."""
    return floats(counts[0], sizes[2]), integers(counts[1], sizes[2]), integers(counts[2], sizes[0] + 1)


@compiled()
def _part(thread, threads, n):
    """The cells of one thread."""
    return range(thread * n // threads, (thread + 1) * n // threads)


@compiled(fastmath=REORDERED)
def _closed(logits, bias, depth, missed, unfit, ratio):
    """-log p of a cell whose peaks are all closed. ratio: memory of the same length."""
    widest()
    n_small, not_a_number = f32(0), f32(0)
    for j in range(len(logits)):
        a = logits[j] + bias[j]
        not_a_number += f32(0) * a
        t = exp(-a)
        rest = missed + depth * unfit[j] + t
        n_small += ONE if rest < LEAST else f32(0)
        ratio[j] = (ONE + t) / max(rest, LEAST)
    cost = sum_of_logs(ratio) + not_a_number
    if n_small > f32(0):
        for j in range(len(logits)):
            cost += log(LEAST) - log(min(missed + depth * unfit[j] + exp(-logits[j] - bias[j]), LEAST))
    return cost


@compiled(fastmath=REORDERED)
def _opened(a, depth, missed, log_depth, unfit, log_factor):
    """What is added to that because these peaks are open."""
    widest()
    added = f32(0)
    for j in range(len(a)):
        added += log(missed + depth * unfit[j] + exp(-a[j])) - log_factor[j] - log_depth
    return added


@compiled()
def _open_peaks(values, column, logits, bias, peak, a):
    """Writes places and logits of the open peaks; returns how many there are, for a zero may be stored too."""
    n = 0
    for j in range(len(values)):
        if values[j] != 0:
            peak[n], a[n] = column[j], logits[column[j]] + bias[column[j]]
            n += 1
    return n


@compiled()
def _bernoulli(thread, threads, sizes, counts, addresses):
    widest()
    (n, peaks, _), (to_logits, to_cells, to_peaks, to_cost), (x, column, indptr) = (
        sizes,
        addresses,
        _csr(counts, sizes),
    )
    logits, cells, of_peaks = floats(to_logits, (n, peaks)), floats(to_cells, (4, n)), floats(to_peaks, (4, peaks))
    unfit, log_factor, bias, cost = of_peaks[1], of_peaks[2], of_peaks[3], floats(to_cost, n)
    memory, peak = np.empty((4, peaks), np.float32), np.empty(peaks, np.int64)
    for i in _part(thread, threads, n):
        depth, missed, log_depth, stored = cells[0, i], cells[1, i], cells[2, i], slice(indptr[i], indptr[i + 1])
        closed = _closed(logits[i], bias, depth, missed, unfit, memory[0])
        m = _open_peaks(x[stored], column[stored], logits[i], bias, peak, memory[1])
        for k in range(m):
            memory[2, k], memory[3, k] = unfit[peak[k]], log_factor[peak[k]]
        cost[i] = closed + _opened(memory[1, :m], depth, missed, log_depth, memory[2, :m], memory[3, :m])


@compiled(fastmath=REORDERED)
def _closed_backward(logits, bias, depth, missed, weight, factor, unfit, grads, of_factor, of_bias):
    """Gradients of a cell whose peaks are all closed; returns that by log depth."""
    widest()
    total, scale = f32(0), weight * depth
    for j in range(len(logits)):
        t = exp(-logits[j] - bias[j])
        by_log_p = scale * factor[j] / (missed + depth * unfit[j] + t)
        grads[j] = by_log_p * (t / (ONE + t))
        of_factor[j] += by_log_p
        of_bias[j] += grads[j]
        total += by_log_p
    return total


@compiled()
def _bernoulli_backward(thread, threads, sizes, counts, addresses):
    widest()
    (n, peaks, _), (x, column, indptr) = sizes, _csr(counts, sizes)
    to_logits, to_cells, to_peaks, to_grads, to_of_cells, to_of_peaks = addresses
    logits, cells, of_peaks = floats(to_logits, (n, peaks)), floats(to_cells, (4, n)), floats(to_peaks, (4, peaks))
    factor, unfit, bias, grads = of_peaks[0], of_peaks[1], of_peaks[3], floats(to_grads, (n, peaks))
    of_cells, sums = floats(to_of_cells, n), floats(to_of_peaks + thread * 8 * peaks, (2, peaks))
    of_factor, of_bias, a, peak = sums[0], sums[1], np.empty(peaks, np.float32), np.empty(peaks, np.int64)
    for i in _part(thread, threads, n):
        depth, missed, weight, stored = cells[0, i], cells[1, i], cells[3, i], slice(indptr[i], indptr[i + 1])
        total = _closed_backward(logits[i], bias, depth, missed, weight, factor, unfit, grads[i], of_factor, of_bias)
        m = _open_peaks(x[stored], column[stored], logits[i], bias, peak, a)
        for k in range(m):
            j, t = peak[k], exp(-a[k])
            more = weight + weight * depth * factor[j] / (missed + depth * unfit[j] + t)
            grad = -weight * (t / (ONE + t))
            of_factor[j] -= more
            of_bias[j] += grad - grads[i, j]
            total -= more
            grads[i, j] = grad
        of_cells[i] = total


@compiled()
def _poisson(thread, threads, sizes, counts, addresses):
    """The gradients may be where the logits are."""
    widest()
    (n, peaks, _), (x, column, indptr) = sizes, _csr(counts, sizes)
    to_logits, to_bias, to_log_library, to_grads, to_grad_library, to_cost = addresses
    logits, bias, log_library = floats(to_logits, (n, peaks)), floats(to_bias, peaks), floats(to_log_library, n)
    grads, grad_library, cost = floats(to_grads, (n, peaks)), floats(to_grad_library, n), floats(to_cost, n)
    for i in _part(thread, threads, n):
        first, last = indptr[i], indptr[i + 1]
        weighted, counted, constant = 0.0, 0.0, 0.0
        for k in range(first, last):
            if x[k] != 0:  # an empty cell has no logarithm of its mean
                counted += x[k]
                weighted += x[k] * (logits[i, column[k]] + bias[column[k]])
                constant += _log_factorial(x[k])
        total, most = _exponentials(logits[i], bias, grads[i])
        library = math.exp(log_library[i])
        grad_library[i] = library - counted
        cost[i] = library + constant - weighted + f32(0) * total
        if counted > 0:
            cost[i] += counted * (most + math.log(total) - log_library[i])
        _scale(grads[i], f32(counted / total))
        for k in range(first, last):
            grads[i, column[k]] -= x[k]


@compiled()
def _log_factorial(count):
    if count < len(LOG_FACTORIALS) and count == math.floor(count):
        return LOG_FACTORIALS[int(count)]
    return f32(log_gamma(count + 1.0)[0])


@compiled(fastmath=REORDERED)
def _scale(values, factor):
    widest()
    for j in range(len(values)):
        values[j] *= factor
