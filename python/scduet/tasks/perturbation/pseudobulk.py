"""Means of perturbed cells beside controls of their own batches, and honest halves of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from scduet.tasks.perturbation.screen import Screen, means, sums

Halved = Float[np.ndarray, "pair gene"]


@dataclass(frozen=True)
class Pairs:
    """The pairs of context and perturbation that hold cells, with their means."""

    context: Int[np.ndarray, " pair"]
    target: Int[np.ndarray, " pair"]
    n: Int[np.ndarray, " pair"]
    observed: Float[np.ndarray, "pair gene"]  # of all cells: the truth
    trained: Float[np.ndarray, "pair gene"]  # without cells that escaped
    shares: sp.csr_matrix  # (pair, stratum) of its cells, a stratum being a batch of a context
    group: Int[np.ndarray, " cell"]  # pair of each cell, -1 for control


@dataclass(frozen=True)
class Controls:
    """Means of control cells, all or a half of them."""

    matched: Float[
        np.ndarray, "pair gene"
    ]  # (pair, gene): control cells in the batches of the pair, in the pair's shares
    of_context: Float[np.ndarray, "context gene"]
    n: Int[np.ndarray, " context"]


def pairs_of(screen: Screen) -> Pairs:
    n_targets, n_strata = len(screen.targets), len(screen.contexts) * len(screen.batches)
    code = np.where(screen.is_control, -1, screen.context * n_targets + screen.target)
    there, group = np.unique(code, return_inverse=True)
    group = group - int(there[0] == -1)
    there = there[there >= 0]
    observed = means(screen.values, group, len(there))
    kept = np.where(screen.escaped, -1, group)
    trained = means(screen.values, kept, len(there)) if screen.escaped.any() else observed
    size = np.bincount(group[group >= 0], minlength=len(there))
    if screen.escaped.any():  # where all cells escaped there is nothing better than them
        none = np.bincount(kept[kept >= 0], minlength=len(there)) == 0
        trained[none] = observed[none]
    cells = np.flatnonzero(group >= 0)
    strata = strata_of(screen)[cells]
    shares = sp.csr_matrix((1 / size[group[cells]], (group[cells], strata)), (len(there), n_strata))
    return Pairs(there // n_targets, there % n_targets, size, observed, trained, shares, group)


def strata_of(screen: Screen) -> Int[np.ndarray, " cell"]:
    return screen.context * len(screen.batches) + screen.batch


def controls_of(screen: Screen, pairs: Pairs, chosen: Bool[np.ndarray, " cell"] | None = None) -> Controls:
    """Means of the control cells, of those `chosen` only. A batch without any has those of its whole context."""
    use = screen.is_control if chosen is None else screen.is_control & chosen
    n_contexts = len(screen.contexts)
    total, size = sums(screen.values, np.where(use, strata_of(screen), -1), n_contexts * len(screen.batches))
    by_context = size.reshape(n_contexts, -1).sum(1)
    of_context = total.reshape(n_contexts, -1, total.shape[1]).sum(1) / np.maximum(by_context, 1)[:, None]
    filled = np.repeat(of_context, len(screen.batches), 0)
    stratum = np.where((size > 0)[:, None], total / np.maximum(size, 1)[:, None], filled)
    return Controls(np.asarray(pairs.shares @ stratum), of_context, by_context)


def half_of(group: Int[np.ndarray, " cell"], rng: np.random.Generator) -> Bool[np.ndarray, " cell"]:
    """A random half of each group; of a single cell none or it."""
    order = np.lexsort((rng.random(len(group)), group))
    place = np.empty(len(group), np.int64)
    start = np.r_[0, np.flatnonzero(np.diff(group[order])) + 1]
    size = np.diff(np.r_[start, len(group)])
    place[order] = np.arange(len(group)) - np.repeat(start, size)
    n = np.empty(len(group), np.int64)
    n[order] = np.repeat(size, size)
    odd = rng.random() < 0.5  # which half takes the odd cell
    return place < (n + odd) // 2


@dataclass(frozen=True)
class Split:
    """Controls in two halves, and the changes of two halves of the perturbed cells against one half of them each."""

    truth: Controls  # the truth is measured against these
    seen: Controls  # what predicts sees these
    halves: tuple[
        Float[np.ndarray, "pair gene"], Float[np.ndarray, "pair gene"]
    ]  # (pair, gene) changes that share no cell: how far the truth repeats itself
    held: Bool[np.ndarray, " cell"]  # the control cells that only the truth sees


def split_of(screen: Screen, pairs: Pairs, seed: int, shared: bool = False) -> Split:
    """One random split. shared: measure and predict against the same, all controls, as most papers do."""
    rng = np.random.default_rng(seed)
    key = np.where(screen.is_control, strata_of(screen), strata_of(screen).max() + 1 + pairs.group)
    return split_by(screen, pairs, half_of(key, rng), shared)


def split_by(screen: Screen, pairs: Pairs, half: Bool[np.ndarray, " cell"], shared: bool = False) -> Split:
    """The split into the cells of `half`, whose controls the truth is measured against, and the others."""
    sides = [controls_of(screen, pairs, half == side) for side in (True, False)]
    halves = [
        means(screen.values, np.where(half == side, pairs.group, -1), len(pairs.n)) - control.matched
        for side, control in zip((True, False), sides, strict=True)
    ]
    if shared:
        both = controls_of(screen, pairs)
        return Split(both, both, (halves[0], halves[1]), np.zeros(len(half), bool))
    return Split(sides[0], sides[1], (halves[0], halves[1]), screen.is_control & half)
