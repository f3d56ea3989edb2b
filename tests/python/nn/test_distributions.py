"""Distributions of decoded modalities: log-probabilities and means against scipy, draws by their moments."""

import numpy as np
import pytest
import torch
from scipy import stats

from scduet.models.rna.autozi import Mixture
from scduet.nn.distributions import (
    Bernoulli,
    Distribution,
    HasParameters,
    HasRates,
    NegativeBinomial,
    NegativeBinomialMixture,
    Normal,
    Poisson,
    ZeroInflatedNegativeBinomial,
)

RATE = np.array([[0.3, 2.0, 9.0], [1.5, 4.0, 0.7]])
SCALE = RATE / RATE.sum(1, keepdims=True)
DISPERSION = np.array([0.8, 3.0, 10.0])
LOGITS = np.array([[-1.0, 0.5, -3.0], [2.0, -0.3, 0.0]])
SHARE = 1 / (1 + np.exp(-LOGITS))
PLAIN = np.array([0.1, 0.5, 0.9])
X = np.array([0, 1, 2, 3, 7, 40])[:, None, None]


def nb(x, rate=RATE):
    return stats.nbinom.pmf(x, DISPERSION, DISPERSION / (DISPERSION + rate))


def zinb(x):
    return SHARE * (x == 0) + (1 - SHARE) * nb(x)


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float64) for array in arrays]


CASES = {
    "poisson": (Poisson(*tensors(SCALE, RATE)), lambda x: stats.poisson.pmf(x, RATE)),
    "normal": (Normal(*tensors(SCALE, RATE, DISPERSION)), lambda x: stats.norm.pdf(x, RATE, DISPERSION)),
    "nb": (NegativeBinomial(*tensors(SCALE, RATE, DISPERSION)), nb),
    "zinb": (ZeroInflatedNegativeBinomial(*tensors(SCALE, RATE, DISPERSION, LOGITS)), zinb),
    "nb or zinb": (
        Mixture(*tensors(SCALE, RATE, DISPERSION, LOGITS, PLAIN)),
        lambda x: PLAIN * nb(x) + (1 - PLAIN) * zinb(x),
    ),
    "background or foreground": (
        NegativeBinomialMixture(*tensors(RATE, 3 * RATE, DISPERSION, LOGITS)),
        lambda x: SHARE * nb(x) + (1 - SHARE) * nb(x, 3 * RATE),
    ),
    "bernoulli": (Bernoulli(*tensors(SHARE)), lambda x: np.where(x > 0, SHARE, 1 - SHARE)),
}


@pytest.mark.parametrize("case", CASES)
def test_log_probabilities_are_scipys(case):
    distribution, density = CASES[case]
    for x in X:
        found = distribution.log_prob(torch.tensor(np.broadcast_to(x, RATE.shape).astype(float)))
        np.testing.assert_allclose(found.exp(), density(x), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_draws_have_the_mean_and_the_frequencies_of_the_distribution(case):
    distribution, density = CASES[case]
    torch.manual_seed(0)
    drawn = torch.stack([distribution.sample() for _ in range(20_000)]).numpy()
    error = drawn.std(0) / np.sqrt(len(drawn))
    np.testing.assert_array_less(np.abs(drawn.mean(0) - distribution.mean.numpy()), 4.5 * error)
    if case == "normal":
        np.testing.assert_allclose(drawn.std(0), np.broadcast_to(DISPERSION, RATE.shape), rtol=0.03)
        return
    for x in (0, 1) if case == "bernoulli" else (0, 1, 2, 5):
        p = density(x)
        deviation = np.sqrt(p * (1 - p) / len(drawn)) + 1e-6
        np.testing.assert_array_less(np.abs((drawn == x).mean(0) - p), 4.5 * deviation)


@pytest.mark.parametrize("case", CASES)
def test_each_says_what_it_can(case):
    distribution, _ = CASES[case]
    assert isinstance(distribution, Distribution)
    assert isinstance(distribution, HasParameters)
    assert isinstance(distribution, HasRates) == (case not in ("poisson", "normal", "bernoulli"))
    assert distribution.log_prob(torch.full(RATE.shape, torch.nan, dtype=torch.float64)).isnan().all()


@pytest.mark.parametrize("case", ["nb", "zinb"])
def test_rates_have_the_moments_of_a_gamma(case):
    distribution, _ = CASES[case]
    torch.manual_seed(0)
    drawn = torch.stack([distribution.sample_rates(10.0) for _ in range(20_000)]).numpy()
    np.testing.assert_allclose(drawn.mean(0), 10 * SCALE, rtol=0.05)
    np.testing.assert_allclose(drawn.var(0), (10 * SCALE) ** 2 / DISPERSION, rtol=0.1)


def test_a_seed_draws_what_torch_distributions_draws():
    distribution, _ = CASES["nb"]
    rate, dispersion = tensors(RATE, DISPERSION)
    torch.manual_seed(3)
    expected = torch.poisson(torch.distributions.Gamma(dispersion, dispersion / rate).sample())
    torch.manual_seed(3)
    assert torch.equal(distribution.sample(), expected)
