"""Dirichlet distributions of four parts for each gene of each cell, with a symmetric Dirichlet as prior.

On a CPU a draw with its divergence is one compiled pass forward and one back: `kernels.dirichlet`.
"""

from __future__ import annotations

from scduet._torch import torch

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Dirichlet

from scduet.nn.kernels import jit
from scduet.nn.kernels.blocks import PARTS
from scduet.nn.kernels.dirichlet import Draw

Parts = Float[Tensor, "cell gene 4"]


def draw(concentration: Parts, prior: float) -> tuple[Parts, Float[Tensor, " cell"]]:
    """Reparameterized sample of the shares of the parts, and the KL divergence from the prior, summed over genes."""
    if jit.usable(concentration):
        return Draw.apply(concentration.contiguous(), prior)  # pyright: ignore[reportReturnType]
    return Dirichlet(concentration, validate_args=False).rsample(), divergence(concentration, prior)


def divergence(a: Parts, prior: float) -> Float[Tensor, " cell"]:
    """KL divergence of Dirichlet(a) from the prior, summed over genes."""
    total, of_prior = a.sum(-1), torch.tensor(prior, dtype=a.dtype, device=a.device)
    constant = PARTS * torch.lgamma(of_prior) - torch.lgamma(PARTS * of_prior)
    gap = (a - prior) * (torch.digamma(a) - torch.digamma(total)[..., None])
    return (torch.lgamma(total) - torch.lgamma(a).sum(-1) + gap.sum(-1) + constant).sum(-1)
