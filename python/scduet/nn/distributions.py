"""Distributions returned by decoders: mean, samples and elementwise log-probabilities.

Parameters are (cell, feature) and broadcast. `scale` is the mean per unit of library. Densities are those of
`likelihoods`; training on sparse counts uses the faster `sparse_likelihoods`.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from scduet.nn import likelihoods

Values = Float[Tensor, "cell feature"]
Shared = Float[Tensor, "*#cell feature"]


@runtime_checkable
class Distribution(Protocol):
    """The interface that analyses of a decoded modality use."""

    @property
    def mean(self) -> Values: ...

    def sample(self) -> Values: ...

    def log_prob(self, x: Values) -> Values:
        """Elementwise log-probability. NaN in `x` gives NaN."""
        ...


@runtime_checkable
class HasRates(Protocol):
    """A distribution of counts whose rate varies between cells in the same state."""

    def sample_rates(self, library: float) -> Values:
        """Sample rates, without count noise, for cells with this library size."""
        ...


@runtime_checkable
class HasParameters(Protocol):
    """A distribution with named parameters, as in scvi-tools."""

    @property
    def parameters(self) -> dict[str, Shared]: ...


@dataclass(frozen=True)
class Poisson:
    """Poisson counts."""

    scale: Values
    rate: Values

    @property
    def mean(self) -> Values:
        return self.rate

    @property
    def parameters(self) -> dict[str, Shared]:
        return {"mean": self.rate}

    def sample(self) -> Values:
        return torch.poisson(self.rate)

    def log_prob(self, x: Values) -> Values:
        return likelihoods.log_poisson(x, self.rate)


@dataclass(frozen=True)
class Normal:
    """Normal with mean `rate` and standard deviation `deviation`."""

    scale: Values
    rate: Values
    deviation: Shared

    @property
    def mean(self) -> Values:
        return self.rate

    @property
    def parameters(self) -> dict[str, Shared]:
        return {"mean": self.rate, "dispersions": self.deviation}

    def sample(self) -> Values:
        return torch.normal(self.rate, self.deviation.expand_as(self.rate))

    def log_prob(self, x: Values) -> Values:
        return likelihoods.log_normal(x, self.rate, self.deviation)


@dataclass(frozen=True)
class LogNormal:
    """What is never below 0, with log(1 + unit x) ~ Normal(location, deviation), which is cut at 0."""

    location: Values
    deviation: Shared
    unit: Float[Tensor, "*#cell 1"]

    @property
    def mean(self) -> Values:
        """Of the uncut distribution, or 0 where it is below."""
        return torch.expm1(self.location + self.deviation.square() / 2).clamp(min=0) / self.unit

    def sample(self) -> Values:
        return torch.normal(self.location, self.deviation.expand_as(self.location)).clamp(min=0).expm1() / self.unit

    def log_prob(self, x: Values) -> Values:
        """Logarithm of the density of x."""
        y = torch.log1p(self.unit * x)
        return likelihoods.log_normal(y, self.location, self.deviation) + self.unit.log() - y


@dataclass(frozen=True)
class NegativeBinomial:
    """Counts with mean `rate` and variance rate + rate² / dispersion."""

    scale: Values
    rate: Values
    dispersion: Shared  # inverse: infinite for a Poisson

    @property
    def mean(self) -> Values:
        return self.rate

    @property
    def parameters(self) -> dict[str, Shared]:
        return {"mean": self.rate, "dispersions": self.dispersion}

    def sample(self) -> Values:
        return _negative_binomial(self.rate, self.dispersion)

    def sample_rates(self, library: float) -> Values:
        return _gamma(library * self.scale, self.dispersion)

    def log_prob(self, x: Values) -> Values:
        return likelihoods.log_negative_binomial(x, self.rate, self.dispersion)


@dataclass(frozen=True)
class ZeroInflatedNegativeBinomial:
    """Zero with probability sigmoid(dropout_logits), else a negative binomial."""

    scale: Values
    rate: Values  # before dropout
    dispersion: Shared
    dropout_logits: Values

    @property
    def mean(self) -> Values:
        return self.rate * torch.sigmoid(-self.dropout_logits)

    @property
    def parameters(self) -> dict[str, Shared]:
        return {"mean": self.rate, "dispersions": self.dispersion, "dropout": self.dropout_logits}

    def sample(self) -> Values:
        counts = _negative_binomial(self.rate, self.dispersion)
        return counts * (torch.rand_like(counts) >= self.dropout_logits.sigmoid())

    def sample_rates(self, library: float) -> Values:
        return _gamma(library * self.scale, self.dispersion)

    def log_prob(self, x: Values) -> Values:
        return likelihoods.log_zero_inflated_negative_binomial(x, self.rate, self.dispersion, self.dropout_logits)


@dataclass(frozen=True)
class NegativeBinomialMixture:
    """Background with probability sigmoid(background_logits), else foreground: two negative binomials of proteins."""

    background: Values  # mean
    foreground: Values  # mean
    dispersion: Shared
    background_logits: Values

    @property
    def mean(self) -> Values:
        return torch.lerp(self.foreground, self.background, self.background_logits.sigmoid())

    @property
    def parameters(self) -> dict[str, Shared]:
        means = {"background": self.background, "foreground": self.foreground}
        return {"mean": self.mean, "dispersions": self.dispersion, **means, "mixing": self.background_logits}

    def sample(self) -> Values:
        return _negative_binomial(self._drawn_rate(), self.dispersion)

    def sample_rates(self, library: float) -> Values:
        """Sample protein rates; `library` is ignored, since proteins have no library size. A rate of 0 stays 0."""
        rate = self._drawn_rate()
        return _gamma(rate, self.dispersion).where(rate > 0, 0)

    def log_prob(self, x: Values) -> Values:
        return likelihoods.log_negative_binomial_mixture(
            x, self.background, self.foreground, self.dispersion, self.background_logits
        )

    def _drawn_rate(self) -> Values:
        is_background = torch.rand_like(self.foreground) < self.background_logits.sigmoid()
        return torch.where(is_background, self.background, self.foreground)


@dataclass(frozen=True)
class Bernoulli:
    """Open or closed: 1 with probability `mean`, which may be a product of probabilities. Any x above 0 counts as 1."""

    mean: Values

    @property
    def parameters(self) -> dict[str, Shared]:
        return {"mean": self.mean}

    def sample(self) -> Values:
        return torch.bernoulli(self.mean)

    def log_prob(self, x: Values) -> Values:
        found = torch.where(x > 0, self.mean.log(), (-self.mean).log1p()).clamp(min=-100)  # as in torch's own
        return found.where(~x.isnan(), torch.nan)


def _negative_binomial(rate: Values, dispersion: Shared) -> Values:
    return torch.poisson(_gamma(rate, dispersion).clamp(max=1e8))


def _gamma(mean: Values, shape: Shared) -> Values:
    """Sample from a gamma distribution with this mean and shape, computed as in torch.distributions.Gamma."""
    drawn = torch._standard_gamma(shape.expand_as(mean)) / (shape / mean.clamp(min=1e-30))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return drawn.clamp_(min=torch.finfo(drawn.dtype).tiny)
