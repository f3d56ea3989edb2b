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

    def ratios(self, offset: float) -> Iterator[tuple[slice, np.ndarray]]:
        """(first + offset) / (second + offset) of a few pairs, and which pairs these are."""
        for place, first, second in self.blocks():
            first += offset
            second += offset
            first /= second
            yield place, first

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
    limits = {"low": np.float32(2**-delta), "high": np.float32(2**delta)}
    down, up = np.sum(in_threads(partial(_counted_beyond, offset=offset, **limits), pairs.by_threads()), axis=0)
    return (up + down if test_mode == "two" else np.maximum(up, down)) / len(pairs)


def _counted_beyond(pairs: Pairs, offset: float, low: np.float32, high: np.float32) -> Int[np.ndarray, "2 gene"]:
    """Pairs whose ratio lies below `low`, and those whose ratio does not lie below `high`."""
    counts = np.zeros((2, pairs.share.shape[1]), np.int64)
    for _, ratio in pairs.ratios(offset):
        counts[0] += _counted(ratio < low)
        counts[1] += _counted(ratio >= high)
    return counts


def described(pairs: Pairs, offset: float) -> dict[str, Float[np.ndarray, " gene"]]:
    """Mean, median, standard deviation, minimum and maximum of the log2 fold changes of each gene."""
    found = np.concatenate(in_threads(partial(_described, offset=offset), pairs.by_genes()), axis=1)
    return {f"lfc_{name}": values for name, values in zip(("mean", "median", "std", "min", "max"), found, strict=True)}


def _described(pairs: Pairs, offset: float) -> Float[np.ndarray, "5 gene"]:
    """The fold changes of each gene are put side by side."""
    change = np.empty((pairs.share.shape[1], len(pairs)), np.float32)
    for place, ratio in pairs.ratios(offset):
        change[:, place] = np.log2(ratio, out=ratio).T
    size = max(1, ELEMENTS // len(pairs))
    return np.concatenate([_statistics(change[i : i + size]) for i in range(0, len(change), size)], axis=1)


def _statistics(change: Float[np.ndarray, "gene pair"]) -> Float[np.ndarray, "5 gene"]:
    """Of each row; leaves there the distances from its mean, in another order."""
    n = change.shape[1]
    half, mean, low, high = n // 2, np.einsum("ij->i", change) / n, change.min(1), change.max(1)
    change -= mean[:, None]
    spread = np.sqrt(np.einsum("ij,ij->i", change, change) / n)
    change.partition(half, axis=1)  # one place: asking numpy for both middle ones is five times slower
    median = change[:, half] if n % 2 else (change[:, half] + change[:, :half].max(1)) / 2
    return np.stack([mean, mean + median, spread, low, high])


def mean_share(share: Float[np.ndarray, "draw gene"]) -> Float[np.ndarray, " gene"]:
    """By torch's product: the threads of numpy's would be in the way of those that come after."""
    return (torch.full((len(share),), 1 / len(share)) @ torch.from_numpy(share)).numpy()


def estimated_offset(share: Float[np.ndarray, "draw gene"], silent: Bool[np.ndarray, " gene"]) -> float:
    """Pseudocount from the genes that were not seen in a group: their largest shares say what the model makes up."""
    if not silent.any():
        return SMALLEST_OFFSET
    parts = np.array_split(share, torch.get_num_threads())
    largest = np.max(in_threads(partial(np.max, axis=0, initial=0), parts), axis=0)
    return max(SMALLEST_OFFSET, float(np.quantile(largest[silent], OFFSET_QUANTILE)) / share.shape[1])


def estimated_delta(pairs: Pairs, offset: float) -> float:
    """0.6 of the distance of the outer two of three Gaussians of mean fold changes from zero, at least 0.1."""
    from sklearn.mixture import GaussianMixture

    change = np.zeros(pairs.share.shape[1])
    for _, ratio in pairs.ratios(offset):
        change += np.log2(ratio).sum(0) / len(pairs)
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
