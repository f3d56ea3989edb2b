"""Maximum mean discrepancy between groups of a minibatch, as a term of a loss."""

from __future__ import annotations

from scduet._torch import torch

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

VARIANCES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)  # as in trVAE


def kernel(a: Float[Tensor, "row dim"], b: Float[Tensor, "column dim"]) -> Float[Tensor, "row column"]:
    """Mean of Gaussian kernels exp(-d² / (2 s)) with the variances s of trVAE (Lotfollahi et al. 2020)."""
    squared = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
    total = torch.zeros_like(squared)
    for variance in VARIANCES:
        total = total + (squared / (-2 * variance)).exp()
    return total / len(VARIANCES)


def mmd_between(x: Float[Tensor, "cell dim"], group: Int[Tensor, " cell"], n_groups: int) -> Float[Tensor, ""]:
    """Squared discrepancy of the groups, a mean over the pairs of which both have cells; 0 with fewer than two.

    The biased estimate (each cell is also compared with itself), which is never negative; for two groups that of trVAE.
    """
    member = F.one_hot(group, n_groups).to(x.dtype)
    size = member.sum(0)
    weight = member[:, size > 0] / size[size > 0]  # one by one column for each group that is there
    means = weight.T @ kernel(x, x) @ weight
    within = means.diagonal()
    pairs = within[:, None] + within - 2 * means
    n = len(within)
    return pairs.sum() / max(n * (n - 1), 1)
