"""An MLP of every cell with every level gives what the MLP of all pairs as rows gives, gradients and statistics too."""

import copy
import itertools

import pytest
import torch
from torch import nn

from scduet.nn.enumerated import each_level
from scduet.nn.layers import MLP

N_LEVELS, N_CELLS, N_IN, N_OUT = 5, 24, 3, 2
CASES = itertools.product((True, False), (1, N_LEVELS), (True, False), (1, 2), (True, False))


@pytest.mark.parametrize(("training", "apart", "batch_norm", "n_layers", "layer_norm"), CASES)
def test_equals_all_pairs_as_rows(training, apart, batch_norm, n_layers, layer_norm):
    torch.manual_seed(0)
    mlp = MLP(N_IN, 16, n_layers, levels=(N_LEVELS,), batch_norm=batch_norm, layer_norm=layer_norm).train(training)
    for norm in mlp.norm:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    heads = nn.ModuleList([nn.Linear(16, N_OUT), nn.Linear(16, N_OUT)])
    other, other_heads = copy.deepcopy((mlp, heads))
    x = torch.randn(apart, N_CELLS, N_IN, requires_grad=True)
    found = torch.stack(each_level(mlp, tuple(heads), x, N_LEVELS).chunk(2, -1))
    x2, code = x.detach().clone().requires_grad_(), torch.arange(N_LEVELS).repeat_interleave(N_CELLS)
    hidden = other(x2.expand(N_LEVELS, -1, -1).flatten(0, 1), [code])
    expected = torch.stack([head(hidden).view(N_LEVELS, N_CELLS, N_OUT) for head in other_heads])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    slope = torch.randn_like(found)
    (found * slope).sum().backward(), (expected * slope).sum().backward()
    torch.testing.assert_close(x.grad, x2.grad, rtol=1e-3, atol=1e-4)
    pairs = zip([mlp, heads], [other, other_heads], strict=True)
    weights = [p for one, two in pairs for p in zip(one.parameters(), two.parameters(), strict=True)]
    for mine, theirs in weights:
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    for mine, theirs in zip(mlp.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
