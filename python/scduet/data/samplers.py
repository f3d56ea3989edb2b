"""Orders in which cells are visited, and how cells are set aside for validation."""

from __future__ import annotations

import math

import numpy as np


def sequential(n_cells: int) -> np.ndarray:
    """As they are stored."""
    return np.arange(n_cells)


def shuffled(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """`rows` in an order of their own for each epoch; the same for the same seed, wherever training starts."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def split(n_cells: int, train_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out; the rule, and so the cells for a seed, are those of scvi-tools."""
    n_train = math.ceil(train_size * n_cells)
    order = np.random.RandomState(seed).permutation(n_cells)
    n_held_out = n_cells - n_train
    return order[n_held_out:], order[:n_held_out]


def boundaries(n_cells: int, size: int) -> np.ndarray:
    """Where minibatches of `size` start and end; a rest of one or two cells joins the last (batch norm needs more)."""
    edges = np.append(np.arange(0, n_cells, size), n_cells)
    return np.delete(edges, -2) if len(edges) > 2 and edges[-1] - edges[-2] <= 2 else edges


def repeated(rows: np.ndarray, n: int, draw: np.random.Generator) -> np.ndarray:
    """`n` of `rows`, each as often as any other (give or take one), shuffled anew in each round."""
    return np.concatenate([draw.permutation(rows) for _ in range(math.ceil(n / len(rows)))])[:n]
