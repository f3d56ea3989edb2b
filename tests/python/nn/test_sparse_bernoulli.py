"""The sparse-aware likelihood of open peaks against that of each peak, in float64; gradients, and both ways to run."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scduet.contract import SparseRows
from scduet.nn.heads import head
from scduet.nn.kernels import accessibility as kernels
from scduet.nn.second_order import uncompiled
from scduet.nn.sparse_bernoulli import bernoulli

N_CELLS, N_PEAKS = 9, 1500


def rows_of(x, stored_zeros=0.1):
    """`x` as sparse rows in which some zeros are stored."""
    kept = (x != 0) | (torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < stored_zeros)
    row, column = kept.nonzero(as_tuple=True)
    indptr = torch.searchsorted(row, torch.arange(len(x) + 1))
    return SparseRows(x[row, column].float(), column, indptr, tuple(x.shape))


def drawn(spread, seed=0):
    """Counts with a cell without any and one with all peaks open; logits of decoder, depth and factors."""
    make = torch.Generator().manual_seed(seed)
    x = torch.poisson(torch.rand(N_CELLS, N_PEAKS, generator=make) * 0.1, generator=make)
    x[0], x[1] = 0, 2
    sizes = (N_CELLS, N_PEAKS), (N_CELLS, 1), (N_PEAKS,)
    return x, [(torch.randn(*size, generator=make) * spread).requires_grad_() for size in sizes]


def truth(x, logits, depth_logit, factor_logit):
    """log p of each peak by itself: log p = sum of log sigmoids, log(1 - p) by expm1."""
    log_p = F.logsigmoid(logits)
    log_p = log_p if depth_logit is None else log_p + F.logsigmoid(depth_logit)
    log_p = log_p if factor_logit is None else log_p + F.logsigmoid(factor_logit)
    log_not = F.logsigmoid(-logits) if depth_logit is None and factor_logit is None else (-torch.expm1(log_p)).log()
    return torch.where(x > 0, log_p, log_not).sum(1)


def value_and_gradients(function, x, parameters, with_depth, with_factor):
    logits, depth, factor = parameters
    given = [logits, depth if with_depth else None, factor if with_factor else None]
    value = function(x, *given)
    weight = torch.linspace(0.5, 2, len(value), dtype=value.dtype)
    return [value, *torch.autograd.grad((value * weight).sum(), [part for part in given if part is not None])]


def assert_near(got, expected, tolerance):
    for a, b in zip(got, expected, strict=True):
        assert a.isfinite().all()
        np.testing.assert_allclose(
            a.detach(), b.detach(), rtol=tolerance, atol=tolerance * float(b.detach().abs().max())
        )


@pytest.mark.parametrize("spread", [1.0, 5.0])
@pytest.mark.parametrize(("with_depth", "with_factor"), [(True, True), (True, False), (False, True), (False, False)])
def test_it_is_the_sum_over_peaks(with_depth, with_factor, spread):
    x, parameters = drawn(spread)
    wide = [p.detach().double().requires_grad_() for p in parameters]
    expected = value_and_gradients(truth, x, wide, with_depth, with_factor)
    compiled = value_and_gradients(bernoulli, rows_of(x), parameters, with_depth, with_factor)
    assert_near(compiled, expected, 1e-5)
    with uncompiled():
        assert_near(value_and_gradients(bernoulli, rows_of(x), parameters, with_depth, with_factor), expected, 1e-5)


@pytest.mark.parametrize("with_depth", [True, False])
def test_nothing_is_lost_where_a_peak_is_surely_open_or_closed(with_depth):
    """Logits up to 60 with depths and factors near 1: 1 - p is e^-60, which a difference from 1 cannot hold."""
    x, parameters = drawn(1.0)
    with torch.no_grad():
        parameters[0].mul_(20).clamp_(-60, 60)
        parameters[1].fill_(40.0)
        parameters[2].fill_(45.0)
    wide = [p.detach().double().requires_grad_() for p in parameters]
    with uncompiled():
        expected = value_and_gradients(bernoulli, rows_of(x.double()), wide, with_depth, True)
    logits, depth, factor = wide
    missed = torch.sigmoid(-factor) + (torch.sigmoid(-depth) if with_depth else 0)
    closed = ((missed + (-logits).exp()).log() - F.softplus(-logits))[0].sum()  # of the cell without open peaks
    assert float(expected[0][0]) == pytest.approx(float(closed), rel=1e-12)
    assert_near(value_and_gradients(bernoulli, rows_of(x), parameters, with_depth, True), expected, 1e-5)


def test_threads_change_nothing_but_the_rounding(monkeypatch):
    """Bits are promised for one number of threads: the loop over threads is another function to the compiler."""
    x, parameters = drawn(2.0)
    alone = value_and_gradients(bernoulli, rows_of(x), parameters, True, True)
    monkeypatch.setattr(kernels, "MIN_PER_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        shared = value_and_gradients(bernoulli, rows_of(x), parameters, True, True)
    finally:
        torch.set_num_threads(before)
    assert_near(shared, alone, 1e-6)


def test_a_head_equals_its_logits():
    """Values, and gradients by the hidden layer, the weight and the bias."""
    x, (_, depth, factor) = drawn(1.0)
    torch.manual_seed(0)
    hidden, layer = torch.randn(N_CELLS, 7, requires_grad=True), torch.nn.Linear(7, N_PEAKS)
    inputs = [hidden, layer.weight, layer.bias, depth, factor]

    def gradients(apply):
        value = bernoulli(rows_of(x), apply(layer, hidden), depth, factor)
        return [value, *torch.autograd.grad((value * torch.linspace(1, 2, N_CELLS)).sum(), inputs)]

    assert_near(gradients(head), gradients(lambda layer, hidden: layer(hidden)), 1e-5)


def test_the_gradient_can_be_taken_twice_from_the_same_graph():
    x, parameters = drawn(1.0)
    value = bernoulli(rows_of(x), *parameters).sum()
    first, again = (torch.autograd.grad(value, parameters, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_what_is_no_number_is_not_hidden():
    x, parameters = drawn(1.0)
    with torch.no_grad():
        parameters[0][3, 5] = torch.nan
    assert bernoulli(rows_of(x), *parameters)[3].isnan()


def test_under_autocast_the_work_is_done_in_float32():
    x, parameters = drawn(1.0)
    rounded = [p.detach().bfloat16() for p in parameters]
    with torch.autocast("cpu", torch.bfloat16):
        got = bernoulli(rows_of(x), *rounded)
    assert got.dtype == torch.float32
    assert_near([got], [truth(x, *(p.double() for p in rounded))], 1e-5)
