"""scGPT's tokens: genes in any order, each beside the bin of its count among the counts of the cell.

Cui et al., Nature Methods 2024. The 50 edges of the bins are quantiles of the cell's non-zero counts. Most counts are 1
and lie on many edges at once; the official code gives each of them one of these bins at random, so that its embeddings
differ between runs. Here the draw belongs to (seed, cell, gene) and is the same wherever and whenever it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.transformers.tokens import Tokens, framed, known_entries


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
        gene, value, pointer = known_entries(rows, self.token, self.repeated)
        key = np.repeat(self.cell[rows.index], np.diff(pointer))
        draw = uniform(self.seed, key, gene) if self.ties == "random" else 0.5
        bins = quantile_bins(value, pointer, draw, self.n_bins)
        chosen = self._chosen(gene, key, pointer)
        if chosen is not None:
            gene, bins = gene[chosen], bins[chosen]
            pointer = np.concatenate([[0], np.cumsum(np.minimum(np.diff(pointer), self.length - 1))])
        genes = framed(gene, pointer, np.array(self.cls), None)
        values = framed(bins.astype(np.float32), pointer, np.array(self.cls_value, np.float32), None)
        return Tokens(genes, values, pointer + np.arange(len(pointer)), rows.index)

    def __call__(self, rows: Rows) -> TokenBatch:
        return self.tokens(rows).batch(pad=self.pad)

    def _chosen(self, gene: np.ndarray, key: np.ndarray, pointer: np.ndarray) -> np.ndarray | None:
        """Entries that are kept: all, or those with the smallest draws of a cell that has too many. None for all."""
        room = self.length - 1
        if np.diff(pointer).max(initial=0) <= room:
            return None
        draw = uniform(self.seed + 1, key, gene)
        kept = [
            np.arange(a, b) if b - a <= room else a + np.sort(np.argpartition(draw[a:b], room)[:room])
            for a, b in pairwise(pointer)
        ]
        return np.concatenate(kept)


def quantile_bins(
    value: Float[np.ndarray, " entry"],
    pointer: Int[np.ndarray, " row+1"],
    draw: Float[np.ndarray, " entry"] | float,
    n_bins: int = 51,
) -> Int[np.ndarray, " entry"]:
    """The bin, 1 to n_bins - 1, of each positive value among its row.

    A value that lies on several edges gets one of their bins by `draw`, uniform in [0, 1). With the draws of the
    official code the result is equal to its, to the bit; here rows are binned together, by the places of the edges
    in the sorted row in place of a search for each value.
    """
    lengths = np.diff(pointer)
    order, ordered = _sorted_rows(value.astype(np.float32), pointer)
    first = np.repeat(pointer[:-1].astype(np.int64), lengths)
    start, end = _runs(ordered, first)
    row, low, edge = _edges(ordered, pointer, n_bins)
    at_low, at_high = edge == ordered[low], (low + 1 < pointer[1:][row]) & (edge == ordered[_next(low, ordered)])
    from_here = np.where(at_low, start[low], low + 1)  # first place with value >= edge
    after = np.where(at_low, end[low], np.where(at_high, end[_next(low, ordered)], low + 1))  # first with value > edge
    left = _counts_until(from_here, pointer)  # edges <= value
    right = _counts_until(after[after < pointer[1:][row]], pointer)  # edges < value
    bins = np.empty(len(value), np.int64)
    drawn = draw[order] if isinstance(draw, np.ndarray) else draw
    bins[order] = np.ceil(drawn * (right - left) + left)
    return bins


def uniform(seed: int, cell: Int[np.ndarray, " entry"], gene: Int[np.ndarray, " entry"]) -> Float[np.ndarray, " entry"]:
    """Numbers in [0, 1) that look random and depend on seed, cell and gene alone (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = cell.astype(np.uint64) + (gene.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed % (1 << 32)) * np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)) * 2.0**-53


def _sorted_rows(value: np.ndarray, pointer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions that sort each row of positive float32, and the sorted values (keys as in `rank_value.descending`)."""
    lengths = np.diff(pointer)
    if lengths.max(initial=0) >= 1 << 32:
        raise ValueError("a row has too many entries")
    first = np.repeat(pointer[:-1].astype(np.int64), lengths)
    key = value.view(np.uint32).astype(np.uint64) << np.uint64(32) | (np.arange(len(value)) - first).astype(np.uint64)
    bounds = pointer.tolist()
    for a, b in pairwise(bounds):
        key[a:b].sort()
    order = (key & np.uint64(0xFFFFFFFF)).astype(np.int64) + first
    return order, (key >> np.uint64(32)).astype(np.uint32).view(np.float32)


def _runs(ordered: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each place of the sorted rows, where the run of values equal to it starts, and where it ends."""
    new = np.ones(len(ordered) + 1, bool)
    new[1:-1] = (ordered[1:] != ordered[:-1]) | (first[1:] != first[:-1])
    bounds = np.flatnonzero(new)
    lengths = np.diff(bounds)
    return np.repeat(bounds[:-1], lengths), np.repeat(bounds[1:], lengths)


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


def _next(low: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    return np.minimum(low + 1, len(ordered) - 1)


def _counts_until(places: np.ndarray, pointer: np.ndarray) -> np.ndarray:
    """For each place, how many of `places` in its row are not behind it."""
    running = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=pointer[-1]))])
    return running[1:] - np.repeat(running[pointer[:-1]], np.diff(pointer))
