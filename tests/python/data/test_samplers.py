"""Orders hold each row once, for every number of processes, and all processes take the same number of steps."""

import numpy as np
import pytest

from scduet.data.samplers import (
    Shard,
    boundaries,
    shared,
    shared_boundaries,
    shuffled,
    shuffled_blocks,
    shuffled_within,
    split,
)


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


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("of", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [97, 128, 1000, 1027])
def test_processes_share_every_row_and_every_step(n, of, together):
    order = shuffled(np.arange(n), 0, 0)
    parts = [shared(order, Shard(number, of), together) for number in range(of)]
    assert sorted(np.concatenate(parts)) == list(range(n))
    edges = [shared_boundaries(len(part), n, 64, Shard(number, of)) for number, part in enumerate(parts)]
    assert len({len(e) for e in edges}) == 1
    for part, edge in zip(parts, edges, strict=True):
        assert (edge[0], edge[-1]) == (0, len(part))
        assert np.diff(edge).min() >= 2  # batch norm needs more than one cell


def test_blocks_move_as_one():
    order = shuffled_blocks(np.random.default_rng(0).permutation(100), 10, seed=0, epoch=0)
    assert sorted(order) == list(range(100))
    tens = order.reshape(10, 10)
    assert (np.diff(tens, axis=1) == 1).all()
    assert (tens[:, 0] != np.arange(0, 100, 10)).any()


def test_pools_are_shuffled_by_themselves():
    order = shuffled_within(np.arange(100), [0, 40, 100], seed=0, epoch=0)
    assert sorted(order[:40]) == list(range(40))
    assert sorted(order[40:]) == list(range(40, 100))
    assert (order != np.arange(100)).mean() > 0.9
