"""An MLP of every cell with every level gives what the MLP of all pairs as rows gives, gradients and statistics too."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scduet.nn import cpu_enumerated
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
    found = torch.stack(each_level(mlp, tuple(heads), x, N_LEVELS))
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


@pytest.mark.parametrize("one", [True, False])
def test_the_compiled_passes_equal_those_of_whole_matrices(one):
    torch.manual_seed(0)
    product, shift, scale = torch.randn(1 if one else N_LEVELS, N_CELLS, 16), torch.randn(N_LEVELS, 16), torch.rand(16)
    moved = torch.var_mean(product + shift[:, None], (0, 1), correction=0)[::-1]
    torch.testing.assert_close(cpu_enumerated.moments(product, shift), moved)
    hidden = cpu_enumerated.units(product, scale, shift, 0.0)
    torch.testing.assert_close(hidden, F.relu(product * scale + shift[:, None]))
    slopes, factors = torch.randn_like(hidden), tuple(torch.randn(3, 16))
    expected = slopes * (hidden > 0)
    of_all = expected.sum((0, 1)), (expected * (product + shift[:, None])).sum((0, 1))
    torch.testing.assert_close(cpu_enumerated.cleared(slopes, hidden, product, shift), of_all, rtol=1e-5, atol=1e-4)
    assert torch.equal(slopes, expected)
    each = slopes * factors[0] + factors[1] + (product + shift[:, None]) * factors[2]
    by_pair = each.sum(1), each.sum(0, keepdim=True) if one else each
    found = cpu_enumerated.passed_back(slopes, product, shift, factors)
    torch.testing.assert_close(found, by_pair, rtol=1e-5, atol=1e-5)


def test_numbers_that_are_none_are_not_hidden():
    hidden = cpu_enumerated.units(torch.full((1, 2, 4), torch.nan), torch.ones(4), torch.zeros(3, 4), 0.0)
    assert hidden.isnan().all()


def test_dropout_keeps_its_share_and_the_mean():
    torch.manual_seed(0)
    draws = [cpu_enumerated.units(torch.ones(1, 1000, 333), torch.ones(333), torch.zeros(1, 333), 0.1)[0] for _ in "ab"]
    for kept in draws:
        assert set(kept.unique().tolist()) == {0.0, 1.0}
        assert float(kept.mean()) == pytest.approx(0.9, abs=0.003)
        assert float((kept[:, 1:] * kept[:, :-1]).mean()) == pytest.approx(0.81, abs=0.003)  # neighbours know nothing
        assert kept.mean(0).std() < 0.02 > kept.mean(1).std()
    assert float((draws[0] * draws[1]).mean()) == pytest.approx(0.81, abs=0.003)  # nor do draws
    mlp = MLP(N_IN, 4000, 1, levels=(2,), dropout=0.3, batch_norm=False).train()
    head, x = nn.Linear(4000, 1), torch.ones(1, 1, N_IN)
    dropped = torch.stack([each_level(mlp, (head, head), x, 2)[0] for _ in range(1000)]).mean(0)
    whole = head(F.relu(mlp.linear[0](x[0].expand(2, -1), [torch.arange(2)])))
    torch.testing.assert_close(dropped[:, 0], whole, rtol=0, atol=0.03)
