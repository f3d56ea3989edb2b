"""Cells of known kinds and batches, made anew for each test."""

from types import SimpleNamespace

import numpy as np
import pytest


def make_cells(n=600, n_labels=4, n_batches=3, shift=0.5, spread=2.0, dim=10, seed=0):
    """Gaussian cell types `spread` apart, batches shifted by `shift`; in `before` by four times as much."""
    rng = np.random.default_rng(seed)
    labels, batch = rng.integers(0, n_labels, n), rng.integers(0, n_batches, n)
    x = rng.normal(size=(n_labels, dim))[labels] * spread + rng.normal(size=(n, dim))
    move = rng.normal(size=(n_batches, dim))[batch] * shift
    return SimpleNamespace(x=x + move, before=x + 4 * move, labels=labels, batch=batch)


@pytest.fixture
def cells():
    return make_cells()


@pytest.fixture
def make():
    return make_cells
