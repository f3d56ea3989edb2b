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

from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.transformers.tokens import Tokens, framed, piecewise, ranges, sort_rows, summed


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

    def tokens(self, rows: Rows) -> Tokens:
        return piecewise(self._piece, rows)

    def __call__(self, rows: Rows) -> TokenBatch:
        return self.tokens(rows).batch(pad=self.pad)

    def _piece(self, rows: Rows) -> Tokens:
        rows, token = summed(rows, self.token) if self.repeated else (rows, self.token)
        value = np.where(token[rows.column] >= 0, rows.values, np.float32(0))
        order, ordered, pointer = sorted_positive(value, rows.pointer)
        gene, lengths = token[rows.column[order]], np.diff(pointer)
        cell = np.repeat(self.cell[rows.index], lengths)
        draw = uniform(self.seed, cell, gene) if self.ties == "random" else 0.5
        bins = bins_of_sorted(ordered, pointer, draw, self.n_bins)
        if lengths.max(initial=0) >= self.length:
            chosen = self._chosen(gene, cell, pointer)
            gene, bins = gene[chosen], bins[chosen]
            pointer = np.concatenate([[0], np.cumsum(np.minimum(lengths, self.length - 1))])
        genes = framed(gene, pointer, np.array(self.cls), None)
        values = framed(bins.astype(np.float32), pointer, np.array(self.cls_value), None)
        return Tokens(genes, values, pointer + np.arange(len(pointer)), rows.index)

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
    draw: Float[np.ndarray, " entry"] | float,
    n_bins: int = 51,
) -> Int[np.ndarray, " entry"]:
    """The bin, 1 to n_bins - 1, of each positive value among its row; 0 of others.

    A value that lies on several edges gets one of their bins by `draw`, uniform in [0, 1). With the draws of the
    official code the result is equal to its, to the bit.
    """
    bins = np.zeros(len(value), np.int64)
    order, ordered, inner = sorted_positive(value, pointer)
    bins[order] = bins_of_sorted(ordered, inner, draw[order] if isinstance(draw, np.ndarray) else draw, n_bins)
    return bins


def sorted_positive(
    value: Float[np.ndarray, " entry"], pointer: Int[np.ndarray, " row+1"]
) -> tuple[Int[np.ndarray, " kept"], Float[np.ndarray, " kept"], Int[np.ndarray, " row+1"]]:
    """The positive values of each row from small to large: their positions, they themselves, their row pointer."""
    value = value.astype(np.float32, copy=False)
    positive = value > 0
    bits = np.where(positive, value.view(np.uint32), np.uint32(0xFFFF_FFFF))  # the others go last
    order = sort_rows(bits.astype(np.uint64) << np.uint64(16), pointer)
    kept = np.concatenate([[0], np.cumsum(positive)])[pointer]
    if kept[-1] < len(value):
        order = order[ranges(pointer[:-1], np.diff(kept))]
    return order, value[order], kept


def bins_of_sorted(
    ordered: Float[np.ndarray, " entry"],
    pointer: Int[np.ndarray, " row+1"],
    draw: Float[np.ndarray, " entry"] | float,
    n_bins: int,
) -> Float[np.ndarray, " entry"]:
    """The bins of values that are sorted within rows: worked out for each run of equal values, then drawn for each.

    A value has `left` edges <= it and `right` edges < it, and any bin between.
    """
    runs = _runs(ordered, pointer)
    row, low, edge = _edges(ordered, pointer, n_bins)
    run = np.searchsorted(runs, low, side="right") - 1  # of the entry below each edge
    at_low = edge == ordered[low]
    not_below = run + ~at_low  # first run with value >= edge
    above = not_below + (edge == ordered[runs[np.minimum(not_below, len(runs) - 1)]])  # first run with value > edge
    bounds = np.searchsorted(runs, pointer)  # runs of each row
    left = _counts_until(not_below, bounds)
    right = _counts_until(above[above < bounds[1:][row]], bounds)
    lengths = np.diff(np.append(runs, len(ordered)))
    return np.ceil(draw * np.repeat(right - left, lengths) + np.repeat(left, lengths))


def uniform(seed: int, cell: Int[np.ndarray, " entry"], gene: Int[np.ndarray, " entry"]) -> Float[np.ndarray, " entry"]:
    """Numbers in [0, 1) that look random and depend on seed, cell and gene alone (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = (gene.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z += cell.astype(np.uint64, copy=False)
        z += np.uint64(seed % (1 << 32)) * np.uint64(0xD1B54A32D192ED03)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z ^= z >> np.uint64(shift)
            z *= np.uint64(factor)
        z ^= z >> np.uint64(31)
    z >>= np.uint64(11)
    return z * 2.0**-53


def _runs(ordered: np.ndarray, pointer: np.ndarray) -> Int[np.ndarray, " run"]:
    """Where each run of equal values within a row starts."""
    new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    new[pointer[:-1][np.diff(pointer) > 0]] = True
    return np.flatnonzero(new)


def _edges(ordered: np.ndarray, pointer: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantiles of each row with entries, by numpy's arithmetic: their row, the place below them, their value."""
    lengths = np.diff(pointer)
    rows = np.flatnonzero(lengths)
    place = (lengths[rows, None] - 1) * np.linspace(0, 1, n_bins - 1)
    below = np.floor(place)
    part = (place - below).ravel()
    low = (pointer[rows, None] + below.astype(np.int64)).ravel()
    row = np.repeat(rows, n_bins - 1)
    high = np.minimum(low + 1, pointer[1:][row] - 1)
    a, b = ordered[low], ordered[high]
    step = b - a
    return row, low, np.where(part < 0.5, a + step * part, b - step * (1 - part))


def _counts_until(found: np.ndarray, bounds: np.ndarray) -> Int[np.ndarray, " run"]:
    """For each run, how many of `found` (runs) in its row are not behind it. bounds: the first run of each row."""
    running = np.concatenate([[0], np.cumsum(np.bincount(found, minlength=bounds[-1]))])
    return running[1:] - np.repeat(running[bounds[:-1]], np.diff(bounds))
