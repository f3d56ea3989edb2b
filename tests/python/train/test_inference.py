"""A function of every cell comes out in order, and with less memory in smaller minibatches."""

import re

import pytest
import torch
from named import named

from scduet.data.schema import Fields, Schema
from scduet.errors import ScduetWarning
from scduet.train.inference import each


@pytest.fixture
def cells(counts):
    return Schema.learn(counts, Fields()).encode(counts)


def out_of_memory_above(n, sizes):
    def function(batch):
        if len(batch) > n:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(batch))
        return batch.index

    return function


def test_too_little_memory_halves_the_minibatch_and_says_so(cells):
    sizes = []
    with pytest.warns(ScduetWarning, match=named("GPU")) as told:
        index = torch.cat(list(each(out_of_memory_above(40, sizes), cells, 128, torch.device("cpu"))))
    assert index.tolist() == list(range(200))
    assert max(sizes) == 32
    assert [re.findall(r"\d+", str(warning.message)) for warning in told] == [["64"], ["32"]]


def test_memory_that_runs_out_on_the_way_repeats_no_cell(cells):
    left = [3]  # minibatches until memory runs out

    def function(batch):
        left[0] -= 1
        if left[0] < 0 and len(batch) > 20:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return batch.index

    with pytest.warns(ScduetWarning, match=named(20)):
        index = torch.cat(list(each(function, cells, 40, torch.device("cpu"))))
    assert index.tolist() == list(range(200))


@pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")
def test_one_cell_that_is_too_much_is_an_error(cells):
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(each(out_of_memory_above(0, []), cells, 4, torch.device("cpu")))
