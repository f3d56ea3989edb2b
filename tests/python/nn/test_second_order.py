"""A gradient of a gradient is right or an error, never silently wrong."""

import pytest
import torch
from torch import nn

from scduet.contract import SparseRows
from scduet.nn import sparse_likelihoods
from scduet.nn.gaussians import draw, log_density
from scduet.nn.layers import MLP
from scduet.nn.second_order import uncompiled


def penalty(function, x):
    """The gradient penalty of WGAN-GP at x."""
    x = x.requires_grad_(True)
    (slope,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    return (slope.norm(2, 1) - 1).square().mean()


def critic():
    torch.manual_seed(0)
    return nn.Sequential(MLP(5, 8, 2), nn.Linear(8, 1))


def test_a_penalty_outside_of_plain_layers_is_an_error():
    with pytest.raises(RuntimeError, match="uncompiled"):
        penalty(critic(), torch.randn(20, 5)).backward()


def test_a_penalty_inside_of_plain_layers_is_that_of_finite_differences():
    model, x = critic(), torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    weight = model[0].linear[0].weight
    with uncompiled():
        penalty(model, x.clone()).backward()
        found, step = weight.grad[2, 3].item(), 1e-3
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[2, 3] += sign * step
            values.append(penalty(model, x.clone()).item())
            with torch.no_grad():
                weight[2, 3] -= sign * step
    assert found == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.05)
    assert abs(found) > 1e-3


def test_plain_layers_give_the_numbers_of_compiled_ones():
    x = torch.randn(20, 5)
    with uncompiled():
        plain = critic()(x)
    torch.testing.assert_close(critic()(x), plain, rtol=1e-5, atol=1e-6)


def rows(x):
    sparse = x.to_sparse_csr()
    return SparseRows(sparse.values(), sparse.col_indices(), sparse.crow_indices(), tuple(x.shape))


COUNTS = torch.poisson(torch.full((4, 6), 2.0), generator=torch.Generator().manual_seed(0))
COMPILED = {
    "draw": lambda x: draw(x)[0],
    "density": lambda x: log_density(torch.zeros(4, 3), x[None]),
    "poisson": lambda x: sparse_likelihoods.poisson(rows(COUNTS), x, torch.zeros(4, 1)),
    "nb": lambda x: sparse_likelihoods.negative_binomial(rows(COUNTS), x, torch.zeros(4, 1), torch.zeros(6)),
    "zinb": lambda x: sparse_likelihoods.zero_inflated_negative_binomial(
        rows(COUNTS), x, torch.zeros(4, 1), torch.zeros(6), torch.zeros(4, 6)
    ),
}


@pytest.mark.parametrize("name", COMPILED)
def test_functions_with_slopes_of_our_own_refuse(name):
    with pytest.raises(RuntimeError, match="uncompiled"):
        penalty(lambda x: COMPILED[name](x), torch.randn(4, 6)).backward()
