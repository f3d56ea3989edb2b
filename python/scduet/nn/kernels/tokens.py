"""The tokenizers' loops over the counts of a cell, compiled, each beside its plain form in numpy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from scduet.nn.kernels.jit import KERNELS, compiled
from scduet.nn.kernels.sorting import ascending


def rank_genes(*arguments) -> np.ndarray:
    """Write each row's genes in descending order of count / usual count; arguments as of `_rank`. Returns lengths."""
    return _either(_rank, _rank_plain)(*arguments)


def bin_counts(*arguments) -> np.ndarray:
    """Write each row's genes and the bins of their counts; arguments as of `_bin`. Returns lengths."""
    return _either(_bin, _bin_plain)(*arguments)


def log_normalize(*arguments) -> tuple[np.ndarray, np.ndarray]:
    """Write each row's genes and log1p of counts per 10,000; as of `_log_normalize`. Returns lengths and totals."""
    return _either(_log_normalize, _log_normalize_plain)(*arguments)


def _either(kernel: Callable, plain: Callable) -> Callable:
    return kernel if KERNELS.get() else plain


@compiled()
def _rank(values, indices, indptr, token, usual, specials, room, out):
    """Write the first genes of each row in order, after the first of `specials` and before the second (-1: none)."""
    widest, lengths, made = np.diff(indptr).max(), np.empty(len(room), np.int64), np.uint64(0)
    relative, expressed = np.empty(widest), np.empty(widest, np.uint32)
    for row in range(len(room)):
        n = np.uint32(0)
        for entry in range(indptr[row], indptr[row + 1]):  # without a branch, which would often be guessed wrong
            gene = np.uint32(indices[entry])
            rate = values[entry] / usual[gene]
            relative[n], expressed[n] = rate, gene
            n += np.uint32(rate > 0)
        before = made
        if specials[0] >= 0:
            out[made] = specials[0]
            made += np.uint64(1)
        if n:
            for i in ascending(~relative[:n].view(np.uint64))[: room[row] - (specials >= 0).sum()]:
                out[made] = token[expressed[i]]
                made += np.uint64(1)
        if specials[1] >= 0:
            out[made] = specials[1]
            made += np.uint64(1)
        lengths[row] = made - before
    return lengths


def _rank_plain(values, indices, indptr, token, usual, specials, room, out):
    first, last = ([special] if special >= 0 else [] for special in specials)
    lengths, made = np.empty(len(room), np.int64), 0
    for row, (start, end) in enumerate(pairwise(indptr)):
        rate = values[start:end] / usual[indices[start:end]]
        order = np.flatnonzero(rate > 0)
        order = order[np.argsort(-rate[order], kind="stable")][: room[row] - len(first) - len(last)]
        tokens = [*first, *token[indices[start:end][order]], *last]
        lengths[row] = len(tokens)
        out[made : made + len(tokens)] = tokens
        made += len(tokens)
    return lengths


@compiled()
def _bin(values, indices, indptr, token, others, cell, draws, quantiles, first, room, genes, bins):
    """Write the genes and bins of each row behind `first`: the expressed ones, then those of `others` that are not."""
    random, seed = draws
    longest, lengths, n = np.diff(indptr).max() + len(others), np.empty(len(room), np.int64), 0
    gene, value = np.empty(longest, np.int64), np.empty(longest, np.float32)
    seen = np.full(others.max() + 1 if len(others) else 0, -1)
    for row in range(len(room)):
        m = np.uint32(0)
        for entry in range(indptr[row], indptr[row + 1]):  # without a branch, which would often be guessed wrong
            known, count = token[np.uint32(indices[entry])], values[entry]
            gene[m], value[m] = known, count
            m += np.uint32((known >= 0) & (count > 0))
        draw = uniform(seed, cell[row], gene[:m]) if random else np.full(m, 0.5)
        value[:m] = quantile_bins(value[:m], draw, quantiles)
        if len(others):
            seen[gene[:m]] = row
            for other in others:
                gene[m], value[m] = other, 0
                m += np.uint32(seen[other] != row)
        genes[n], bins[n] = first
        if m >= room[row]:
            m = _choose(gene[:m], value[:m], room[row] - 1, seed, cell[row])
        genes[n + 1 : n + 1 + m], bins[n + 1 : n + 1 + m] = gene[:m], value[:m]
        lengths[row] = m + 1
        n += lengths[row]
    return lengths


@compiled()
def _choose(gene, value, room, seed, cell):
    """Move to the front the genes that are kept, of more than there is room for: those with the smallest draws."""
    draw, kept = uniform(seed + 1, cell, gene), np.uint32(0)
    last = draw[ascending(draw.view(np.uint64))[room - 1]]
    for i in range(len(gene)):
        gene[kept], value[kept] = gene[i], value[i]
        kept += np.uint32((draw[i] <= last) & (kept < room))
    return kept


@compiled()
def quantile_bins(value, draw, quantiles):
    """The bin, 1 to len(quantiles), of each positive float32 among those of a cell, with numpy's arithmetic.

    `until` edges are <= a value and `before` edges < it. A value that lies on several edges gets one of their bins by
    `draw`, uniform in [0, 1). With the draws of the official code the result is equal to its, to the bit.
    """
    n, bins, edges = len(value), np.empty(len(value), np.float32), np.empty(len(quantiles))
    if n == 0:
        return bins
    level, ends, of = _levels(value)
    k = 0
    for i in range(len(quantiles)):
        place = (n - 1) * quantiles[i]
        below = int(np.floor(place))
        while ends[k] <= below:
            k += 1
        part, low, high = place - below, level[k], level[k + (ends[k] <= min(below + 1, n - 1))]
        edges[i] = low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)
    until = np.searchsorted(edges, level, side="right").astype(np.float64)
    span = np.searchsorted(edges, level, side="left") - until
    for i in range(n):
        bins[i] = np.ceil(draw[i] * span[of[i]] + until[of[i]])
    return bins


