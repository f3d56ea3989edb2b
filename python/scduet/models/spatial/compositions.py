"""Logarithms and distances of compositions, as scvi-tools takes them."""

from __future__ import annotations

from scduet._torch import torch

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def clamped_log(probability: Tensor) -> Tensor:
    """As in torch.distributions.Categorical."""
    eps = torch.finfo(probability.dtype).eps
    return probability.clamp(eps, 1 - eps).log()


def divergence(truth: Float[Tensor, "spot label"], found: Float[Tensor, "spot type"]) -> Float[Tensor, ""]:
    """Mean KL divergence of the composition found from the true one, in which the further types have no part."""
    truth = F.pad(truth, (0, found.shape[-1] - truth.shape[-1])) + 1e-20
    truth = truth / truth.sum(-1, keepdim=True)
    return (truth * (truth.log() - (found / found.sum(-1, keepdim=True)).log())).sum(-1).mean()
