"""Loss functions of transformers."""

from __future__ import annotations

from scduet._torch import torch

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

MASKED, SWAPPED = 0.8, 0.1  # of the chosen tokens, as in BERT; the rest are unchanged


def bert_masking(
    gene: Int[Tensor, "cell token"],
    maskable: Bool[Tensor, "cell token"],
    genes: Int[Tensor, " gene"],
    mask: int,
    share: float,
) -> tuple[Int[Tensor, "cell token"], Bool[Tensor, "cell token"]]:
    """Mask tokens: the input of the encoder, and the tokens to predict (Devlin et al. 2019).

    Each maskable token is chosen with probability `share`. Of those chosen 80 % become `mask`, 10 % one of `genes`.
    """
    chosen = (torch.rand(gene.shape, device=gene.device) < share) & maskable
    fate = torch.rand(gene.shape, device=gene.device)
    other = genes[torch.randint(len(genes), gene.shape, device=gene.device)]
    shown = torch.where(chosen & (fate < MASKED), mask, gene)
    return torch.where(chosen & (fate >= MASKED) & (fate < MASKED + SWAPPED), other, shown), chosen


def mean_square(predicted: Float[Tensor, " token"], value: Float[Tensor, " token"]) -> Float[Tensor, ""]:
    """Mean of (predicted - value)^2; 0 if empty."""
    return (predicted - value).square().sum() / max(len(value), 1)


def zero_nll(logit: Float[Tensor, " token"], value: Float[Tensor, " token"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of being nonzero, p(nonzero) = sigmoid(logit): mean over tokens; 0 if empty."""
    return F.binary_cross_entropy_with_logits(logit, (value > 0).to(logit.dtype), reduction="sum") / max(len(value), 1)


def elastic_similarity(cell: Float[Tensor, "cell width"], threshold: float) -> Float[Tensor, ""]:
    """Elastic cell similarity (Cui et al. 2024): mean over all pairs (i, j) of 1 - (max(0, s_ij) - threshold)^2.

    s is the cosine, with zeros on the diagonal. It pushes similarities away from the threshold.
    """
    cell = F.normalize(cell, dim=1)
    cosine = (cell @ cell.t()).masked_fill(torch.eye(len(cell), dtype=torch.bool, device=cell.device), 0.0)
    return (1 - (cosine.clamp(min=0) - threshold).square()).mean()


def reversed_gradient(x: Float[Tensor, "*shape"], scale: float = 1.0) -> Float[Tensor, "*shape"]:
    """Gradient reversal (Ganin et al. 2016): the identity, whose gradient is multiplied by -scale."""
    return x.detach() * (1 + scale) - scale * x
