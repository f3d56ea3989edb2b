"""The last linear layer of a decoder, evaluated by the likelihood.

The likelihood can then overwrite the logits with their gradients and fold cell weights into the smaller factors of the
matrix products, which saves a few passes over (cell, gene) per step.
"""

from __future__ import annotations

from scduet._torch import torch

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.nn.layers import Codes, CovariateLinear


class LazyLinear(NamedTuple):
    """Logits as a linear layer and its input."""

    hidden: Float[Tensor, "cell hidden"]
    weight: Float[Tensor, "gene hidden"]
    bias: Float[Tensor, " gene"]


Logits = Float[Tensor, "cell gene"] | LazyLinear


def head(layer: nn.Module, hidden: Float[Tensor, "cell hidden"], codes: Codes = ()) -> Logits:
    """Logits of `layer`: not multiplied out yet where it is linear, and computed in full precision.

    codes: of the categorical covariates of a CovariateLinear, which are indicators beside the hidden units here.
    """
    linear = type(layer) in (nn.Linear, CovariateLinear)  # others may read more than one tensor
    lazy = linear and not torch.is_autocast_enabled(hidden.device.type)
    if lazy and type(layer) is nn.Linear:
        return LazyLinear(hidden, layer.weight, layer.bias)
    if lazy and type(layer) is CovariateLinear and layer.bias is not None:
        tables = list(layer.covariate.items())
        indicators = [F.one_hot(codes[int(name)], len(table)).to(hidden.dtype) for name, table in tables]
        weight = torch.cat([layer.weight, *(table.t() for _, table in tables)], 1)
        return LazyLinear(torch.cat([hidden, *indicators], 1), weight, layer.bias)
    return layer(hidden, codes) if type(layer) is CovariateLinear else layer(hidden)


def write_logits(
    out: Float[Tensor, "cell gene"], layer: nn.Module, hidden: Float[Tensor, "cell hidden"]
) -> Float[Tensor, "cell gene"]:
    """Logits of `layer` without gradients; written to `out` if it is a plain linear layer."""
    parts = head(layer, hidden)
    if not isinstance(parts, LazyLinear):
        return parts
    # The bias is the weight of an additional unit equal to one; filling `out` with it first would take another pass.
    weight = torch.cat([parts.weight, parts.bias[:, None]], 1)
    return torch.mm(F.pad(parts.hidden, (0, 1), value=1.0), weight.t(), out=out)


def parts_of(logits: Logits) -> tuple[Tensor, Tensor | None, Tensor | None]:
    return logits if isinstance(logits, LazyLinear) else (logits, None, None)


class Matrix(NamedTuple):
    """Logits, and memory for their gradients: that of the logits if they were computed here."""

    value: Float[Tensor, "cell gene"]
    grads: Float[Tensor, "cell gene"]
    bias: Float[Tensor, " gene"] | None = None  # still to be added to the value

    @classmethod
    def of(
        cls, logits: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, add_bias: bool = True
    ) -> Matrix:
        """add_bias: add the bias here, in another pass, or pass it on in `bias`."""
        if weight is None or bias is None:
            logits = logits.contiguous()
            return cls(logits, torch.empty_like(logits))
        product = torch.addmm(bias, logits, weight.t()) if add_bias else logits @ weight.t()
        return cls(product, product, None if add_bias else bias)


def head_backward(
    grads: Tensor | None, each: Tensor, hidden: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients with respect to the logits, or to the parts of a head."""
    if grads is None or hidden is None:
        return None, None, None
    if weight is None:
        return grads * each, None, None
    turned = grads.t()
    return (grads @ weight).mul_(each), turned @ (hidden * each), turned.mv(each[:, 0])
