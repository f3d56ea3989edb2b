"""What pairs of draws say of each gene: how surely its expression differs, and by how much.

The draws are many times what a processor's cache holds, so each question is one pass over them (`nn.kernels.pairs`).
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from scduet.metrics.core.threads import thread_map
from scduet.nn.kernels.pairs import count_ratios, put_ratios, sum_and_largest

MIN_OFFSET, OFFSET_QUANTILE = 1e-10, 0.9  # of pseudocounts, as in scvi-tools
EPS = 1e-8
ELEMENTS = 1 << 18  # values looked at together: they stay in the processor's cache
GENES = 500  # at most, that are described together: bounds memory
STATISTICS = ("lfc_mean", "lfc_median", "lfc_std", "lfc_min", "lfc_max")


@dataclass(frozen=True)
class Pairs:
    """Draws that are compared two by two: rows of `share`."""

    share: Float[np.ndarray, "draw gene"]
    first: Int[np.ndarray, " pair"]
    second: Int[np.ndarray, " pair"]

    def __len__(self) -> int:
        return len(self.first)

    def by_threads(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """First and second draws of a part of the pairs for each thread."""
        parts = (np.array_split(side, torch.get_num_threads()) for side in (self.first, self.second))
        return list(zip(*parts, strict=True))


def probability_higher(pairs: Pairs) -> Float[np.ndarray, " gene"]:
    """Share of the pairs whose first draw is higher."""
    return _counted(pairs, 0.0, 1.0, 1.0)[1] / len(pairs)


def probability_changed(pairs: Pairs, offset: float, delta: float, test_mode: str) -> Float[np.ndarray, " gene"]:
    """Share of the pairs whose log2 fold change leaves [-delta, delta]; "three": to the likelier of the two sides."""
    down, up = _counted(pairs, offset, 2**-delta, 2**delta)
    return (up + down if test_mode == "two" else np.maximum(up, down)) / len(pairs)


def probability_shifted(pairs: Pairs, delta: float, test_mode: str) -> Float[np.ndarray, " gene"]:
    """The same for the difference of the two, which leaves [-delta, delta]."""
    down, up = _counted(pairs, 0.0, 1.0, 1.0, delta)
    return (up + down if test_mode == "two" else np.maximum(up, down)) / len(pairs)


def _counted(pairs: Pairs, offset: float, low: float, high: float, shift: float = 0.0) -> Int[np.ndarray, "2 gene"]:
    """Pairs in which the first is below `low` times the second and `shift` less, and above `high` times and more."""
    numbers = np.float32(offset), np.float32(low), np.float32(high), np.float32(shift)
    parts = pairs.by_threads()
    return np.sum(thread_map(lambda part: count_ratios(pairs.share, *part, *numbers), parts, len(parts)), axis=0)


def described(pairs: Pairs, offset: float) -> dict[str, Float[np.ndarray, " gene"]]:
    """Mean, median, standard deviation, minimum and maximum of the log2 fold changes of each gene."""
    n_genes, n_threads = pairs.share.shape[1], torch.get_num_threads()
    n_parts = min(n_genes, n_threads * -(-n_genes // (n_threads * GENES)))
    genes = np.array_split(np.arange(n_genes), n_parts)
    found = thread_map(
        partial(_described, pairs, offset), [(part[0], part[-1] + 1) for part in genes], torch.get_num_threads()
    )
    return dict(zip(STATISTICS, np.concatenate(found, axis=1), strict=True))


def _described(pairs: Pairs, offset: float, genes: tuple[int, int]) -> Float[np.ndarray, "5 gene"]:
    """The fold changes of each gene are put side by side."""
    change = np.empty((genes[1] - genes[0], len(pairs)), np.float32)
    put_ratios(pairs.share, pairs.first, pairs.second, genes[0], np.float32(offset), change)
    size = max(1, ELEMENTS // len(pairs))
    return np.concatenate([_statistics(change[i : i + size]) for i in range(0, len(change), size)], axis=1)


def _statistics(ratio: Float[np.ndarray, "gene pair"]) -> Float[np.ndarray, "5 gene"]:
    """Of the logarithms of each row, in the order of `STATISTICS`; leaves other numbers there."""
    n = ratio.shape[1]
    half, change = n // 2, np.log2(ratio, out=ratio)
    change.partition(half, axis=1)  # one place: asking numpy for both middle ones is five times slower
    median = (change[:, half] + (change[:, half] if n % 2 else change[:, :half].max(1))) / 2
    low, high, mean = change[:, : half + 1].min(1), change[:, half:].max(1), np.einsum("ij->i", change) / n
    change -= mean[:, None]
    return np.stack([mean, median, np.sqrt(np.einsum("ij,ij->i", change, change) / n), low, high])


def mean_and_largest(share: Float[np.ndarray, "draw gene"]) -> tuple[np.ndarray, np.ndarray]:
    """Of each gene."""
    parts = thread_map(sum_and_largest, np.array_split(share, torch.get_num_threads()), torch.get_num_threads())
    sums, largest = zip(*parts, strict=True)
    return np.sum(sums, axis=0) / len(share), np.max(largest, axis=0)


def estimated_offset(largest: Float[np.ndarray, " gene"], silent: Bool[np.ndarray, " gene"]) -> float:
    """Pseudocount from the genes that were not seen in a group: their largest shares say what the model makes up."""
    if not silent.any():
        return MIN_OFFSET
    return max(MIN_OFFSET, float(np.quantile(largest[silent], OFFSET_QUANTILE)) / len(largest))


def estimated_delta(pairs: Pairs, offset: float) -> float:
    """0.6 of the distance of the outer two of three Gaussians of mean fold changes from zero, at least 0.1."""
    from sklearn.mixture import GaussianMixture

    change = described(pairs, offset)["lfc_mean"]
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
