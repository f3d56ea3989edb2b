"""The losses by which transformers of cells are trained, each a formula."""

from __future__ import annotations

from scduet._torch import torch

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

MASKED, SWAPPED = 0.8, 0.1  # of the chosen tokens, as in BERT; the rest stay as they are


def bert_masking(
    gene: Int[Tensor, "cell token"],
    maskable: Bool[Tensor, "cell token"],
    genes: Int[Tensor, " gene"],
    mask: int,
    share: float,
) -> tuple[Int[Tensor, "cell token"], Bool[Tensor, "cell token"]]:
    """What the encoder is shown, and which tokens it must restore (Devlin et al. 2019).

    Each maskable token is chosen with probability `share`. Of those chosen 80 % become `mask`, 10 % one of `genes`.
    """
    chosen = (torch.rand(gene.shape, device=gene.device) < share) & maskable
    fate = torch.rand(gene.shape, device=gene.device)
    other = genes[torch.randint(len(genes), gene.shape, device=gene.device)]
    shown = torch.where(chosen & (fate < MASKED), mask, gene)
    return torch.where(chosen & (fate >= MASKED) & (fate < MASKED + SWAPPED), other, shown), chosen


def mean_square(predicted: Float[Tensor, " token"], value: Float[Tensor, " token"]) -> Float[Tensor, ""]:
    """Mean of (predicted - value)^2; 0 of nothing."""
    return (predicted - value).square().sum() / max(len(value), 1)


def zero_nll(logit: Float[Tensor, " token"], value: Float[Tensor, " token"]) -> Float[Tensor, ""]:
    """-log p of being zero or not, p(not zero) = sigmoid(logit): mean over tokens; 0 of nothing."""
    return F.binary_cross_entropy_with_logits(logit, (value > 0).to(logit.dtype), reduction="sum") / max(len(value), 1)


def elastic_similarity(cell: Float[Tensor, "cell width"], threshold: float) -> Float[Tensor, ""]:
    """Elastic cell similarity (Cui et al. 2024): mean over all pairs (i, j) of 1 - (max(0, s_ij) - threshold)^2.

    s is the cosine, with zeros on the diagonal. It drives similarities away from the threshold, to either side.
    """
    cell = F.normalize(cell, dim=1)
    cosine = (cell @ cell.t()).masked_fill(torch.eye(len(cell), dtype=torch.bool, device=cell.device), 0.0)
    return (1 - (cosine.clamp(min=0) - threshold).square()).mean()


def reversed_gradient(x: Float[Tensor, "*shape"], scale: float = 1.0) -> Float[Tensor, "*shape"]:
    """x itself; its gradient comes back times -scale (Ganin et al. 2016): what follows learns against what precedes."""
    return x.detach() * (1 + scale) - scale * x
