"""scGPT's tokens: genes in any order, each beside the bin of its count among the counts of the cell.

Cui et al., Nature Methods 2024. The 50 edges of the bins are quantiles of the cell's non-zero counts. Most counts are 1
and lie on many edges at once; the official code gives each of them one of these bins at random, so that its embeddings
differ between runs. Here the draw belongs to (seed, cell, gene) and is the same wherever and whenever it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Int

from scduet._numba import compiled
from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.transformers.tokens import Room, Tokens, ascending, piecewise, summed


@dataclass(frozen=True)
class BinTokenizer:
    """Binned values behind a `<cls>` token. A longer cell keeps a random choice of its genes."""

    token: Int[np.ndarray, " gene"]  # of each gene of the data, -1 for none
    cell: Int[np.ndarray, " cell"]  # a number for each cell of the data set, from its name: its own random draws
    cls: int
    pad: int
    cls_value: float = -2.0
    length: int = 1200  # most tokens, `<cls>` included
    n_bins: int = 51
    ties: Literal["random", "midpoint"] = "random"
    seed: int = 0
    repeated: bool = False  # several genes of the data share a token
    zeros: bool = False  # genes without counts have tokens, too, after the others

    def tokens(self, rows: Rows) -> Tokens:
        rows, token = summed(rows, self.token) if self.repeated else (rows, self.token)
        others = np.unique(token[token >= 0]) if self.zeros else np.empty(0, token.dtype)
        room = Room(more=1, most=self.length, least=len(others))
        return piecewise(partial(self._fill, token=token, others=others), rows, room, valued=True)

    def __call__(self, rows: Rows) -> TokenBatch:
        return self.tokens(rows).batch(pad=self.pad)

    def _fill(self, rows: Rows, made: Tokens, token: np.ndarray, others: np.ndarray) -> np.ndarray:
        counts, draws = (rows.values, rows.column, rows.pointer), (self.ties == "random", self.seed)
        edges, first = np.linspace(0, 1, self.n_bins - 1), (self.cls, np.float32(self.cls_value))
        given = (*counts, token, others, self.cell[rows.index], draws, edges)
        return _bin(*given, first, np.diff(made.pointer), made.gene, made.value)


@compiled()
def _bin(values, column, pointer, token, others, cell, draws, quantiles, first, room, genes, bins):
    """Write the genes and bins of each row behind `first`: the expressed ones, then those of `others` that are not."""
    random, seed = draws
    longest, lengths, n = np.diff(pointer).max() + len(others), np.empty(len(room), np.int64), 0
    gene, value = np.empty(longest, np.int64), np.empty(longest, np.float32)
    seen = np.full(others.max() + 1 if len(others) else 0, -1)
    for row in range(len(room)):
        m = np.uint32(0)
        for entry in range(pointer[row], pointer[row + 1]):  # without a branch, which would often be guessed wrong
            known, count = token[np.uint32(column[entry])], values[entry]
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
