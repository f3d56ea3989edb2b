"""Compiled draws and densities of Gaussians give what their textbook forms give, gradients too."""

import torch
from torch.distributions import Normal, kl_divergence

from scduet.nn.gaussians import draw, log_density
from scduet.nn.kernels.gaussians import VARIANCE_FLOOR

N_LEVELS, N_CELLS, WIDTH = 3, 20, 10


def some_heads():
    torch.manual_seed(0)
    return (torch.randn(N_LEVELS, N_CELLS, 2 * WIDTH) * 3).requires_grad_()


def near(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=1e-6 * float(expected.detach().abs().max()))


def test_a_draw_and_its_divergence():
    heads = some_heads()
    torch.manual_seed(1)
    drawn, divergence = draw(heads)
    torch.manual_seed(1)
    noise = torch.randn(N_LEVELS, N_CELLS, WIDTH).double()
    wide = heads.detach().double().requires_grad_()
    mean, log_variance = wide.chunk(2, -1)
    normal = Normal(mean, (log_variance.exp() + VARIANCE_FLOOR).sqrt())
    expected, expected_divergence = mean + normal.scale * noise, kl_divergence(normal, Normal(0, 1)).sum(-1)
    near(drawn, expected), near(divergence, expected_divergence)
    slopes = torch.randn_like(drawn), torch.randn_like(divergence)
    ((drawn * slopes[0]).sum() + (divergence * slopes[1]).sum()).backward()
    ((expected * slopes[0]).sum() + (expected_divergence * slopes[1]).sum()).backward()
    near(heads.grad, wide.grad)


def test_a_density():
    heads, x = some_heads(), torch.randn(N_CELLS, WIDTH, requires_grad=True)
    wide, x2 = heads.detach().double().requires_grad_(), x.detach().double().requires_grad_()
    found = log_density(x, heads)
    mean, log_variance = wide.chunk(2, -1)
    expected = Normal(mean, (log_variance / 2).exp()).log_prob(x2).sum(-1)
    near(found, expected)
    slope = torch.randn_like(found)
    (found * slope).sum().backward(), (expected * slope).sum().backward()
    near(heads.grad, wide.grad), near(x.grad, x2.grad)


def test_in_float64_too():
    heads, x = some_heads(), torch.randn(N_CELLS, WIDTH)
    near(log_density(x, heads), log_density(x.double(), heads.double()))
    torch.manual_seed(0)
    assert draw(heads.double())[0].dtype == torch.float64
