"""A function of every cell comes out in order, and with less memory in smaller minibatches."""

import re

import pytest
import torch
from named import named

from scduet.data.inference import each, in_order
from scduet.data.schema import Fields, Schema
from scduet.errors import DeviceError, ScduetWarning


@pytest.fixture
def cells(counts):
    return Schema.learn(counts, Fields()).encode(counts)


def indices(function, cells, size):
    """The results of `function`, joined, and the cells that they are said to be of."""
    found = list(each(function, in_order(cells), len(cells), size, torch.device("cpu")))
    return torch.cat([result for _, result in found]).tolist(), torch.cat([index for index, _ in found]).tolist()


def out_of_memory_above(n, sizes):
    def function(batch):
        if len(batch) > n:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(batch))
        return batch.index

    return function


def test_too_little_memory_halves_the_minibatch_and_says_so(cells):
    sizes = []
    with pytest.warns(ScduetWarning, match=named("cpu")) as told:
        assert indices(out_of_memory_above(40, sizes), cells, 128) == (list(range(200)), list(range(200)))
    assert max(sizes) == 32
    assert [re.findall(r"\d+", str(warning.message)) for warning in told] == [["128"], ["64"]]


def test_memory_that_runs_out_on_the_way_repeats_no_cell(cells):
    left = [3]  # minibatches until memory runs out

    def function(batch):
        left[0] -= 1
        if left[0] < 0 and len(batch) > 20:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return batch.index

    with pytest.warns(ScduetWarning, match=named(40)):
        assert indices(function, cells, 40) == (list(range(200)), list(range(200)))


@pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")
def test_one_cell_that_is_too_much_is_an_error(cells):
    with pytest.raises(DeviceError, match=named("cpu", cells.counts.n_genes)):
        indices(out_of_memory_above(0, []), cells, 4)


def test_progress_counts_the_cells(cells):
    seen = []
    found = each(len, in_order(cells), 200, 64, torch.device("cpu"), lambda *told: seen.append(told))
    assert [n for _, n in found] == [64, 64, 64, 8]
    assert [event[:2] for event in seen] == [(64, 200), (128, 200), (192, 200), (200, 200)]
    assert seen[-1][2] == 0
