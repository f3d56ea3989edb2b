"""Low-rank adaptation (Hu et al., ICLR 2022): a layer y = W x + b becomes y = W x + b + (alpha / rank) U D x.

Only D (rank x in) and U (out x rank, initially zero) are trained. W needs neither gradient nor optimizer state.
"""

from __future__ import annotations

from scduet._torch import torch

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.transformers.encoder.trunk import Block, Trunk

LAYERS = ("qkv", "project")  # the layers of a block that are adapted: those of attention, as is common


class LowRank(nn.Module):
    def __init__(self, n_in: int, n_out: int, rank: int, alpha: float):
        super().__init__()
        bound = 1 / math.sqrt(n_in)  # as in torch's Linear
        self.down = nn.Parameter(torch.empty(rank, n_in).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(n_out, rank))
        self.scale = alpha / rank

    def forward(self, x: Float[Tensor, "token in"], rows: slice = slice(None)) -> Float[Tensor, "token out"]:
        """The term added to the outputs `rows` of the layer."""
        return F.linear(F.linear(x, self.down), self.scale * self.up[rows])


def add_low_rank(trunk: Trunk, rank: int, alpha: float) -> None:
    """Add a trainable pair for each of `LAYERS` to each block of `trunk`."""
    for block in trunk.blocks:
        assert isinstance(block, Block)
        for name in LAYERS:
            n_out, n_in = block.get_parameter(f"{name}.weight").shape
            block.low_rank[name] = LowRank(n_in, n_out, rank, alpha)
