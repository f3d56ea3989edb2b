"""Two linear heads of an MLP applied to every cell with every level of a covariate, e.g. every possible cell type.

The first linear layer of a cell and a level is the sum of two parts, so that only the sum, not the product, has to be
computed for all pairs.
"""

from __future__ import annotations

from scduet._torch import torch

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.nn.layers import MLP


def each_level(
    mlp: MLP, heads: tuple[nn.Linear, nn.Linear], x: Float[Tensor, "#level cell in"], n_levels: int
) -> Float[Tensor, "level cell both"]:
    """Concatenated outputs of both heads on the hidden units of `mlp`, whose only covariate has `n_levels`.

    x: (1, cell, in), or (level, cell, in). Equal to the MLP of all pairs as rows, level by level.
    """
    first: Any = mlp.linear[0]
    shift: Any = sum(first.covariate.values(), first.bias.expand(n_levels, -1))
    hidden = mlp.units(0, F.linear(x, first.weight), shift)
    code = torch.arange(n_levels, device=x.device).repeat_interleave(x.shape[1]) if len(mlp.linear) > 1 else None
    for i in range(1, len(mlp.linear)):
        hidden = mlp.units(i, mlp.linear[i](hidden, [code]))
    weight, bias = (torch.cat([getattr(head, name) for head in heads]) for name in ("weight", "bias"))
    return F.linear(hidden, weight, bias).view(n_levels, x.shape[1], -1)
