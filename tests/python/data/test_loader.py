"""Minibatches hold the right cells, in the right order, sparse, each cell once."""

import numpy as np
import pytest

from scduet.data.loader import minibatches
from scduet.data.schema import Fields, Schema
from scduet.data.sources import MemorySource


@pytest.fixture
def cells(counts):
    fields = Fields(
        batch_key="batch",
        labels_key="cell_type",
        categorical_covariate_keys=("site",),
        continuous_covariate_keys=("age",),
        size_factor_key="size",
    )
    return Schema.learn(counts, fields).encode(counts)


@pytest.mark.parametrize("at_once", [1, 2_000_000])  # fetch one minibatch at a time, or all
def test_minibatches_hold_the_cells_asked_for(cells, counts, monkeypatch, at_once):
    monkeypatch.setattr(MemorySource, "entries_at_once", at_once)
    order = np.random.default_rng(0).permutation(200)[:130]
    batches = list(minibatches(cells, order, 32))
    assert [len(batch) for batch in batches] == [32, 32, 32, 34]
    assert np.concatenate([batch.index for batch in batches]).tolist() == order.tolist()
    for batch in batches:
        assert (batch.x.dense().numpy() == counts.X[batch.index.numpy()].toarray()).all()
        assert (batch.x.sum().numpy() == counts.X[batch.index.numpy()].toarray().sum(1)).all()
        assert (batch.batch.numpy() == cells.batch[batch.index]).all()
        assert (batch.label.numpy() == cells.label[batch.index]).all()
        assert (batch.covariates.categorical.numpy() == cells.categorical[batch.index]).all()
        assert (batch.covariates.continuous.numpy() == cells.continuous[batch.index]).all()
        assert (batch.covariates.size_factor.numpy() == cells.size_factor[batch.index]).all()


def test_an_error_while_reading_ahead_reaches_the_caller(cells, monkeypatch):
    monkeypatch.setattr(MemorySource, "entries_at_once", 1)
    plain = MemorySource.rows
    monkeypatch.setattr(MemorySource, "rows", lambda self, index: plain(self, index) if 150 not in index else 1 / 0)
    batches = minibatches(cells, np.arange(200), 32)
    assert len([next(batches) for _ in range(4)]) == 4
    with pytest.raises(ZeroDivisionError):
        list(batches)
