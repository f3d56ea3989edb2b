"""The lean Adam is torch's, to the bit."""

import copy
import pickle

import pytest
import torch
from torch import nn

from scduet.nn.adam import Adam

OPTIONS = {"lr": 0.01, "weight_decay": 1e-3, "eps": 0.01}


def trained(make, gradients):
    """A layer after the steps in `gradients` (None: the bias has none), and its optimizer."""
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    optimizer = make(layer)
    for factor in gradients:
        optimizer.zero_grad()
        moved = layer.weight.pow(3) if factor is None else (factor * (layer.weight.sum() + layer.bias)).pow(2)
        moved.sum().backward()
        optimizer.step()
    return layer, optimizer


def theirs(layer):
    return torch.optim.Adam(layer.parameters(), fused=True, **OPTIONS)


def ours(layer):
    return Adam(layer.parameters(), **OPTIONS)


def same(layer, other):
    return all(torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True))


def test_its_steps_are_torchs_with_and_without_a_gradient_for_every_weight():
    gradients = [0.5, 1.0, -2.0, None, None, 0.3, 0.1, 2.0]
    (mine, optimizer), (other, reference) = trained(ours, gradients), trained(theirs, gradients)
    assert same(mine, other)
    for state, expected in zip(*(o.state_dict()["state"].values() for o in (optimizer, reference)), strict=True):
        assert all(torch.equal(state[name], value) for name, value in expected.items())


def read(layer, optimizer):
    kept = copy.deepcopy(optimizer.state_dict())
    optimizer = ours(layer)
    optimizer.load_state_dict(kept)
    return layer, optimizer


def sent(layer, optimizer):
    return pickle.loads(pickle.dumps((layer, optimizer)))


@pytest.mark.parametrize("way", [read, sent])
def test_a_state_that_is_read_or_sent_to_a_process_goes_on_as_it_was(way):
    whole, _ = trained(ours, [0.5, 1.0, -2.0, 0.7, 0.2])
    layer, optimizer = way(*trained(ours, [0.5, 1.0, -2.0]))
    for factor in (0.7, 0.2):
        optimizer.zero_grad()
        (factor * (layer.weight.sum() + layer.bias)).pow(2).sum().backward()
        optimizer.step()
    assert same(layer, whole)


def test_weights_get_the_rate_of_the_day():
    layer, optimizer = trained(ours, [1.0, 1.0])
    before = layer.weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    layer.weight.sum().backward()
    layer.bias.sum().backward()
    optimizer.step()
    assert torch.equal(layer.weight, before)
