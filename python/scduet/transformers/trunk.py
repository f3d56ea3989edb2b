"""The bidirectional transformer that Geneformer, scGPT and scFoundation share, all of it.

Cells have different numbers of tokens. They are laid end to end, so that no work and no rounding is spent on padding,
and a cell's result depends on no other cell. A family adds only its tokenizer, its embedding of tokens, and its heads.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class TrunkConfig:
    width: int = 256
    """Dimensions of a token."""
    n_layers: int = 6
    """Number of blocks."""
    n_heads: int = 4
    """Attention heads of each block."""
    feedforward: int = 512
    """Width of the hidden layer of each block."""
    dropout: float = 0.02
    """Dropout rate, in training."""
    norm_eps: float = 1e-12
    """Added to the variance in each LayerNorm."""
    final_norm: bool = False
    """One more LayerNorm after the last block."""


@dataclass(frozen=True)
class Packing:
    """How the cells of a minibatch lie end to end."""

    present: Bool[Tensor, "cell place"]  # where the padded minibatch holds a token
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, padding: Bool[Tensor, "cell place"]) -> Packing:
        return cls(~padding, tuple((~padding).sum(1).tolist()))

    @cached_property
    def places(self) -> Int[Tensor, " token"]:
        """Place of each token in the flattened padded minibatch."""
        return self.present.flatten().nonzero().squeeze(1)

    @cached_property
    def starts(self) -> Int[Tensor, " cell"]:
        """First token of each cell."""
        return torch.tensor([0, *accumulate(self.lengths[:-1])], device=self.present.device)

    def pack(self, padded: Tensor) -> Tensor:
        """(cell, place, ...) to (token, ...)"""
        return padded.flatten(0, 1).index_select(0, self.places)

    def unpack(self, packed: Tensor) -> Tensor:
        """(token, ...) to (cell, place, ...), with zeros where there is no token."""
        flat = packed.new_zeros(self.present.numel(), *packed.shape[1:])
        return flat.index_copy(0, self.places, packed).unflatten(0, self.present.shape)

    def split(self, packed: Tensor) -> tuple[Tensor, ...]:
        """The tokens of each cell."""
        return packed.split(list(self.lengths))


def attend_by_cell(
    q: Float[Tensor, "query head dim"],
    k: Float[Tensor, "token head dim"],
    v: Float[Tensor, "token head dim"],
    packing: Packing,
    dropout: float = 0.0,
) -> Float[Tensor, "query head dim"]:
    """Attention within each cell, cell after cell. Queries are all tokens, or one for each cell."""
    queries = packing.split(q) if len(q) == len(k) else q.split(1)
    mixed = [
        F.scaled_dot_product_attention(*(part.transpose(0, 1)[None] for part in cell), dropout_p=dropout)[0]
        for cell in zip(queries, packing.split(k), packing.split(v), strict=True)
    ]
    return torch.cat(mixed, 1).transpose(0, 1)


def attend_padded(
    q: Float[Tensor, "query head dim"],
    k: Float[Tensor, "token head dim"],
    v: Float[Tensor, "token head dim"],
    packing: Packing,
    dropout: float = 0.0,
) -> Float[Tensor, "query head dim"]:
    """The same in one call, for devices on which many small calls are slow."""
    one_each = len(q) != len(k)
    padded = (q[:, None] if one_each else packing.unpack(q), packing.unpack(k), packing.unpack(v))
    whole = len(set(packing.lengths)) == 1
    mask = None if whole else packing.present[:, None, None, :]
    mixed = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in padded), attn_mask=mask, dropout_p=dropout)
    mixed = mixed.transpose(1, 2)
    return mixed[:, 0] if one_each else packing.pack(mixed)


class Block(nn.Module):
    """Attention, then a feed-forward layer, each followed by the sum with its input and LayerNorm (post-norm)."""

    def __init__(self, config: TrunkConfig):
        super().__init__()
        c = self.config = config
        self.qkv, self.project = nn.Linear(c.width, 3 * c.width), nn.Linear(c.width, c.width)
        self.expand, self.contract = nn.Linear(c.width, c.feedforward), nn.Linear(c.feedforward, c.width)
        self.norm_1, self.norm_2 = nn.LayerNorm(c.width, eps=c.norm_eps), nn.LayerNorm(c.width, eps=c.norm_eps)
        self.dropout = nn.Dropout(c.dropout)

    def forward(
        self, x: Float[Tensor, "token width"], packing: Packing, first_only: bool = False
    ) -> Float[Tensor, "query width"]:
        """New states of all tokens, or of the first of each cell only, which spares most of a last block."""
        asking = x[packing.starts] if first_only else x
        x = self.norm_1(asking + self.dropout(self.project(self._attend(asking, x, packing))))
        return self.norm_2(x + self.dropout(self.contract(self.dropout(F.relu(self.expand(x))))))

    def _attend(self, asking: Tensor, x: Tensor, packing: Packing) -> Tensor:
        width, weight, bias = self.config.width, self.qkv.weight, self.qkv.bias
        q = F.linear(asking, weight[:width], bias[:width])
        k, v = F.linear(x, weight[width:], bias[width:]).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.config.n_heads, -1)) for t in (q, k, v))
        attend = attend_by_cell if x.device.type == "cpu" else attend_padded
        return attend(q, k, v, packing, self.config.dropout if self.training else 0.0).flatten(-2)


class Trunk(nn.Module):
    def __init__(self, config: TrunkConfig):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps) if config.final_norm else nn.Identity()

    def forward(
        self, x: Float[Tensor, "token width"], packing: Packing, depth: int | None = None, first_only: bool = False
    ) -> Float[Tensor, "query width"]:
        """States after `depth` blocks (None: all, and the final norm) of all tokens, or of the first of each cell."""
        depth = len(self.blocks) if depth is None else depth
        for i, block in enumerate(self.blocks[:depth]):
            x = block(x, packing, first_only and i == depth - 1)
        if first_only and depth == 0:
            x = x[packing.starts]
        return self.norm(x) if depth == len(self.blocks) else x
