"""Two linear heads of an MLP of every cell with every level of a covariate, e.g. with every cell type it might be.

Written out, all pairs would pass a gather, a sum and a batch normalisation. But a linear layer of a cell and a level
is the sum of two parts, and mean and variance of such sums follow from the moments of the few inputs: the layer is
normalised by scaling its weights, before the pairs are made.
"""

from __future__ import annotations

from scduet._torch import torch

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from scduet.nn.layers import MLP, CovariateLinear

Heads = tuple[nn.Linear, nn.Linear]
Both = tuple[Float[Tensor, "level cell out"], Float[Tensor, "level cell out"]]
BITS = 16  # random bits of a unit's dropout


def each_level(mlp: MLP, heads: Heads, x: Float[Tensor, "#level cell in"], n_levels: int) -> Both:
    """Both heads of the hidden units of `mlp`, whose one covariate has `n_levels`.

    x: of the cells, (1, cell, in), or of each cell as each level. Equal to the MLP of all pairs as rows, the levels one
    after the other; only dropout has other draws.
    """
    weight, bias = (torch.cat([getattr(head, name) for head in heads]) for name in ("weight", "bias"))
    if len(mlp.linear) > 1 or mlp.layer_norm or torch.is_autocast_enabled(x.device.type):
        found = F.linear(_written_out(mlp, x, n_levels), weight, bias)
    else:
        layer = _scaled(mlp, mlp.linear[0], x, n_levels)  # type: ignore[arg-type]
        rate = mlp.dropout if mlp.training else 0.0
        found = _OneLayer.apply(x, *layer, weight / (1 - rate), bias, rate)  # pyright: ignore[reportUnknownMemberType]
    one, other = found.chunk(2, -1)
    return one, other


class _OneLayer(Function):
    """A linear layer of ReLU and dropout, and a linear layer of that, of all pairs; the derivatives in few passes.

    The second weight comes divided by the share of units that dropout keeps.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shift: Tensor, after: Tensor, bias: Tensor, rate: float) -> Tensor:
        hidden = torch.matmul(x, weight.t()) + shift[:, None]
        hidden.relu_()
        if rate:
            hidden.mul_(_kept(hidden, rate))
        ctx.save_for_backward(x, weight, after, hidden)
        return F.linear(hidden, after, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, after, hidden = ctx.saved_tensors
        slope = slopes[0].reshape(-1, len(after))
        by_after, by_bias = slope.t() @ hidden.flatten(0, 1), slope.sum(0)
        by_hidden = torch.ops.aten.threshold_backward((slope @ after).view_as(hidden), hidden, 0)
        by_shift = by_hidden.sum(1)
        of_x = by_hidden.sum(0, keepdim=True) if len(x) == 1 else by_hidden
        by_weight = of_x.flatten(0, 1).t() @ x.flatten(0, 1)
        return of_x @ weight, by_weight, by_shift, by_after, by_bias, None


def _written_out(mlp: MLP, x: Float[Tensor, "#level cell in"], n_levels: int) -> Float[Tensor, "level cell hidden"]:
    n = x.shape[1]
    code = torch.arange(n_levels, device=x.device).repeat_interleave(n)
    return mlp(x.expand(n_levels, -1, -1).flatten(0, 1), [code]).view(n_levels, n, -1)


def _scaled(
    mlp: MLP, linear: CovariateLinear, x: Float[Tensor, "#level cell in"], n_levels: int
) -> tuple[Float[Tensor, "hidden in"], Float[Tensor, "level hidden"]]:
    """Weight, and sum of bias and level, of the layer with its batch normalisation."""
    assert linear.bias is not None
    shift = sum(linear.covariate.values(), linear.bias.expand(n_levels, -1))
    if not mlp.norm:
        return linear.weight, shift
    norm: Any = mlp.norm[0]
    mean, variance, n_pairs = norm.running_mean, norm.running_var, n_levels * x.shape[1]
    if norm.training and n_pairs > 1:
        mean, variance = _moments(linear.weight, shift, x)
        _remember(norm, mean.detach(), variance.detach() * (n_pairs / (n_pairs - 1)))
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return linear.weight * scale[:, None], torch.addcmul(norm.bias, shift - mean, scale)


def _moments(
    weight: Float[Tensor, "hidden in"], shift: Float[Tensor, "level hidden"], x: Float[Tensor, "#level cell in"]
) -> tuple[Float[Tensor, " hidden"], Float[Tensor, " hidden"]]:
    """Mean and variance over all pairs of x @ weight.T + shift."""
    of_level, middle = x.mean(1), shift.mean(0)
    center, level = of_level.mean(0), shift - middle
    apart = (x - center).flatten(0, 1)
    variance = ((weight @ (apart.t() @ apart)) * weight).sum(1) / len(apart) + level.square().mean(0)
    if len(x) > 1:
        variance = variance + 2 * (((of_level - center) @ weight.t()) * level).mean(0)
    return weight @ center + middle, variance.clamp(min=0)


@torch.no_grad()
def _remember(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics, as batch normalisation does."""
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance, norm.momentum)
    norm.num_batches_tracked.add_(1)


def _kept(like: Tensor, rate: float) -> Tensor:
    """1 for units that dropout keeps, else 0: on a CPU from 16 bits each, three times as fast as Bernoulli draws."""
    if like.device.type != "cpu":
        return torch.empty_like(like).bernoulli_(1 - rate)
    words = torch.empty(-(-like.numel() * BITS // 64), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    numbers = words.view(torch.int16)[: like.numel()].view(like.shape)
    return (numbers >= round(rate * 2**BITS) - 2 ** (BITS - 1)).to(like.dtype)
