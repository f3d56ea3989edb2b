"""Diagonal Gaussians with concatenated means and log-variances, as returned by two linear heads.

On a CPU each function is one compiled pass forward and one back: `kernels.gaussians`.
"""

from __future__ import annotations

from scduet._torch import torch

import math

from jaxtyping import Float
from torch import Tensor

from scduet.nn.kernels import gaussians as kernels
from scduet.nn.kernels import jit
from scduet.nn.kernels.gaussians import VARIANCE_FLOOR
from scduet.nn.layers import kl_to_normal

DRAWS = 5000  # that the mean of a softmax is taken over, as in scvi-tools
Heads = Float[Tensor, "*row both"]  # means, then as many log-variances


def draw(heads: Heads) -> tuple[Float[Tensor, "*row latent"], Float[Tensor, "*row"]]:
    """Reparameterized sample from each Gaussian, and its KL divergence from the standard normal.

    Adds the minimum posterior variance to each variance.
    """
    mean, log_variance = heads.chunk(2, -1)
    noise = torch.randn_like(mean)
    if jit.usable(heads):
        return kernels.Draw.apply(heads.contiguous(), noise)  # pyright: ignore[reportReturnType]
    variance = log_variance.exp() + VARIANCE_FLOOR
    return mean + variance.sqrt() * noise, kl_to_normal(mean, variance)


def softmax_mean(
    mean: Float[Tensor, "cell latent"], variance: Float[Tensor, "cell latent"]
) -> Float[Tensor, "cell latent"]:
    """Mean of the softmax of each Gaussian, over draws whose noise is fixed and the same for every cell."""
    noise = torch.randn(DRAWS, mean.shape[1], generator=torch.Generator().manual_seed(0)).to(mean)
    total = torch.zeros_like(mean)
    for draw in noise:
        total += (mean + variance.sqrt() * draw).softmax(-1)
    return total / DRAWS


def log_density(
    x: Float[Tensor, "cell latent"], heads: Float[Tensor, "level cell both"]
) -> Float[Tensor, "level cell"]:
    """Log density of each cell's x under its Gaussian for each level, summed over dimensions."""
    if jit.usable(heads):
        return kernels.LogDensity.apply(x.contiguous(), heads.contiguous())  # pyright: ignore[reportReturnType]
    mean, log_variance = heads.chunk(2, -1)
    return log_normal(x, mean, log_variance)


def log_normal(x: Tensor, mean: Tensor, log_variance: Tensor) -> Float[Tensor, "*cell"]:
    """Log density of a diagonal normal, summed over dimensions."""
    return -0.5 * ((x - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)).sum(-1)
