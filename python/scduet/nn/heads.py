"""The last linear layer of a decoder, held back so that the likelihood multiplies it out.

The likelihood can then write the slopes by the logits over the logits, and fold the weights of the cells into small
factors of the matrix products: a few passes over (cell, gene) less in each step.
"""

from __future__ import annotations

from scduet._torch import torch

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Head(NamedTuple):
    """Logits as a linear layer and its input."""

    hidden: Float[Tensor, "cell hidden"]
    weight: Float[Tensor, "gene hidden"]
    bias: Float[Tensor, " gene"]


Logits = Float[Tensor, "cell gene"] | Head


def head(layer: nn.Module, hidden: Float[Tensor, "cell hidden"]) -> Logits:
    """Logits of `layer`: not multiplied out yet where it is plainly linear, and computed in full precision."""
    if type(layer) is nn.Linear and not torch.is_autocast_enabled(hidden.device.type):
        return Head(hidden, layer.weight, layer.bias)
    return layer(hidden)


def write_logits(
    out: Float[Tensor, "cell gene"], layer: nn.Module, hidden: Float[Tensor, "cell hidden"]
) -> Float[Tensor, "cell gene"]:
    """Logits of `layer`, if no gradient is asked for; at `out`, where the layer is plainly linear."""
    parts = head(layer, hidden)
    if not isinstance(parts, Head):
        return parts
    # The bias is the weight of one more unit, which is always one: to fill `out` with it first takes a pass more.
    weight = torch.cat([parts.weight, parts.bias[:, None]], 1)
    return torch.mm(F.pad(parts.hidden, (0, 1), value=1.0), weight.t(), out=out)


def parts_of(logits: Logits) -> tuple[Tensor, Tensor | None, Tensor | None]:
    return logits if isinstance(logits, Head) else (logits, None, None)


class Matrix(NamedTuple):
    """Logits, and memory for their slopes, which is that of the logits where we multiplied them out ourselves."""

    value: Float[Tensor, "cell gene"]
    slopes: Float[Tensor, "cell gene"]
    bias: Float[Tensor, " gene"] | None = None  # that has still to be added to the value

    @classmethod
    def of(cls, logits: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, whole: bool = True) -> Matrix:
        """whole: with the bias, whose addition is a pass of its own."""
        if weight is None or bias is None:
            logits = logits.contiguous()
            return cls(logits, torch.empty_like(logits))
        product = torch.addmm(bias, logits, weight.t()) if whole else logits @ weight.t()
        return cls(product, product, None if whole else bias)


def through(
    slopes: Tensor | None, each: Tensor, hidden: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients by the logits, or by the parts of a head."""
    if slopes is None or hidden is None:
        return None, None, None
    if weight is None:
        return slopes * each, None, None
    turned = slopes.t()
    return (slopes @ weight).mul_(each), turned @ (hidden * each), turned.mv(each[:, 0])
