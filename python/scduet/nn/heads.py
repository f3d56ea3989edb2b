"""The last linear layer of a decoder, held back so that the likelihood multiplies it out.

The likelihood can then write the slopes by the logits over the logits, and fold the weights of the cells into small
factors of the matrix products: a few passes over (cell, gene) less in each step.
"""

from __future__ import annotations

from scduet._torch import torch

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


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
