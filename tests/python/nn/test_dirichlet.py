"""Compiled draws from Dirichlet distributions: their distribution, their divergence, and gradients of both."""

import pytest
import torch
from scipy import stats
from torch.distributions import Dirichlet, kl_divergence
from torch.distributions.dirichlet import _Dirichlet_backward

from scduet.nn.dirichlet import draw

N_CELLS, N_GENES, PRIOR = 64, 50, 0.25


def concentrations(least=-2.5, most=2.0):
    """Of four parts, from 10^least to 10^most."""
    torch.manual_seed(0)
    return 10 ** (least + (most - least) * torch.rand(N_CELLS, N_GENES, 4))


def test_the_divergence_is_that_of_torch_in_float64():
    a = concentrations()
    expected = kl_divergence(Dirichlet(a.double()), Dirichlet(torch.full_like(a, PRIOR, dtype=torch.double)))
    torch.testing.assert_close(draw(a, PRIOR)[1].double(), expected.sum(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("span", [(-2.5, 2), (-0.5, 0.8), (0.8, 2)])
def test_gradients_at_the_same_draw_are_those_of_torch(span):
    a = concentrations(*span).requires_grad_()
    shares, divergence = draw(a, PRIOR)
    slopes, weight = torch.randn_like(shares), torch.rand(N_CELLS)
    (by_shares,) = torch.autograd.grad((shares * slopes).sum(), a, retain_graph=True)
    expected = _Dirichlet_backward(shares.detach().double(), a.detach().double(), slopes.double())
    apart = (by_shares - expected).abs() / (expected.abs() + 1e-3 * expected.abs().max())
    assert apart.quantile(0.999) < 1e-3  # the rest is at the edge of two ways of torch, which differ by a percent
    assert apart.max() < 0.05
    (by_divergence,) = torch.autograd.grad((divergence * weight).sum(), a)
    wide = a.detach().double().requires_grad_()
    prior = Dirichlet(torch.full_like(wide, PRIOR))
    (kl_divergence(Dirichlet(wide), prior).sum(1) * weight).sum().backward()
    torch.testing.assert_close(by_divergence.double(), wide.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("a", [(0.25, 0.25, 0.25, 0.25), (0.02, 0.5, 1.0, 4.0), (1.0, 7.0, 30.0, 0.7)])
def test_draws_have_their_distribution(a):
    torch.manual_seed(0)
    a = torch.tensor(a)
    shares, _ = draw(a.expand(400, 100, 4), PRIOR)
    assert (shares > 0).all()
    assert (shares < 1).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(400, 100))
    for k in range(4):
        rest = float(a.sum() - a[k])
        found = shares[..., k].flatten().double()
        many = found[found > 1e-24]  # less may become more: 1e-26
        share = stats.beta(float(a[k]), rest).sf(1e-24)
        assert len(many) / len(found) == pytest.approx(share, abs=0.01)
        below = stats.beta(float(a[k]), rest).cdf(1e-24)
        test = stats.kstest(many, lambda x, b=below, s=share, k=k, r=rest: (stats.beta(float(a[k]), r).cdf(x) - b) / s)
        assert test.pvalue > 1e-3
    correlation = torch.corrcoef(shares.permute(2, 0, 1)[:2].reshape(2, -1))[0, 1]
    expected = -((a[0] * a[1] / ((a.sum() - a[0]) * (a.sum() - a[1]))) ** 0.5)
    assert abs(correlation - expected) < 0.03


def test_draws_of_genes_and_of_calls_are_independent():
    torch.manual_seed(0)
    a = torch.full((4000, 6, 4), 0.7)
    (first, _), (second, _) = draw(a, PRIOR), draw(a, PRIOR)
    columns = torch.cat([first.flatten(1), second.flatten(1)], 1)[:, [0, 4, 8, 20, 24, 28, 45]]
    apart = torch.corrcoef(columns.T) - torch.eye(7)
    assert apart.abs().max() < 0.08
    ahead = torch.corrcoef(torch.stack([first[:-1, 0, 0], first[1:, 0, 0]]))[0, 1]
    assert abs(ahead) < 0.08


def test_the_same_seed_draws_the_same_whatever_the_number_of_threads():
    a, drawn, n_threads = concentrations().repeat(20, 1, 1), [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.manual_seed(3)
            drawn.append(draw(a, PRIOR)[0])
    finally:
        torch.set_num_threads(n_threads)
    torch.testing.assert_close(*drawn)


def test_the_mean_gradient_is_that_of_the_mean():
    a = torch.tensor([0.3, 1.2, 2.0, 0.6], requires_grad=True)
    torch.manual_seed(0)
    draw(a.expand(2000, 100, 4), PRIOR)[0][..., 0].square().mean().backward()
    other = a.detach().double().requires_grad_()
    total = other.sum()
    (other[0] * (other[0] + 1) / (total * (total + 1))).backward()
    torch.testing.assert_close(a.grad.double(), other.grad, rtol=0.05, atol=2e-3)


def test_what_is_no_number_stays_none():
    a = concentrations()
    a[3, 2, 1] = torch.nan
    divergence = draw(a, PRIOR)[1]
    assert divergence.isnan().nonzero().flatten().tolist() == [3]


def test_in_float64_too():
    assert draw(concentrations().double(), PRIOR)[0].dtype == torch.float64
