"""Orders in which cells are visited, how they are shared among processes, and which are set aside for validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Shard:
    """The part of the cells that one of several processes takes."""

    rank: int = 0
    world_size: int = 1


def sequential(n_cells: int) -> np.ndarray:
    """As they are stored."""
    return np.arange(n_cells)


def shuffled(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """`rows` in an order of their own for each epoch; the same for the same seed, wherever training starts."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def shuffled_blocks(rows: np.ndarray, block: int, seed: int, epoch: int) -> np.ndarray:
    """`rows` with whole blocks of `block` neighbors shuffled, for rows that are read together from a file."""
    rows = np.sort(rows)
    blocks = np.split(rows, np.arange(block, len(rows), block))
    order = np.random.default_rng((seed, epoch)).permutation(len(blocks))
    return np.concatenate([blocks[i] for i in order])


def shuffled_within(order: np.ndarray, edges: Sequence[int] | np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """`order` with the stretch between each two `edges` shuffled by itself: these rows are in memory together."""
    random = np.random.default_rng((seed, epoch, 1))
    return np.concatenate([order[:0], *(random.permutation(order[start:end]) for start, end in pairwise(edges))])


def shared(order: np.ndarray, shard: Shard, together: bool = False) -> np.ndarray:
    """The rows of one process: each row goes to one of them. `together`: a stretch of `order`, not every n-th row."""
    if not together:
        return order[shard.rank :: shard.world_size]
    return order[len(order) * shard.rank // shard.world_size : len(order) * (shard.rank + 1) // shard.world_size]


def split(n_cells: int, train_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out; the rule, and so the cells for a seed, are those of scvi-tools."""
    n_train = math.ceil(train_size * n_cells)
    order = np.random.RandomState(seed).permutation(n_cells)
    n_held_out = n_cells - n_train
    return order[n_held_out:], order[:n_held_out]


def boundaries(n_cells: int, size: int, least: int = 2) -> np.ndarray:
    """Where minibatches of `size` start and end; a rest of `least` cells or fewer joins the last.

    Batch norm needs more than one cell, in each of the processes that share a minibatch.
    """
    edges = np.append(np.arange(0, n_cells, size), n_cells)
    return np.delete(edges, -2) if len(edges) > 2 and edges[-1] - edges[-2] <= least else edges


def shared_boundaries(n_cells: int, total: int, size: int, shard: Shard) -> np.ndarray:
    """Where the minibatches of one process, with `n_cells` of the `total`, start and end.

    The processes share each minibatch of `size`, so all take the same number of steps however unequal their cells.
    """
    edges = boundaries(total, size, 2 * shard.world_size)
    return edges if shard.world_size == 1 else np.arange(len(edges)) * n_cells // (len(edges) - 1)


def stratified(
    rows: np.ndarray, stratum: np.ndarray, size: int, draw: np.random.Generator, shard: Shard
) -> tuple[np.ndarray, np.ndarray]:
    """An order of `rows` in which each minibatch holds equal numbers of each stratum, one after the other.

    stratum: code of the stratum of each row. The largest stratum is visited once in an epoch, the smaller ones are
    cycled through. Minibatches have `size` rows, or a few less so that the numbers are equal; each of several processes
    takes its share of each stratum. Returns the order, and the edges of the minibatches.
    """
    groups = [rows[stratum == code] for code in np.unique(stratum)]
    each = max(1, size // (len(groups) * shard.world_size))
    n = math.ceil(max(map(len, groups)) / (each * shard.world_size))
    mine = [group[shard.rank :: shard.world_size] if len(group) >= shard.world_size else group for group in groups]
    order = np.hstack([repeated(group, n * each, draw).reshape(n, each) for group in mine]).ravel()
    return order, np.arange(n + 1) * (each * len(groups))


def repeated(rows: np.ndarray, n: int, draw: np.random.Generator) -> np.ndarray:
    """`n` of `rows`, each as often as any other (give or take one), shuffled anew in each round."""
    return np.concatenate([draw.permutation(rows) for _ in range(math.ceil(n / len(rows)))])[:n]


def evenly_spaced(n_cells: int, most: int) -> np.ndarray:
    """At most `most` of the cells, evenly spaced, in their order."""
    return np.unique(np.linspace(0, n_cells - 1, min(n_cells, most)).astype(int))
