"""scGPT's tokens: genes in any order, each beside the bin of its count among the counts of the cell.

Cui et al., Nature Methods 2024. The 50 edges of the bins are quantiles of the cell's non-zero counts. Most counts are 1
and lie on many edges at once; the official code gives each of them one of these bins at random, so that its embeddings
differ between runs. Here the draw belongs to (seed, cell, gene) and is the same wherever and whenever it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from scduet._numba import compiled
from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.transformers.tokens import Tokens, framed, known, piecewise, sort_rows


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
        return piecewise(self._piece, rows)

    def __call__(self, rows: Rows) -> TokenBatch:
        return self.tokens(rows).batch(pad=self.pad)

    def _piece(self, rows: Rows) -> Tokens:
        gene, value, pointer = known(rows, self.token, self.repeated)
        order = ascending(value, pointer)
        gene, value = gene[order], value[order]
        cell = np.repeat(self.cell[rows.index], np.diff(pointer))
        draw = uniform(self.seed, cell, gene) if self.ties == "random" else np.full(len(gene), 0.5)
        bins = bins_of_sorted(value, pointer, draw, np.linspace(0, 1, self.n_bins - 1))
        if self.zeros:
            gene, bins, pointer = self._with_zeros(gene, bins, pointer)
            cell = np.repeat(self.cell[rows.index], np.diff(pointer))
        if np.diff(pointer).max(initial=0) >= self.length:
            chosen = self._chosen(gene, cell, pointer)
            gene, bins = gene[chosen], bins[chosen]
            pointer = np.concatenate([[0], np.cumsum(np.minimum(np.diff(pointer), self.length - 1))])
        genes = framed(gene, pointer, np.array(self.cls), None)
        values = framed(bins, pointer, np.array(self.cls_value), None)
        return Tokens(genes, values, pointer + np.arange(len(pointer)), rows.index)

    def _with_zeros(self, gene: np.ndarray, bins: np.ndarray, pointer: np.ndarray) -> tuple[np.ndarray, ...]:
        """Each cell with all further genes of the data, in bin 0."""
        every, row = np.unique(self.token[self.token >= 0]), np.repeat(np.arange(len(pointer) - 1), np.diff(pointer))
        absent = np.ones((len(pointer) - 1, len(every)), bool)
        absent[row, np.searchsorted(every, gene)] = False
        more_row, more = absent.nonzero()
        order = np.argsort(np.concatenate([row, more_row]), kind="stable")
        longer = np.arange(len(pointer)) * len(every)
        zeros = np.zeros(len(more), bins.dtype)
        return np.concatenate([gene, every[more]])[order], np.concatenate([bins, zeros])[order], longer

    def _chosen(self, gene: np.ndarray, cell: np.ndarray, pointer: np.ndarray) -> Int[np.ndarray, " chosen"]:
        """Entries that are kept: of a cell with too many, those with the smallest draws."""
        kept, room = np.ones(len(gene), bool), self.length - 1
        for row in np.flatnonzero(np.diff(pointer) > room):
            a, b = pointer[row], pointer[row + 1]
            draw = uniform(self.seed + 1, cell[a:b], gene[a:b])
            kept[a + np.argpartition(draw, room)[room:]] = False
        return np.flatnonzero(kept)


def quantile_bins(
    value: Float[np.ndarray, " entry"],
    pointer: Int[np.ndarray, " row+1"],
    draw: Float[np.ndarray, " entry"],
    n_bins: int = 51,
) -> Float[np.ndarray, " entry"]:
    """The bin, 1 to n_bins - 1, of each positive value among its row.

    A value that lies on several edges gets one of their bins by `draw`, uniform in [0, 1). With the draws of the
    official code the result is equal to its, to the bit.
    """
    value, bins = value.astype(np.float32, copy=False), np.empty(len(value), np.float32)
    order = ascending(value, pointer)
    bins[order] = bins_of_sorted(value[order], pointer, draw[order], np.linspace(0, 1, n_bins - 1))
    return bins


def ascending(value: Float[np.ndarray, " entry"], pointer: Int[np.ndarray, " row+1"]) -> Int[np.ndarray, " entry"]:
    """Positions that sort each row of positive float32 from small to large; equal ones keep their order."""
    return sort_rows(value.view(np.uint32).astype(np.uint64) << np.uint64(16), pointer)


@compiled()
def bins_of_sorted(value, pointer, draw, quantiles):
    """The bins of values that are sorted within rows. The edges are the row's quantiles, by numpy's arithmetic.

    `until` edges are <= a value and `before` edges < it; it may have any bin between.
    """
    bins, edges = np.empty(len(value), np.float32), np.empty(len(quantiles))
    for row in range(len(pointer) - 1):
        start, n = pointer[row], pointer[row + 1] - pointer[row]
        for i in range(len(quantiles) if n else 0):
            place = (n - 1) * quantiles[i]
            below = int(np.floor(place))
            part, low, high = place - below, value[start + below], value[start + min(below + 1, n - 1)]
            edges[i] = low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)
        until = before = 0
        for i in range(start, start + n):
            while until < len(edges) and edges[until] <= value[i]:
                until += 1
            while before < len(edges) and edges[before] < value[i]:
                before += 1
            bins[i] = np.ceil(draw[i] * (before - until) + until)
    return bins


@compiled()
def uniform(seed, cell, gene):
    """Numbers in [0, 1) that look random and depend on seed, cell and gene alone (SplitMix64, Steele et al. 2014)."""
    out = np.empty(len(gene))
    for i in range(len(gene)):
        z = np.uint64(cell[i]) + np.uint64(gene[i] + 1) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i] = ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    return out
