"""Curves of unspliced and spliced RNA under constant rates, and the mixture over a gene's four states."""

from __future__ import annotations

from scduet._torch import torch

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

T_MAX, CONCENTRATION = 20.0, 0.25  # the end of time; prior of the Dirichlet over states
TINY = 1e-6  # keeps rates apart that are equal
Genes = Float[Tensor, " gene"]
Values = Float[Tensor, "cell gene"]


@dataclass(frozen=True)
class Rates:
    """Rates of each gene. Transcription goes from alpha to alpha_1, at the speed of lambda_alpha, where it changes."""

    gamma: Genes
    beta: Genes
    alpha: Genes
    alpha_1: Genes
    lambda_alpha: Genes


@dataclass(frozen=True)
class Kinetics:
    """Where each cell is on the curve of each gene."""

    pi: Float[Tensor, "cell gene state"]
    rho: Values
    tau: Values


def induction(rates: Rates, t: Tensor, changing: bool) -> tuple[Tensor, Tensor]:
    """u and s a time `t` after transcription began. changing: at a rate that goes from alpha to alpha_1."""
    gamma, beta, alpha, alpha_1, speed = rates.gamma, rates.beta, rates.alpha, rates.alpha_1, rates.lambda_alpha
    eu, es = (-beta * t).exp(), (-gamma * t).exp()
    if not changing:
        return alpha / beta * (1 - eu), alpha / gamma * (1 - es) + alpha / (gamma - beta + TINY) * (es - eu)
    ea, more = (-speed * t).exp(), alpha_1 - alpha
    u = alpha_1 / beta * (1 - eu) - more / (beta - speed) * (ea - eu)
    s = alpha_1 / gamma * (1 - es) + alpha_1 / (gamma - beta + TINY) * (es - eu)
    part = beta * more / (beta - speed + TINY)
    return u, s - part / (gamma - speed + TINY) * (ea - es) + part / (gamma - beta + TINY) * (eu - es)


def repression(rates: Rates, start: tuple[Tensor, Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """u and s a time `t` after transcription ended at `start`."""
    (u0, s0), gamma, beta = start, rates.gamma, rates.beta
    eu, es = (-beta * t).exp(), (-gamma * t).exp()
    return u0 * eu, s0 * es - beta * u0 / (gamma - beta + TINY) * (es - eu)


def log_shares(pi: Tensor) -> Tensor:
    eps = torch.finfo(pi.dtype).eps
    return (pi / pi.sum(-1, keepdim=True)).clamp(eps, 1 - eps).log()


def log_mixture(x: Values, log_pi: Tensor, means: tuple, sd: Genes) -> Values:
    """Log density of a mixture of four normals; the last, the off state, has a tenth of the standard deviation."""
    parts = [-0.5 * ((x - mean) / sd).square() for mean in means[:3]]
    parts.append(-0.5 * (x / (0.1 * sd)).square() + math.log(10))
    return (torch.stack(parts, -1) + log_pi).logsumexp(-1) - sd.log() - 0.5 * math.log(2 * math.pi)


def numbers(rates: Rates, switch: Genes, sd: Float[Tensor, " both"]) -> Float[Tensor, "number gene"]:
    """What the compiled likelihood reads of each gene, in the order of `kernels.kinetics`. sd: of u, then of s."""
    apart, (u, s) = rates.gamma - rates.beta + TINY, induction(rates, switch, False)
    curve = rates.beta, rates.gamma, switch, T_MAX - switch
    steady = rates.alpha / rates.beta, rates.alpha / rates.gamma, rates.alpha / apart
    return torch.stack([*curve, *steady, u, s, rates.beta * u / apart, *sd.chunk(2)])


def expected(values: tuple, shares: Tensor) -> Values:
    found = sum(shares[..., i] * value for i, value in enumerate(values) if isinstance(value, Tensor))
    assert isinstance(found, Tensor)
    return found


def likeliest(pi: Tensor) -> Tensor:
    return (pi == pi.amax(-1, keepdim=True)).to(pi.dtype)
