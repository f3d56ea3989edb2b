"""Elementwise log p(counts) of the usual count distributions, in their textbook form.

`mean` and `dispersion` broadcast against the counts. Small constants inside logarithms are those of scvi-tools, so that
values agree. Training uses `sparse_likelihoods`, which is tested against these.
"""

from __future__ import annotations

from scduet._torch import torch

import math

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-8


def log_negative_binomial(
    x: Float[Tensor, "*cell gene"], mean: Float[Tensor, "*cell gene"], dispersion: Float[Tensor, "*#cell gene"]
) -> Float[Tensor, "*cell gene"]:
    """NB with variance mean + mean² / dispersion."""
    log_total = (dispersion + mean + EPS).log()
    return (
        dispersion * ((dispersion + EPS).log() - log_total)
        + x * ((mean + EPS).log() - log_total)
        + torch.lgamma(x + dispersion)
        - torch.lgamma(dispersion)
        - torch.lgamma(x + 1)
    )


def log_negative_binomial_mixture(
    x: Float[Tensor, "*cell protein"],
    background: Float[Tensor, "*cell protein"],
    foreground: Float[Tensor, "*cell protein"],
    dispersion: Float[Tensor, "*#cell protein"],
    background_logits: Float[Tensor, "*cell protein"],
) -> Float[Tensor, "*cell protein"]:
    """NB with mean `background` with probability sigmoid(background_logits), else with mean `foreground`."""
    choices, log_dispersion = torch.lgamma(x + dispersion) - torch.lgamma(dispersion), (dispersion + EPS).log()

    def part(mean: Tensor) -> Tensor:
        log_total = (dispersion + mean + EPS).log()
        return dispersion * (log_dispersion - log_total) + x * ((mean + EPS).log() - log_total)

    either = torch.logaddexp(part(background), part(foreground) - background_logits)
    return either - F.softplus(-background_logits) + choices - torch.lgamma(x + 1)


def log_zero_inflated_negative_binomial(
    x: Float[Tensor, "*cell gene"],
    mean: Float[Tensor, "*cell gene"],
    dispersion: Float[Tensor, "*#cell gene"],
    dropout_logits: Float[Tensor, "*cell gene"],
) -> Float[Tensor, "*cell gene"]:
    """Zero with probability sigmoid(dropout_logits), else NB."""
    nb = log_negative_binomial(x, mean, dispersion)
    zero = F.softplus(nb - dropout_logits) - F.softplus(-dropout_logits)
    return torch.where(x > 0, nb - F.softplus(dropout_logits), zero)


def log_poisson(x: Float[Tensor, "*cell gene"], mean: Float[Tensor, "*cell gene"]) -> Float[Tensor, "*cell gene"]:
    """Poisson."""
    seen = torch.where(x > 0, mean, 1)  # an empty cell has mean 0, and no logarithm of it is needed
    return x * seen.log() - mean - torch.lgamma(x + 1)


def log_normal(
    x: Float[Tensor, "*cell gene"], mean: Float[Tensor, "*cell gene"], deviation: Float[Tensor, "*#cell gene"]
) -> Float[Tensor, "*cell gene"]:
    """Normal with standard deviation `deviation`."""
    return -0.5 * ((x - mean) / deviation) ** 2 - deviation.log() - 0.5 * math.log(2 * math.pi)
