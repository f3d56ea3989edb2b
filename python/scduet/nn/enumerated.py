"""Two linear heads of an MLP of every cell with every level of a covariate, e.g. with every cell type it might be.

Written out, all pairs would pass the first product. But a linear layer of a cell and a level is the sum of two parts,
of which only the sum has the size of all pairs.
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
    """Both heads, side by side, of the hidden units of `mlp`, whose one covariate has `n_levels`.

    x: of the cells, (1, cell, in), or of each cell as each level. Equal to the MLP of all pairs as rows, the levels one
    after the other.
    """
    first: Any = mlp.linear[0]
    shift: Any = sum(first.covariate.values(), first.bias.expand(n_levels, -1))
    hidden = mlp.units(0, F.linear(x, first.weight), shift)
    code = torch.arange(n_levels, device=x.device).repeat_interleave(x.shape[1]) if len(mlp.linear) > 1 else None
    for i in range(1, len(mlp.linear)):
        hidden = mlp.units(i, mlp.linear[i](hidden, [code]))
    weight, bias = (torch.cat([getattr(head, name) for head in heads]) for name in ("weight", "bias"))
    return F.linear(hidden, weight, bias).view(n_levels, x.shape[1], -1)
