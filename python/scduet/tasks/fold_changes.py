"""What pairs of draws say of each gene: how surely its expression differs, and by how much.

Pairs are looked at a few at a time, so that what is computed of them stays in the processor's cache.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from scduet._numba import compiled

SMALLEST_OFFSET, OFFSET_QUANTILE = 1e-10, 0.9  # of pseudocounts, as in scvi-tools
EPS = 1e-8
ELEMENTS = 1 << 16  # values looked at together
GENES = 256  # genes described together
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


def probability_higher(pairs: Pairs) -> Float[np.ndarray, " gene"]:
    """Share of the pairs whose first draw is higher."""
    higher = np.zeros(pairs.share.shape[1])
    for _, first, second in pairs.blocks():
        higher += _counted(first > second)
    return higher / len(pairs)


def probability_changed(pairs: Pairs, offset: float, delta: float, test_mode: str) -> Float[np.ndarray, " gene"]:
    """Share of the pairs whose log2 fold change leaves [-delta, delta]; "three": to the likelier of the two sides."""
    up, down = np.zeros((2, pairs.share.shape[1]), np.int32)
    limits = np.float32(2**-delta), np.float32(2**delta)
    _count_beyond(pairs.share, pairs.first, pairs.second, np.float32(offset), limits, down, up)
    return (up + down if test_mode == "two" else np.maximum(up, down)) / len(pairs)


@compiled()
def _count_beyond(share, first, second, offset, limits, below, above):
    """Adds the pairs whose ratio, with the offset, lies below and not below the limits."""
    low, high = limits
    for pair in range(len(first)):
        one, other = share[first[pair]], share[second[pair]]
        for gene in range(len(above)):
            ratio = (one[gene] + offset) / (other[gene] + offset)
            below[gene] += ratio < low
            above[gene] += ratio >= high


def described(pairs: Pairs, offset: float) -> dict[str, Float[np.ndarray, " gene"]]:
    """Mean, median, standard deviation, minimum and maximum of the log2 fold changes of each gene."""
    n_genes = pairs.share.shape[1]
    parts = [_described(replace(pairs, share=pairs.share[:, i : i + GENES]), offset) for i in range(0, n_genes, GENES)]
    return {f"lfc_{name}": np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _described(pairs: Pairs, offset: float) -> dict[str, Float[np.ndarray, " gene"]]:
    """Of a few genes, whose fold changes are turned so that those of a gene lie side by side."""
    change = np.empty((pairs.share.shape[1], len(pairs)), np.float32)
    for place, ratio in pairs.ratios(offset):
        torch.from_numpy(change[:, place]).copy_(torch.from_numpy(ratio).log2_().t())
    size = max(1, ELEMENTS // len(pairs))
    parts = [_statistics(change[i : i + size]) for i in range(0, len(change), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _statistics(change: Float[np.ndarray, "gene pair"]) -> dict[str, Float[np.ndarray, " gene"]]:
    """Of each row; leaves the rows in another order."""
    half, even = change.shape[1] // 2, change.shape[1] % 2 == 0
    mean = change.mean(1)
    found = {"std": np.sqrt(np.square(change - mean[:, None]).mean(1)), "min": change.min(1), "max": change.max(1)}
    change.partition(half, axis=1)  # one place: asking numpy for both middle ones is five times slower
    middle = change[:, half]
    return {"mean": mean, "median": (middle + change[:, :half].max(1)) / 2 if even else middle.copy(), **found}


def mean_share(share: Float[np.ndarray, "draw gene"]) -> Float[np.ndarray, " gene"]:
    return np.full(len(share), 1 / len(share), np.float32) @ share


def estimated_offset(share: Float[np.ndarray, "draw gene"], silent: Bool[np.ndarray, " gene"]) -> float:
    """Pseudocount from the genes that were not seen in a group: their largest shares say what the model makes up."""
    if not silent.any():
        return SMALLEST_OFFSET
    return max(SMALLEST_OFFSET, float(np.quantile(share.max(0)[silent], OFFSET_QUANTILE)) / share.shape[1])


def estimated_delta(pairs: Pairs, offset: float) -> float:
    """0.6 of the distance of the outer two of three Gaussians of mean fold changes from zero, at least 0.1."""
    from sklearn.mixture import GaussianMixture

    change = np.zeros(pairs.share.shape[1])
    for _, ratio in pairs.ratios(offset):
        change += torch.from_numpy(ratio).log2_().sum(0).numpy() / len(pairs)
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
    return np.add.reduce(flags.view(np.uint8), axis=0, dtype=np.uint8).astype(np.int64)