SMALL = 256  # counts up to here are told apart by counting them


@compiled()
def _levels(value):
    """The different values, ascending, how many of `value` are not above each, and which of them each of `value` is."""
    of, number, second = np.empty(len(value), np.uint32), np.zeros(SMALL, np.int64), np.zeros(SMALL, np.int64)
    largest, broken = np.uint32(0), np.uint32(0)
    for i in range(len(value)):
        count = np.uint32(value[i])
        of[i], largest, broken = count, max(largest, count), broken | np.uint32(np.float32(count) != value[i])
    if broken or largest >= SMALL:
        return _sorted_levels(value, of)
    for i in range(0, len(of) - 1, 2):  # in turn in two places, since a sum waits for the last one in the same place
        number[of[i]] += 1
        second[of[i + 1]] += 1
    number[of[-1]] += len(of) % 2
    number += second
    level = np.flatnonzero(number)
    ends, place = np.cumsum(number[level]), np.cumsum(number > 0).astype(np.uint32) - np.uint32(1)
    for i in range(len(value)):
        of[i] = place[of[i]]
    return level.astype(np.float32), ends, of


@compiled()
def _sorted_levels(value, of):
    """The same of any numbers."""
    level, ends, k = np.empty(len(value), np.float32), np.empty(len(value), np.int64), 0
    order = ascending(value.view(np.uint32).astype(np.uint64))
    level[0] = value[order[0]]
    for j in range(len(value)):
        k += value[order[j]] != level[k]
        level[k], ends[k], of[order[j]] = value[order[j]], j + 1, k
    return level[: k + 1], ends[: k + 1], of


@compiled()
def uniform(seed, cell, gene):
    """Numbers in [0, 1) that look random and depend on seed, cell and gene alone (SplitMix64, Steele et al. 2014)."""
    out, start = np.empty(len(gene)), np.uint64(cell) + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
    for i in range(len(gene)):
        z = start + np.uint64(gene[i] + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i] = np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    return out


def _bin_plain(values, indices, indptr, token, others, cell, draws, quantiles, first, room, genes, bins):
    (random, seed), lengths, n = draws, np.empty(len(room), np.int64), 0
    for row, (start, end) in enumerate(pairwise(indptr)):
        gene, count = token[indices[start:end]].astype(np.int64), values[start:end]
        expressed = (gene >= 0) & (count > 0)
        gene, count = gene[expressed], count[expressed]
        draw = _uniform_plain(seed, cell[row], gene) if random else np.full(len(gene), 0.5)
        value = _quantile_bins_plain(count, draw, quantiles)
        silent = others[~np.isin(others, gene)]
        gene, value = np.append(gene, silent), np.append(value, np.zeros(len(silent), np.float32))
        if len(gene) >= room[row]:
            draw = _uniform_plain(seed + 1, cell[row], gene)
            kept = np.flatnonzero(draw <= np.sort(draw)[room[row] - 2])[: room[row] - 1]
            gene, value = gene[kept], value[kept]
        lengths[row] = len(gene) + 1
        genes[n], bins[n] = first
        genes[n + 1 : n + lengths[row]], bins[n + 1 : n + lengths[row]] = gene, value
        n += lengths[row]
    return lengths


def _quantile_bins_plain(value, draw, quantiles):
    if len(value) == 0:
        return np.empty(0, np.float32)
    edges = np.quantile(value, quantiles)
    until, before = (np.searchsorted(edges, value, side=side).astype(np.float64) for side in ("right", "left"))
    return np.ceil(draw * (before - until) + until).astype(np.float32)


def _uniform_plain(seed, cell, gene):
    with np.errstate(over="ignore"):
        z = np.uint64(cell) + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        z = z + (gene.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@compiled()
def _log_normalize(values, indices, indptr, token, depths, gene, value):
    """Write genes and values of each row, and the two tokens `depths` without values; lengths and totals of rows."""
    lengths, total, n = np.empty(len(indptr) - 1, np.int64), np.zeros(len(indptr) - 1), 0
    for row in range(len(total)):
        first = n
        for entry in range(indptr[row], indptr[row + 1]):
            if token[indices[entry]] >= 0 and values[entry] > 0:
                gene[n], value[n] = token[indices[entry]], values[entry]
                total[row] += values[entry]
                n += 1
        for i in range(first, n):
            value[i] = np.log1p(value[i] / total[row] * 1e4)
        gene[n], gene[n + 1] = depths
        n += 2
        lengths[row] = n - first
    return lengths, total


def _log_normalize_plain(values, indices, indptr, token, depths, gene, value):
    lengths, total, n = np.empty(len(indptr) - 1, np.int64), np.zeros(len(indptr) - 1), 0
    for row, (start, end) in enumerate(pairwise(indptr)):
        known, counts = token[indices[start:end]], values[start:end]
        kept = (known >= 0) & (counts > 0)
        total[row], m = counts[kept].sum(dtype=float), kept.sum()
        gene[n : n + m], value[n : n + m] = known[kept], np.log1p(counts[kept] / total[row] * 1e4)
        gene[n + m : n + m + 2] = depths
        lengths[row] = m + 2
        n += lengths[row]
    return lengths, total
