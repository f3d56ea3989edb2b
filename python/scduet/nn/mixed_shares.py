"""log NB of counts whose mean is a sum over states of amounts times shares, shares a softmax of a linear layer.

A spot holds tens of states of thousands of genes: all shares of a minibatch are some gigabytes in autograd. Here a few
spots at a time go forward and back while their shares are in the cache, so that only sums over states are kept.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from scduet.nn.likelihoods import EPS
from scduet.nn.second_order import once_differentiable

AT_ONCE = {"cpu": 1_000_000}  # shares held together; on other devices more, so that they are kept busy
ELSEWHERE = 64_000_000


@dataclass(frozen=True)
class Frozen:
    """The linear layer that gives the logits of shares, which is not trained: no gradients of it are taken."""

    weight: Float[Tensor, "gene hidden"]
    bias: Float[Tensor, "#label gene"]

    def shares(
        self, hidden: Float[Tensor, "*row label hidden"], shift: Float[Tensor, " gene"]
    ) -> Float[Tensor, "*row label gene"]:
        """softmax(weight hidden + bias of the label + shift)."""
        logits = torch.matmul(hidden, self.weight.t())
        return torch.softmax(logits.add_(self.bias + shift), -1)


def negative_binomial(
    x: Float[Tensor, "row gene"],
    library: Float[Tensor, "row 1"],
    hidden: Float[Tensor, "row mode label hidden"],
    amount: Float[Tensor, "row mode label"],
    more: Float[Tensor, "row gene"],
    shift: Float[Tensor, " gene"],
    log_dispersion: Float[Tensor, " gene"],
    layer: Frozen,
) -> Float[Tensor, " row"]:
    """log NB(x | library * (sum of amount * share + more), dispersion), summed over genes."""
    with torch.autocast(x.device.type, enabled=False):
        tensors = [t.float() for t in (hidden, amount, more, shift, log_dispersion)]
        return _Mixed.apply(x, library, layer, *tensors)  # pyright: ignore[reportReturnType]


def mixed(
    hidden: Float[Tensor, "row mode label hidden"],
    amount: Float[Tensor, "row mode label"],
    shift: Float[Tensor, " gene"],
    layer: Frozen,
) -> Float[Tensor, "row gene"]:
    """The sum over modes and labels of amount * share, without gradients."""
    pieces = [_sum(amount[part], layer.shares(hidden[part], shift)) for part in _parts(hidden, layer)]
    return torch.cat(pieces)


class _Mixed(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, library: Tensor, layer: Frozen, *tensors: Tensor) -> Tensor:
        hidden, amount, more, shift, log_r = tensors
        r, slopes = log_r.exp(), [torch.empty_like(t) for t in (hidden, amount, more, more, more)]
        found = x.new_empty(len(x))
        for part in _parts(hidden, layer):
            share = layer.shares(hidden[part], shift)
            rate = library[part] * _sum(amount[part], share).add_(more[part])
            found[part], by_rate, by_r = _log_nb(x[part], rate, r)
            by_mean = by_rate.mul_(library[part])
            d_hidden, d_amount, d_more, d_shift, d_r = (slope[part] for slope in slopes)
            d_more.copy_(by_mean)
            torch.mul(by_r, r, out=d_r)
            flat = share.flatten(1, 2)
            d_amount.copy_(torch.bmm(flat, by_mean[:, :, None]).view_as(d_amount))
            by_share = by_mean[:, None, None] - d_amount[..., None]
            by_logit = share.mul_(by_share).mul_(amount[part][..., None])
            torch.sum(flat, 1, out=d_shift)
            torch.matmul(by_logit, layer.weight, out=d_hidden)
        ctx.save_for_backward(*slopes)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_amount, d_more, d_shift, d_r = ctx.saved_tensors
        each = upstream[0]
        columns, wide = each[:, None], each[:, None, None]
        own = d_hidden * wide[..., None], d_amount * wide, d_more * columns
        return None, None, None, *own, d_shift.t().mv(each), d_r.t().mv(each)


def _parts(hidden: Tensor, layer: Frozen) -> Iterator[slice]:
    """Rows whose shares are held together."""
    width = hidden.shape[1] * hidden.shape[2] * len(layer.weight)
    size = max(1, AT_ONCE.get(hidden.device.type, ELSEWHERE) // width)
    return (slice(start, start + size) for start in range(0, len(hidden), size))


def _sum(amount: Tensor, share: Tensor) -> Float[Tensor, "row gene"]:
    return torch.bmm(amount.flatten(1)[:, None], share.flatten(1, 2))[:, 0]


def _log_nb(x: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log NB summed over genes, and its slopes by the mean and by the dispersion."""
    total, guarded = mean + (r + EPS), mean + EPS
    log_r, log_total, count = (r + EPS).log(), total.log(), x + r
    found = r * (log_r - log_total) + x * (guarded.log() - log_total)
    found = found + torch.lgamma(count) - torch.lgamma(r) - torch.lgamma(x + 1)
    over = count / total
    by_r = log_r - log_total + r / (r + EPS) - over + torch.digamma(count) - torch.digamma(r)
    return found.sum(-1), x / guarded - over, by_r
