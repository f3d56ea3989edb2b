"""Likelihoods: the textbook forms against scipy, the sparse-aware forms against the textbook, gradients too."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.nn import functional as F

from scduet.contract import SparseRows
from scduet.nn import likelihoods, sparse_likelihoods
from scduet.nn.heads import head
from scduet.nn.kernels import likelihoods as kernels
from scduet.nn.kernels import math

SETTINGS = [
    (likelihood, link, shared)
    for likelihood in ("nb", "zinb", "poisson")
    for link in ("softmax", "softplus", "exp")
    for shared in ((True, False) if likelihood != "poisson" else (True,))
]


def as_rows(x, keep=None):
    """`x` as sparse rows; where `keep` is true a zero is stored too."""
    row, column = ((x != 0) | (keep if keep is not None else False)).nonzero(as_tuple=True)
    return SparseRows(x[row, column], column, torch.searchsorted(row, torch.arange(len(x) + 1)), tuple(x.shape))


def drawn(n_cells, n_genes, shared, spread=1.0, dtype=torch.float64, seed=0):
    """Counts with an empty cell, a count of 100,000 and one that is not whole; logits, library, dispersion, dropout."""
    make = torch.Generator().manual_seed(seed)
    x = torch.poisson(torch.rand(n_cells, n_genes, generator=make) * 4, generator=make)
    x *= torch.rand(n_cells, n_genes, generator=make) < 0.3
    x[0], x[1, 1], x[2, 2], x[3, 3] = 0, 1e5, 20, 2.5
    logits, dropout = (torch.randn(n_cells, n_genes, generator=make) * 2 * spread for _ in range(2))
    log_r = torch.randn(*((n_genes,) if shared else (n_cells, n_genes)), generator=make) * spread
    parameters = [logits, x.sum(1, keepdim=True).log(), log_r, dropout]
    return x.to(dtype), [p.to(dtype).requires_grad_() for p in parameters]


SHARE = 4.0  # below zero, the logits of "exp" are those of means like the counts


def textbook(likelihood, link, x, logits, log_library, log_r, dropout):
    linked = {"softmax": lambda: logits.softmax(-1), "softplus": lambda: F.softplus(logits)}
    linked["exp"] = lambda: (logits - SHARE).exp().clamp(*sparse_likelihoods.LIMITS)
    mean = log_library.exp() * linked[link]()
    if likelihood == "poisson":
        return likelihoods.log_poisson(x, mean).sum(1)
    if likelihood == "nb":
        return likelihoods.log_negative_binomial(x, mean, log_r.exp()).sum(1)
    return likelihoods.log_zero_inflated_negative_binomial(x, mean, log_r.exp(), dropout).sum(1)


def sparse_aware(likelihood, link, rows, logits, log_library, log_r, dropout):
    logits = logits - SHARE if link == "exp" else logits
    if likelihood == "poisson":
        return sparse_likelihoods.poisson(rows, logits, log_library, link=link)
    if likelihood == "nb":
        return sparse_likelihoods.negative_binomial(rows, logits, log_library, log_r, link=link)
    return sparse_likelihoods.zero_inflated_negative_binomial(rows, logits, log_library, log_r, dropout, link=link)


def value_and_gradients(function, likelihood, link, x, parameters):
    """Log-likelihood per cell, and the gradients of an uneven sum of them by each parameter the likelihood has."""
    value = function(likelihood, link, x, *parameters)
    weight = torch.linspace(0.5, 2, len(value), dtype=value.dtype)
    used = {"poisson": (0,), "nb": (0, 2), "zinb": (0, 2, 3)}[likelihood]
    return [value, *torch.autograd.grad((value * weight).sum(), [parameters[i] for i in used])]


def assert_near(got, expected, tolerance):
    for a, b in zip(got, expected, strict=True):
        assert a.isfinite().all()
        scale = float(b.detach().abs().max())
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=tolerance, atol=tolerance * scale)


def test_textbook_forms_agree_with_scipy():
    x, mean, r, logit = np.array([0.0, 1, 3, 500]), np.array([0.2, 2.0, 2.5, 400]), np.array([0.3, 5, 80, 2]), 0.7
    nb = stats.nbinom.logpmf(x, r, r / (r + mean))
    pi = 1 / (1 + np.exp(-logit))
    t = [torch.tensor(v) for v in (x, mean, r)]
    np.testing.assert_allclose(likelihoods.log_negative_binomial(*t), nb, rtol=1e-6)
    zinb = np.log(pi * (x == 0) + (1 - pi) * np.exp(nb))
    got = likelihoods.log_zero_inflated_negative_binomial(*t, torch.full((4,), logit, dtype=torch.float64))
    np.testing.assert_allclose(got, zinb, rtol=1e-6)
    np.testing.assert_allclose(likelihoods.log_poisson(t[0], t[1]), stats.poisson.logpmf(x, mean), rtol=1e-6)
    np.testing.assert_allclose(likelihoods.log_normal(*t), stats.norm.logpdf(x, mean, r), rtol=1e-6)


@pytest.mark.parametrize(("likelihood", "link", "shared"), SETTINGS)
def test_sparse_aware_forms_equal_the_textbook(likelihood, link, shared):
    x, parameters = drawn(9, 40, shared)
    got = value_and_gradients(sparse_aware, likelihood, link, as_rows(x), parameters)
    assert_near(got, value_and_gradients(textbook, likelihood, link, x, parameters), 1e-7)


@pytest.mark.parametrize(("likelihood", "link", "shared"), SETTINGS)
def test_they_equal_it_in_float32_to_its_precision(likelihood, link, shared):
    """The truth is the textbook in float64."""
    x, parameters = drawn(9, 40, shared)
    narrow = [p.detach().float().requires_grad_() for p in parameters]
    wide = [p.detach().double().requires_grad_() for p in narrow]
    got = value_and_gradients(sparse_aware, likelihood, link, as_rows(x.float()), narrow)
    assert_near(got, value_and_gradients(textbook, likelihood, link, x, wide), 1e-5)


@pytest.mark.parametrize(("likelihood", "link", "shared"), SETTINGS)
def test_they_equal_it_for_extreme_parameters(likelihood, link, shared):
    """Logits of hundreds, dispersions from e^-15 to e^15."""
    x, parameters = drawn(9, 40, shared, spread=12.0)
    with torch.no_grad():
        parameters[0][4, :3] = torch.tensor([-300.0, 300.0, 0.0])
        parameters[3][4, :4] = torch.tensor([-300.0, 300.0, -95.0, 95.0])
        parameters[2].clamp_(-15, 15)
    got = value_and_gradients(sparse_aware, likelihood, link, as_rows(x), parameters)
    assert_near(got, value_and_gradients(textbook, likelihood, link, x, parameters), 1e-7)
    narrow = [p.detach().float().requires_grad_() for p in parameters]
    for tensor in value_and_gradients(sparse_aware, likelihood, link, as_rows(x.float()), narrow):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_gradient_by_the_library(likelihood):
    x, parameters = drawn(9, 40, True)
    x = x[1:].contiguous()
    parameters = [p.detach()[1:].requires_grad_() if len(p) == 9 else p for p in parameters]
    got, expected = (
        torch.autograd.grad(function(likelihood, "softmax", data, *parameters).sum(), parameters[1])
        for function, data in ((sparse_aware, as_rows(x)), (textbook, x))
    )
    assert_near(got, expected, 1e-9)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_stored_zeros_are_zeros(likelihood):
    x, parameters = drawn(9, 40, True)
    stored = as_rows(x, keep=torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.2)
    assert (stored.data == 0).any()
    got = value_and_gradients(sparse_aware, likelihood, "softmax", stored, parameters)
    assert_near(got, value_and_gradients(sparse_aware, likelihood, "softmax", as_rows(x), parameters), 1e-12)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_the_compiled_pass_equals_that_of_whole_matrices(likelihood, shared):
    """The first serves float32 on a CPU, the second everything else; here in float64."""
    x, parameters = drawn(10, 1500, shared, spread=2.0)
    narrow = [p.detach().float().requires_grad_() for p in parameters]
    wide = [p.detach().double().requires_grad_() for p in narrow]
    got = value_and_gradients(sparse_aware, likelihood, "softmax", as_rows(x.float()), narrow)
    assert_near(got, value_and_gradients(sparse_aware, likelihood, "softmax", as_rows(x), wide), 1e-5)


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_the_compiled_pass_does_not_depend_on_the_number_of_threads(likelihood, monkeypatch):
    x, parameters = drawn(9, 40, True, dtype=torch.float32)
    alone = value_and_gradients(sparse_aware, likelihood, "softmax", as_rows(x), parameters)
    monkeypatch.setattr(kernels, "MIN_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for a, b in zip(
        alone, value_and_gradients(sparse_aware, likelihood, "softmax", as_rows(x), parameters), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("likelihood", "broken"), [*(("nb", i) for i in range(3)), *(("zinb", i) for i in range(4))])
def test_what_is_no_number_is_not_hidden(likelihood, broken):
    x, parameters = drawn(9, 40, True, dtype=torch.float32)
    with torch.no_grad():
        parameters[broken].view(-1)[5] = torch.nan
    assert sparse_aware(likelihood, "softmax", as_rows(x), *parameters).isnan().any()


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_under_autocast_the_work_is_done_in_float32(likelihood):
    x, parameters = drawn(9, 40, True)
    with torch.no_grad():
        rounded = [parameters[0].bfloat16(), *(p.float() for p in parameters[1:3]), parameters[3].bfloat16()]
        with torch.autocast("cpu", torch.bfloat16):
            got = sparse_aware(likelihood, "softmax", as_rows(x.float()), *rounded)
        expected = textbook(likelihood, "softmax", x, *(p.double() for p in rounded))
    assert got.dtype == torch.float32
    assert_near([got], [expected], 1e-5)


def test_rising_factorials_of_the_compiled_pass():
    count, r = np.meshgrid([1, 2, 5, 11, 12, 13, 400, 1e5, 2.5], [1e-8, 0.01, 0.5, 3, 70, 1e4])
    got = [kernels._rising_factorial(*pair) for pair in zip(count.ravel(), r.ravel(), strict=True)]
    log = special.gammaln(count + r) - special.gammaln(r) - special.gammaln(count + 1)
    expected = log.ravel(), (special.digamma(count + r) - special.digamma(r)).ravel()
    np.testing.assert_allclose(np.transpose(got), expected, rtol=1e-9, atol=1e-8)


def test_exponential_and_logarithm_of_the_compiled_pass():
    """To 2e-7 over what they promise."""
    exp, log = (numba.vectorize(["float32(float32)"])(f.py_func) for f in (math.exp, math.log))
    x = np.linspace(-87, 88, 100_001, dtype=np.float32)
    np.testing.assert_allclose(exp(x), np.exp(x.astype(float)), rtol=2e-7)
    x = np.geomspace(1e-37, 1e38, 100_001, dtype=np.float32)
    np.testing.assert_allclose(log(x), np.log(x.astype(float)), rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("link", ["softmax", "softplus"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_head_equals_its_logits(likelihood, link, dtype, tolerance):
    """Values, and gradients by the hidden layer, weights and biases."""
    x, (_, log_library, log_r, _) = drawn(10, 40, True, dtype=dtype)
    torch.manual_seed(0)
    hidden = torch.randn(10, 7, dtype=dtype, requires_grad=True)
    layers = [torch.nn.Linear(7, 40, dtype=dtype) for _ in range(2 if likelihood == "zinb" else 1)]
    inputs = [hidden, *(p for layer in layers for p in layer.parameters())]

    def gradients(apply):
        logits = [apply(layer, hidden) for layer in layers]
        value = sparse_aware(likelihood, link, as_rows(x), logits[0], log_library, log_r, logits[-1])
        return [value, *torch.autograd.grad((value * torch.linspace(1, 2, 10, dtype=dtype)).sum(), inputs)]

    assert_near(gradients(head), gradients(lambda layer, hidden: layer(hidden)), tolerance)


def test_a_head_that_is_more_than_linear_is_applied():
    layer, hidden = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Softplus()), torch.randn(5, 3)
    torch.testing.assert_close(head(layer, hidden), layer(hidden))


def test_sharing_the_work_leaves_torch_its_number_of_threads():
    """numba's OpenMP sets it to its own when it starts, and the bits of all later training hang on it."""
    code = """
import torch
from scduet.nn.kernels import jit
from test_likelihoods import as_rows, kernels, drawn, sparse_aware
kernels.MIN_PER_THREAD = 1
x, parameters = drawn(9, 40, True, dtype=torch.float32)
sparse_aware("nb", "softmax", as_rows(x), *parameters)
print(jit._has_openmp(), torch.get_num_threads())
"""
    here = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    environment = os.environ | here | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "4"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() in (["True", "2"], ["False", "2"])
