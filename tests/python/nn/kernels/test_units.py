"""The compiled passes over hidden units give what torch's batch normalization, ReLU and dropout give."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scduet.nn.kernels import units
from scduet.nn.kernels.units import can_compile
from scduet.nn.layers import MLP

N_CELLS, WIDTH = 70, 24


def normalized_units(x, norm, rate):
    return units.normalized_units(x, None, norm, rate)


@pytest.fixture
def norm():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(WIDTH, momentum=0.01, eps=0.001)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


@pytest.mark.parametrize("n_cells", [2, 32, N_CELLS])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("center", [0, 1000])
def test_equals_torch(norm, n_cells, turned, center):
    theirs = copy.deepcopy(norm).double()
    x = torch.randn(WIDTH, n_cells).t() if turned else torch.randn(n_cells, WIDTH)
    x = (x + center).requires_grad_()
    x2 = x.detach().double().requires_grad_()
    found, expected = normalized_units(x, norm, 0.0), F.relu(theirs(x2))
    apart = 1e-5 * (1 + center / 3)  # so far from zero float32 keeps fewer digits
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=apart)
    slope = torch.randn_like(found)
    found.backward(slope), expected.backward(slope.double())
    torch.testing.assert_close(x.grad.double(), x2.grad, rtol=1e-3, atol=apart)
    for mine, other in zip(norm.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-4, atol=10 * apart)
    for mine, other in zip(norm.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other.to(mine), rtol=1e-5, atol=1e-6)


def test_dropped_units_pass_no_gradient_and_kept_ones_are_raised(norm):
    x = torch.randn(N_CELLS, WIDTH, requires_grad=True)
    whole = normalized_units(x, norm, 0.0).detach()
    found = normalized_units(x, norm, 0.3)
    kept = (found > 0).float()
    torch.testing.assert_close(found, whole * kept / 0.7)
    slope = torch.randn_like(found)
    found.backward(slope)
    mine, x2 = x.grad, x.detach().clone().requires_grad_()
    (F.relu(norm(x2)) * kept / 0.7).backward(slope)
    torch.testing.assert_close(mine, x2.grad, rtol=1e-4, atol=1e-5)


def test_dropout_keeps_its_share_and_neighbors_know_nothing_of_each_other():
    norm = nn.BatchNorm1d(333)
    nn.init.zeros_(norm.weight), nn.init.ones_(norm.bias)  # every unit is one
    torch.manual_seed(0)
    draws = [normalized_units(torch.randn(1000, 333), norm, 0.1).detach() * 0.9 for _ in "ab"]
    for kept in draws:
        np.testing.assert_allclose(kept.unique(), [0, 1], atol=1e-6)
        assert float(kept.mean()) == pytest.approx(0.9, abs=0.003)
        assert float((kept[:, 1:] * kept[:, :-1]).mean()) == pytest.approx(0.81, abs=0.003)
        assert float((kept[1:] * kept[:-1]).mean()) == pytest.approx(0.81, abs=0.003)
        assert kept.mean(0).std() < 0.02 > kept.mean(1).std()
    assert float((draws[0] * draws[1]).mean()) == pytest.approx(0.81, abs=0.003)  # nor do draws
    torch.manual_seed(0)
    assert torch.equal(normalized_units(torch.randn(1000, 333), norm, 0.1).detach() * 0.9, draws[0])


def test_numbers_that_are_none_are_not_hidden(norm):
    x = torch.randn(N_CELLS, WIDTH)
    x[3, 5] = torch.nan
    assert normalized_units(x, norm, 0.0)[:, 5].isnan().all()


def test_what_is_not_float32_on_a_cpu_in_training_goes_torchs_way(norm):
    x = torch.randn(N_CELLS, WIDTH)
    assert can_compile(x, norm)
    assert not can_compile(x.double(), norm.double())
    assert not can_compile(x, norm.float().eval())
    mlp = MLP(WIDTH, 8, 2, dropout=0.2).double().train()
    assert mlp(x.double()).dtype == torch.float64
