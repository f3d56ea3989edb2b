"""What pairs of draws say of each gene: how surely its expression differs, and by how much.

Pairs are looked at some at a time: few enough for the processor's cache, and so many that threads seldom wait for each
other between two steps of numpy. All is numpy's: to start numba takes longer than all of this.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from scduet.tasks.in_threads import in_threads

SMALLEST_OFFSET, OFFSET_QUANTILE = 1e-10, 0.9  # of pseudocounts, as in scvi-tools
EPS = 1e-8
ELEMENTS = 1 << 18  # values looked at together
GENES = 500  # at most, that are described together: bounds memory
MOST = 255  # pairs looked at together: their number fits in a byte
DESCRIBED = 1e-3  # of the pseudocounts: what is added before fold changes are described, as in scvi-tools
STATISTICS = ("lfc_mean", "lfc_median", "lfc_std", "lfc_min", "lfc_max")


@dataclass(frozen=True)
class Pairs:
    """Draws that are compared two by two: rows of `share`."""

    share: Float[np.ndarray, "draw gene"]
    first: Int[np.ndarray, " pair"]
    second: Int[np.ndarray, " pair"]

    def __len__(self) -> int:
        return len(self.first)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Copies of the first and second draws of a few pairs, and which pairs these are."""
        size = max(1, min(MOST, ELEMENTS // self.share.shape[1]))
        for start in range(0, len(self), size):
            place = slice(start, start + size)
            yield place, self.share[self.first[place]], self.share[self.second[place]]

    def by_genes(self) -> list[Pairs]:
        """The same pairs, of some genes each, as many for each thread."""
        n_genes, n_threads = self.share.shape[1], torch.get_num_threads()
        n_parts = min(n_genes, n_threads * -(-n_genes // (n_threads * GENES)))
        return [replace(self, share=share) for share in np.array_split(self.share, n_parts, axis=1)]

    def by_threads(self) -> list[Pairs]:
        """A part of the pairs for each thread."""
        parts = (np.array_split(side, torch.get_num_threads()) for side in (self.first, self.second))
        return [replace(self, first=first, second=second) for first, second in zip(*parts, strict=True)]


def probability_higher(pairs: Pairs) -> Float[np.ndarray, " gene"]:
    """Share of the pairs whose first draw is higher."""
    return np.sum(in_threads(_counted_higher, pairs.by_threads()), axis=0) / len(pairs)


def _counted_higher(pairs: Pairs) -> Int[np.ndarray, " gene"]:
    counts = np.zeros(pairs.share.shape[1], np.int64)
    for _, first, second in pairs.blocks():
        counts += _counted(first > second)
    return counts


def probability_changed(pairs: Pairs, offset: float, delta: float, test_mode: str) -> Float[np.ndarray, " gene"]:
    """Share of the pairs whose log2 fold change leaves [-delta, delta]; "three": to the likelier of the two sides."""
    counts = np.sum(in_threads(partial(_counted_beyond, offset=offset, delta=delta), pairs.by_threads()), axis=0)
    return _share_beyond(counts, len(pairs), test_mode)


def _counted_beyond(pairs: Pairs, offset: float, delta: float) -> Int[np.ndarray, "2 gene"]:
    counts = np.zeros((2, pairs.share.shape[1]), np.int64)
    for _, first, second in pairs.blocks():
        _count_beyond(counts, _ratio(first, second, offset), delta)
    return counts


def compared(pairs: Pairs, offset: float, delta: float, test_mode: str) -> dict[str, Float[np.ndarray, " gene"]]:
    """`probability_changed`, and what the log2 fold changes of each gene are like, in one look at the pairs."""
    found = in_threads(partial(_compared, offset=offset, delta=delta), pairs.by_genes())
    counts, statistics = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    described = dict(zip(STATISTICS, statistics, strict=True))
    return {"proba_de": _share_beyond(counts, len(pairs), test_mode), **described}


def _compared(pairs: Pairs, offset: float, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs on either side of [-delta, delta], and statistics; for these the changes of a gene are put side by side."""
    n_genes = pairs.share.shape[1]
    counts, change = np.zeros((2, n_genes), np.int64), np.empty((n_genes, len(pairs)), np.float32)
    for place, first, second in pairs.blocks():
        _count_beyond(counts, (first + offset) / (second + offset), delta)
        ratio = _ratio(first, second, DESCRIBED * offset)
        change[:, place] = np.log2(ratio, out=ratio).T
    size = max(1, ELEMENTS // len(pairs))
    statistics = [_statistics(change[i : i + size]) for i in range(0, n_genes, size)]
    return counts, np.concatenate(statistics, axis=1)


def _ratio(first: np.ndarray, second: np.ndarray, offset: float) -> np.ndarray:
    """(first + offset) / (second + offset), written over them."""
    first += offset
    second += offset
    return np.divide(first, second, out=first)


def _count_beyond(counts: Int[np.ndarray, "2 gene"], ratio: Float[np.ndarray, "pair gene"], delta: float) -> None:
    """Add how many ratios lie below 2^-delta, and how many do not lie below 2^delta."""
    counts[0] += _counted(ratio < np.float32(2**-delta))
    counts[1] += _counted(ratio >= np.float32(2**delta))


def _share_beyond(counts: Int[np.ndarray, "2 gene"], n_pairs: int, test_mode: str) -> Float[np.ndarray, " gene"]:
    return (counts.sum(0) if test_mode == "two" else counts.max(0)) / n_pairs


def _statistics(change: Float[np.ndarray, "gene pair"]) -> Float[np.ndarray, "5 gene"]:
    """Of each row, in the order of `STATISTICS`; leaves there the distances from its mean, in another order."""
    n = change.shape[1]
    half = n // 2
    change.partition(half, axis=1)  # one place: asking numpy for both middle ones is five times slower
    median = (change[:, half] + (change[:, half] if n % 2 else change[:, :half].max(1))) / 2
    low, high, mean = change[:, : half + 1].min(1), change[:, half:].max(1), np.einsum("ij->i", change) / n
    change -= mean[:, None]
    return np.stack([mean, median, np.sqrt(np.einsum("ij,ij->i", change, change) / n), low, high])


def mean_and_largest(share: Float[np.ndarray, "draw gene"]) -> Float[np.ndarray, "2 gene"]:
    """Of each gene."""
    n_parts = max(torch.get_num_threads(), share.size // ELEMENTS)
    parts = [part for part in np.array_split(share, n_parts) if len(part)]
    sums, largest = zip(*in_threads(lambda part: (part.sum(0), part.max(0)), parts), strict=True)
    return np.stack([np.sum(sums, axis=0, dtype=float) / len(share), np.max(largest, axis=0)])


def estimated_offset(largest: Float[np.ndarray, " gene"], silent: Bool[np.ndarray, " gene"]) -> float:
    """Pseudocount from the genes that were not seen in a group: their largest shares say what the model makes up."""
    if not silent.any():
        return SMALLEST_OFFSET
    return max(SMALLEST_OFFSET, float(np.quantile(largest[silent], OFFSET_QUANTILE)) / len(largest))


def estimated_delta(pairs: Pairs, offset: float) -> float:
    """0.6 of the distance of the outer two of three Gaussians of mean fold changes from zero, at least 0.1."""
    from sklearn.mixture import GaussianMixture

    change = np.zeros(pairs.share.shape[1])
    for _, first, second in pairs.blocks():
        change += np.log2(_ratio(first, second, offset)).sum(0) / len(pairs)
    means = np.sort(GaussianMixture(3, random_state=0).fit(change[:, None]).means_.ravel())
    return max(0.1, 0.6 * float(np.abs(means[[0, -1]]).mean()))


def bayes_factor(probability: Float[np.ndarray, " gene"]) -> Float[np.ndarray, " gene"]:
    return np.log(probability + EPS) - np.log(1 - probability + EPS)


def called(probability: Float[np.ndarray, " gene"], target: float) -> Bool[np.ndarray, " gene"]:
    """The most genes whose mean probability of being a false call is within the target."""
    order = np.argsort(-probability, kind="stable")
    expected = np.cumsum(1 - probability[order]) / np.arange(1, len(order) + 1)
    calls = np.zeros(len(order), bool)
    calls[order[: int((expected <= target).sum())]] = True
    return calls


def _counted(flags: Bool[np.ndarray, "pair gene"]) -> Int[np.ndarray, " gene"]:
    return np.add.reduce(flags.view(np.uint8), axis=0, dtype=np.uint8)
