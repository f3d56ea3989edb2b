"""Loops of differential expression: over pairs of draws, and over the counts of groups of cells.

The types are spelled out where they are known, so that numba compiles at import: that takes
longer than all of the loops.
"""

from __future__ import annotations

import numpy as np

from scduet.nn.kernels.jit import KERNELS, compiled

TILE = 64  # pairs whose ratios are transposed together
ROWS = 64  # draws that are summed in single precision


def count_ratios(share, firsts, seconds, offset, low, high, shift):
    """Pairs of rows of `share` (draw, gene) whose first is below `low` times the second and `shift` less, and above
    `high` times and `shift` more: (2, gene)."""
    if KERNELS.get():
        return _count_ratios(share, firsts, seconds, offset, low, high, shift)
    counts = np.zeros((2, share.shape[1]), np.int64)
    for first, second in zip(firsts, seconds, strict=True):
        x, y = share[first] + offset, share[second] + offset
        counts += np.stack([x < low * y - shift, x > high * y + shift])
    return counts


@compiled("int64[:, ::1](float32[:, ::1], int64[::1], int64[::1], float32, float32, float32, float32)")
def _count_ratios(share, firsts, seconds, offset, low, high, shift):
    n_genes = share.shape[1]
    counts = np.zeros((2, n_genes), np.int64)
    for pair in range(len(firsts)):
        first, second = share[firsts[pair]], share[seconds[pair]]
        for gene in range(n_genes):
            x, y = first[gene] + offset, second[gene] + offset
            counts[0, gene] += x < low * y - shift
            counts[1, gene] += x > high * y + shift
    return counts


def put_ratios(share, firsts, seconds, start, offset, out):
    """Ratios of each pair, for the genes from `start` on, into `out` (gene, pair)."""
    if KERNELS.get():
        _put_ratios(share, firsts, seconds, start, offset, out)
    else:
        part = share[:, start : start + len(out)] + offset
        out[:] = (part[firsts] / part[seconds]).T


@compiled("void(float32[:, ::1], int64[::1], int64[::1], int64, float32, float32[:, ::1])")
def _put_ratios(share, firsts, seconds, start, offset, out):
    n_genes, n_pairs = out.shape
    tile = np.empty((TILE, n_genes), np.float32)
    for at in range(0, n_pairs, TILE):
        n = min(TILE, n_pairs - at)
        for i in range(n):
            first, second = share[firsts[at + i]], share[seconds[at + i]]
            for gene in range(n_genes):
                tile[i, gene] = (first[start + gene] + offset) / (second[start + gene] + offset)
        for gene in range(n_genes):
            for i in range(n):
                out[gene, at + i] = tile[i, gene]


def sum_and_largest(share):
    """Sum (float64) and largest value of each column of shares."""
    if KERNELS.get():
        return _sum_and_largest(share)
    return share.sum(0, dtype=np.float64), share.max(0, initial=0)


@compiled("Tuple((float64[::1], float32[::1]))(float32[:, ::1])")
def _sum_and_largest(share):
    n_genes = share.shape[1]
    total, some, largest = np.zeros(n_genes), np.zeros(n_genes, np.float32), np.zeros(n_genes, np.float32)
    for start in range(0, len(share), ROWS):
        some[:] = 0
        for row in range(start, min(start + ROWS, len(share))):
            for gene in range(n_genes):
                value = share[row, gene]
                some[gene] += value
                largest[gene] = value if value > largest[gene] else largest[gene]
        total += some
    return total, largest


def add_counts(data, indices, indptr, rows, own_weight, weight, sums):
    """Add rows of a CSR to `sums` (gene, 4): counts, whether there are any, and counts times each of two weights."""
    if KERNELS.get():
        _add_counts(data, indices, indptr, rows, own_weight, weight, sums)
        return
    for row, of_model, of_all in zip(rows, own_weight, weight, strict=True):
        stored = slice(indptr[row], indptr[row + 1])
        value = data[stored].astype(np.float64)
        np.add.at(sums, indices[stored], np.stack([value, value != 0, value * of_model, value * of_all], axis=1))


@compiled()
def _add_counts(data, indices, indptr, rows, own_weight, weight, sums):
    for row, of_model, of_all in zip(rows, own_weight, weight):  # noqa: B905, numba knows no strict
        for entry in range(indptr[row], indptr[row + 1]):
            of_gene, value = sums[indices[entry]], data[entry]
            of_gene[0] += value
            of_gene[1] += value != 0
            of_gene[2] += value * of_model
            of_gene[3] += value * of_all
