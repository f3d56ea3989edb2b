"""Minibatches hold the right cells, in the right order, sparse, each cell once."""

import numpy as np
import pytest

from scduet.data import loader
from scduet.data.loader import minibatches
from scduet.data.samplers import boundaries, shuffled, split
from scduet.data.schema import Fields, Schema


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
    monkeypatch.setattr(loader, "ENTRIES_AT_ONCE", at_once)
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


@pytest.mark.parametrize(("n", "sizes"), [(10, [4, 6]), (9, [4, 5]), (11, [4, 4, 3]), (8, [4, 4]), (1, [1]), (2, [2])])
def test_a_rest_of_one_or_two_joins_the_last_minibatch(n, sizes):
    assert np.diff(boundaries(n, 4)).tolist() == sizes


def test_split_and_shuffles_are_whole_and_repeatable():
    train, held_out = split(1001, 0.9, seed=3)
    assert len(train) == 901
    assert sorted([*train, *held_out]) == list(range(1001))
    assert (shuffled(train, 1, 5) == shuffled(train, 1, 5)).all()
    assert (shuffled(train, 1, 5) != shuffled(train, 1, 6)).any()
    assert sorted(shuffled(train, 1, 5)) == sorted(train)
