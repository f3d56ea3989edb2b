"""Layers: covariates by table equal one-hot products; norms, one-cell minibatches, KL and draws."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from scduet.contract import SparseRows
from scduet.nn.layers import MLP, CovariateLinear, kl_to_normal, rsample


def test_a_table_equals_a_one_hot_product():
    layer, x = CovariateLinear(5, 4, levels=(3, 1, 2)), torch.randn(7, 5)
    codes = [torch.randint(n, (7,)) for n in (3, 1, 2)]
    weight = torch.cat([layer.weight, layer.covariate["0"].T, layer.covariate["2"].T], 1)
    joined = torch.cat([x, F.one_hot(codes[0], 3), F.one_hot(codes[2], 2)], 1)
    torch.testing.assert_close(layer(x, codes), F.linear(joined, weight, layer.bias))


def test_a_covariate_of_one_level_has_no_weights():
    assert list(CovariateLinear(5, 4, levels=(1, 3)).covariate) == ["1"]


@pytest.mark.parametrize("inject", [True, False])
def test_covariates_enter_the_first_layer_or_all(inject):
    mlp = MLP(5, 4, 3, levels=(2,), inject=inject)
    assert [bool(layer.covariate) for layer in mlp.linear] == [True, inject, inject]


@pytest.mark.parametrize(("batch_norm", "layer_norm"), [(True, False), (False, True), (True, True), (False, False)])
def test_norms_by_option(batch_norm, layer_norm):
    mlp, x = MLP(5, 4, 1, batch_norm=batch_norm, layer_norm=layer_norm), torch.randn(50, 5)
    out = F.linear(x, mlp.linear[0].weight, mlp.linear[0].bias)
    if batch_norm:
        out = (out - out.mean(0)) / (out.var(0, correction=0) + 1e-3).sqrt()
    if layer_norm:
        out = F.layer_norm(out, (4,))
    torch.testing.assert_close(mlp(x), out.relu())


def test_one_cell_is_normalized_as_in_evaluation_and_leaves_no_trace():
    mlp, x = MLP(5, 4, 2), torch.randn(1, 5)
    mlp(torch.randn(30, 5))
    before = {name: value.clone() for name, value in mlp.state_dict().items()}
    trained = mlp(x)
    torch.testing.assert_close(trained, mlp.eval()(x))
    torch.testing.assert_close(mlp.state_dict(), before)


def test_kl_divergence():
    mean, variance, prior_variance = torch.randn(6, 3), torch.rand(6, 3) + 0.1, torch.rand(6, 1) + 0.1
    q = Normal(mean, variance.sqrt())
    torch.testing.assert_close(kl_to_normal(mean, variance), kl_divergence(q, Normal(0.0, 1.0)).sum(-1))
    prior = Normal(torch.ones(6, 1), prior_variance.sqrt())
    expected = kl_divergence(q, prior).sum(-1)
    torch.testing.assert_close(kl_to_normal(mean, variance, (torch.ones(6, 1), prior_variance)), expected)


def test_draws_have_the_moments_asked_for():
    torch.manual_seed(0)
    draw = rsample(torch.full((200_000,), 3.0), torch.full((200_000,), 4.0))
    assert float(draw.mean()) == pytest.approx(3, abs=0.02)
    assert float(draw.var()) == pytest.approx(4, abs=0.06)


def sparse_and_written_out():
    torch.manual_seed(0)
    x = torch.rand(20, 40) * (torch.rand(20, 40) < 0.2)
    x[0] = 0
    row, column = x.nonzero(as_tuple=True)
    return SparseRows(x[row, column], column, torch.searchsorted(row, torch.arange(21)), (20, 40)), x


@pytest.mark.parametrize("gradients", [True, False])
def test_sparse_rows_give_what_they_give_written_out(gradients):
    rows, x = sparse_and_written_out()
    layer, code = CovariateLinear(40, 5, levels=(3,)).eval(), torch.arange(20) % 3
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(layer(rows, [code]), layer(x, [code]))
        assert layer(rows, [code]).requires_grad == gradients


def test_sparse_rows_follow_every_change_of_the_weight():
    rows, x = sparse_and_written_out()
    layer, other = CovariateLinear(40, 5).eval(), CovariateLinear(40, 5)
    changes = [
        lambda: layer.load_state_dict(other.state_dict()),
        lambda: layer.weight.mul_(2),
        lambda: setattr(layer, "weight", torch.nn.Parameter(layer.weight + 1)),
        lambda: layer.double() and layer.float(),
    ]
    with torch.no_grad():
        for change in [lambda: None, *changes]:
            change()
            torch.testing.assert_close(layer(rows), layer(x))
