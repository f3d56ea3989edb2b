"""Two linear heads of an MLP of every cell with every level of a covariate, e.g. with every cell type it might be.

Written out, all pairs would pass a gather, a product, a sum and a batch normalisation. But a linear layer of a cell and
a level is the sum of two parts, of which only the sum has the size of all pairs. The derivatives are worked out here
too: autograd would take a hundred small steps. On a CPU each pass over the pairs is compiled (`cpu_enumerated`).
"""

from __future__ import annotations

from scduet._torch import torch

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from scduet.nn import cpu_enumerated
from scduet.nn.layers import MLP

Heads = tuple[nn.Linear, nn.Linear]
Both = tuple[Float[Tensor, "level cell out"], Float[Tensor, "level cell out"]]


def each_level(mlp: MLP, heads: Heads, x: Float[Tensor, "#level cell in"], n_levels: int) -> Both:
    """Both heads of the hidden units of `mlp`, whose one covariate has `n_levels`.

    x: of the cells, (1, cell, in), or of each cell as each level. Equal to the MLP of all pairs as rows, the levels one
    after the other; only dropout has other draws.
    """
    weight, bias = (torch.cat([getattr(head, name) for head in heads]) for name in ("weight", "bias"))
    if len(mlp.linear) > 1 or mlp.layer_norm or torch.is_autocast_enabled(x.device.type):
        found = F.linear(_written_out(mlp, x, n_levels), weight, bias)
    else:
        layer: Any = mlp.linear[0]
        shifts: Any = sum(layer.covariate.values(), layer.bias.expand(n_levels, -1))
        shift = shifts.contiguous()
        norm: Any = mlp.norm[0] if mlp.norm else None
        scaling = (None, None) if norm is None else (norm.weight, norm.bias)
        rate = mlp.dropout if mlp.training else 0.0
        found = _OneLayer.apply(norm, rate, x, layer.weight, shift, *scaling, weight / (1 - rate), bias)  # pyright: ignore[reportUnknownMemberType]
    one, other = found.chunk(2, -1)
    return one, other


class _OneLayer(Function):
    """A linear layer, batch normalisation, ReLU, dropout and a linear layer of all pairs, in few passes.

    The second weight comes divided by the share of units that dropout keeps. Of the first layer `product` is what comes
    of the cell, and `shift` of the level; their sum is normalised as (product + shift - mean) * scale + norm_bias.
    """

    @staticmethod
    def forward(
        ctx: Any,
        norm: Any,
        rate: float,
        x: Float[Tensor, "#level cell in"],
        weight: Float[Tensor, "hidden in"],
        shift: Float[Tensor, "level hidden"],
        norm_weight: Float[Tensor, " hidden"] | None,
        norm_bias: Float[Tensor, " hidden"] | None,
        after: Float[Tensor, "out hidden"],
        bias: Float[Tensor, " out"],
    ) -> Float[Tensor, "level cell out"]:
        product, each, scale = torch.matmul(x, weight.t()), None, torch.ones_like(shift[0])
        by_pairs = norm is not None and norm.training and len(shift) * product.shape[1] > 1
        if norm is not None and norm_weight is not None and norm_bias is not None:
            mean, variance = _moments(norm, product, shift) if by_pairs else (norm.running_mean, norm.running_var)
            each, shift = torch.rsqrt(variance + norm.eps), shift - mean
            scale = norm_weight * each
        hidden = _units(product, scale, shift * scale if norm_bias is None else norm_bias + shift * scale, rate)
        ctx.save_for_backward(x, weight, after, product, shift, hidden, each, scale)
        ctx.by_pairs = by_pairs
        return F.linear(hidden, after, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, after, product, shift, hidden, each, scale = ctx.saved_tensors
        slope = slopes[0].reshape(-1, len(after))
        by_after, by_bias, by_hidden = slope.t() @ hidden.flatten(0, 1), slope.sum(0), (slope @ after).view_as(hidden)
        by_norm_bias, by_norm = _cleared(by_hidden, hidden, product, shift)
        of_norm = (None, None) if each is None else (by_norm.mul_(each), by_norm_bias)
        move, along = torch.zeros_like(scale), torch.zeros_like(scale)
        if ctx.by_pairs:  # the slopes lose their mean, and what changes only the spread of a unit
            n = hidden.shape[0] * hidden.shape[1]
            move, along = scale * by_norm_bias / -n, scale * each * by_norm / -n
        by_shift, by_product = _passed_back(by_hidden, product, shift, (scale, move, along))
        by_weight = by_product.flatten(0, 1).t() @ x.flatten(0, 1)
        return None, None, by_product @ weight, by_weight, by_shift, *of_norm, by_after, by_bias


def _written_out(mlp: MLP, x: Float[Tensor, "#level cell in"], n_levels: int) -> Float[Tensor, "level cell hidden"]:
    n = x.shape[1]
    code = torch.arange(n_levels, device=x.device).repeat_interleave(n)
    return mlp(x.expand(n_levels, -1, -1).flatten(0, 1), [code]).view(n_levels, n, -1)


@torch.no_grad()
def _moments(norm: Any, product: Float[Tensor, "#level cell hidden"], shift: Float[Tensor, "level hidden"]) -> Both:
    """Mean and variance of the units over all pairs; moves the running ones, as batch normalisation does."""
    n = len(shift) * product.shape[1]
    if product.device.type == "cpu":
        mean, variance = cpu_enumerated.moments(product, shift)
    else:
        variance, mean = torch.var_mean(product + shift[:, None], (0, 1), correction=0)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (n / (n - 1)), norm.momentum)
    norm.num_batches_tracked.add_(1)
    return mean, variance


def _units(product: Tensor, scale: Tensor, shift: Tensor, rate: float) -> Float[Tensor, "level cell hidden"]:
    if product.device.type == "cpu":
        return cpu_enumerated.units(product, scale, shift, rate)
    hidden = torch.addcmul(shift[:, None], product, scale).relu_()
    return hidden.mul_(torch.empty_like(hidden).bernoulli_(1 - rate)) if rate else hidden


def _cleared(
    by_hidden: Tensor, hidden: Tensor, product: Tensor, shift: Tensor
) -> tuple[Float[Tensor, " hidden"], Float[Tensor, " hidden"]]:
    """Sets slopes of units that are zero to zero; sums of the slopes, and of the slopes times product + shift."""
    if product.device.type == "cpu":
        return cpu_enumerated.cleared(by_hidden, hidden, product, shift)
    by_hidden.mul_(hidden > 0)
    return by_hidden.sum((0, 1)), (by_hidden * (product + shift[:, None])).sum((0, 1))


def _passed_back(
    by_hidden: Tensor, product: Tensor, shift: Tensor, factors: tuple[Tensor, Tensor, Tensor]
) -> tuple[Float[Tensor, "level hidden"], Float[Tensor, "#level cell hidden"]]:
    """Slopes by shift and product: by_hidden * factor + move + (product + shift) * along, added up."""
    if product.device.type == "cpu":
        return cpu_enumerated.passed_back(by_hidden, product, shift, factors)
    factor, move, along = factors
    slope = by_hidden * factor + move + (product + shift[:, None]) * along
    return slope.sum(1), slope.sum(0, keepdim=True) if len(product) < len(shift) else slope
