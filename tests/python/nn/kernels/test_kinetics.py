"""The compiled likelihood of veloVI's curves, and its gradients, are those of the plain form in float64."""

import pytest
import torch

from scduet.contract import CellBatch, Reference
from scduet.models.velocity.kinetics import Kinetics
from scduet.models.velocity.velovi import Config, VeloVI
from scduet.nn.second_order import uncompiled

N_CELLS, N_GENES = 40, 30


@pytest.fixture
def module():
    torch.manual_seed(0)
    arrays = {f"switch_{kind}": torch.rand(N_GENES).numpy() for kind in ("unspliced", "spliced")}
    made = VeloVI(Reference(N_GENES, n_extra={"unspliced": N_GENES}, arrays=arrays), Config(n_hidden=4))
    for weight in (made.alpha, made.beta, made.gamma, made.scale):
        weight.data += torch.randn_like(weight)
    made.gamma.data[:3] = made.beta.data[:3] + torch.tensor([0.0, 1e-3, 0.1])  # rates that are nearly equal
    return made


def cells_and_states(dtype=torch.float32, least=1e-5):
    """least: of a share; the least of all is another in float64."""
    torch.manual_seed(1)
    s, u = torch.rand(2, N_CELLS, N_GENES)
    u[:, 4] = 0
    pi = torch.distributions.Dirichlet(torch.full((4,), 0.25)).sample((N_CELLS, N_GENES)).clamp(min=least)
    rho, tau = torch.rand(2, N_CELLS, N_GENES)
    cells = CellBatch(
        s.to(dtype),
        torch.arange(N_CELLS),
        torch.zeros(N_CELLS, dtype=torch.long),
        extra={"unspliced": u.to(dtype)},
    )
    return cells, Kinetics(*(part.to(dtype).requires_grad_() for part in (pi, rho, tau)))


def error_and_gradients(module, dtype, **which):
    cells, at = cells_and_states(dtype, **which)
    error = module.error(cells, at)
    weights = [module.alpha, module.beta, module.gamma, module.switch_time, module.scale]
    found = torch.autograd.grad(
        (error * torch.linspace(0.5, 2, N_CELLS, dtype=dtype)).sum(), [*vars(at).values(), *weights]
    )
    return error, found


def test_value_and_gradients(module):
    found = error_and_gradients(module, torch.float32)
    with uncompiled():
        plain = error_and_gradients(module, torch.float32)
    expected = error_and_gradients(module.double(), torch.float64)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=1e-4)
    names = ("pi", "rho", "tau", "alpha", "beta", "gamma", "switch", "scale")
    for name, ours, other, true in zip(names, found[1], plain[1], expected[1], strict=True):
        scale = true.abs() + 1e-3 * true.abs().max()
        gap, allowed = ((part.double() - true).abs() / scale for part in (ours, other))
        assert gap.max() < max(1e-4, 10 * float(allowed.max())), name  # float32 does not know close rates apart


def test_shares_of_nearly_nothing_are_bounded(module):
    ours, (by_pi, *_) = error_and_gradients(module, torch.float32, least=0.0)
    with uncompiled():
        plain, (expected, *_) = error_and_gradients(module, torch.float32, least=0.0)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(by_pi, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_what_is_no_number_stays_none(module):
    cells, at = cells_and_states()
    cells.extra["unspliced"][5, 7] = torch.nan
    assert module.error(cells, at).isnan().nonzero().flatten().tolist() == [5]
