"""scFoundation's decoder: attention over all 19,264 genes in linear time, by random features (Choromanski et al. 2021).

softmax attention exp(q k) is the mean over fixed random directions w of phi_w(q) phi_w(k), phi_w(x) = exp(w x - x²/2),
so that keys and values are summed once for all queries. Blocks are pre-norm, with GELU.
"""

from __future__ import annotations

import scduet._torch  # noqa: F401

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_FEATURE_EPS = 1e-4  # of the official code


@dataclass(frozen=True)
class PerformerConfig:
    width: int = 512
    """Dimensions of a token."""
    n_layers: int = 6
    """Number of blocks."""
    n_heads: int = 8
    """Attention heads of each block."""
    head_width: int = 64
    """Dimensions of a head."""
    n_features: int = 266
    """Random directions."""


class PerformerBlock(nn.Module):
    directions: Tensor

    def __init__(self, config: PerformerConfig):
        super().__init__()
        c, inner = config, config.n_heads * config.head_width
        self.n_heads = c.n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.q, self.k, self.v = (nn.Linear(c.width, inner) for _ in range(3))
        self.project = nn.Linear(inner, c.width)
        self.expand, self.contract = nn.Linear(c.width, 4 * c.width), nn.Linear(4 * c.width, c.width)
        self.register_buffer("directions", nn.init.normal_(nn.Linear(c.head_width, c.n_features).weight.data))

    def forward(self, x: Float[Tensor, "cell gene width"]) -> Float[Tensor, "cell gene width"]:
        x = x + self.project(self._attend(self.norm_1(x)))
        return x + self.contract(F.gelu(self.expand(self.norm_2(x))))

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = self._features(q, (-1,)), self._features(k, (-1, -2, -3))
        weight = (q @ k.sum(-2).unsqueeze(-1)).reciprocal()
        return ((q @ (k.transpose(-1, -2) @ v)) * weight).transpose(1, 2).flatten(-2)

    def _features(self, x: Tensor, largest_over: tuple[int, ...]) -> Float[Tensor, "cell head gene feature"]:
        """The maximum exponent is subtracted; for keys, that of the cell, independent of the minibatch."""
        x = x * x.shape[-1] ** -0.25
        exponent = x @ self.directions.T
        shifted = exponent - x.square().sum(-1, keepdim=True) / 2 - exponent.amax(largest_over, keepdim=True)
        return (shifted.exp() + _FEATURE_EPS) * self.directions.shape[0] ** -0.5


class Performer(nn.Module):
    def __init__(self, config: PerformerConfig):
        super().__init__()
        self.blocks = nn.ModuleList(PerformerBlock(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Float[Tensor, "cell gene width"]) -> Float[Tensor, "cell gene width"]:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
