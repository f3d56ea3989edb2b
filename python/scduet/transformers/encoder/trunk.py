"""The bidirectional transformer shared by Geneformer, scGPT and scFoundation.

Cells have different numbers of tokens and are concatenated without padding, so that the result of a cell does not
depend on other cells. A model family only adds its tokenizer, token embedding and heads.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

SHORT = 128  # tokens up to which a single attention call beats one per cell on a CPU, with unknown tokens


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
    """Whether a LayerNorm follows the last block."""


@dataclass(frozen=True)
class Packing:
    """Layout of the concatenated cells of a minibatch."""

    present: Bool[Tensor, "cell place"]  # where the padded minibatch holds a token
    lengths: tuple[int, ...]
    known: Bool[Tensor, " token"] | None = None  # tokens that others may attend to, besides itself. None: all

    @classmethod
    def of(cls, padding: Bool[Tensor, "cell place"], known: Bool[Tensor, "cell place"] | None = None) -> Packing:
        packing = cls(~padding, tuple((~padding).sum(1).tolist()))
        return packing if known is None else replace(packing, known=packing.pack(known))

    @cached_property
    def places(self) -> Int[Tensor, " token"]:
        """Position of each token in the flattened padded minibatch."""
        return self.present.flatten().nonzero().squeeze(1)

    @cached_property
    def starts(self) -> Int[Tensor, " cell"]:
        """First token of each cell."""
        return torch.tensor([0, *accumulate(self.lengths[:-1])], device=self.present.device)

    @cached_property
    def cell(self) -> Int[Tensor, " token"]:
        """The cell of each token."""
        lengths = torch.tensor(self.lengths, device=self.present.device)
        return torch.repeat_interleave(lengths, output_size=sum(self.lengths))

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

    @cached_property
    def sees_padded(self) -> Bool[Tensor, "cell head query key"]:
        """Attention mask: known positions, and the position itself. If all are known, one query represents all."""
        if self.known is None:
            return self.present[:, None, None, :]
        itself = torch.eye(self.present.shape[1], dtype=torch.bool, device=self.present.device)
        return (self.unpack(self.known)[:, None, :] | itself)[:, None]


def attend_by_cell(
    q: Float[Tensor, "query head dim"],
    k: Float[Tensor, "token head dim"],
    v: Float[Tensor, "token head dim"],
    packing: Packing,
    dropout: float = 0.0,
) -> Float[Tensor, "query head dim"]:
    """Attention within each cell, one cell at a time. Queries are all tokens, or the first of each cell."""
    queries = packing.split(q) if len(q) == len(k) else q.split(1)
    cells = list(zip(queries, packing.split(k), packing.split(v), strict=True))
    if packing.known is not None:
        which = packing.split(packing.known)
        if len(q) == len(k):
            return torch.cat([_attend_known(*cell, known, dropout) for cell, known in zip(cells, which, strict=True)])
        cells = [(first, k[known], v[known]) for (first, k, v), known in zip(cells, which, strict=True)]
    mixed = [
        F.scaled_dot_product_attention(*(part.transpose(0, 1)[None] for part in cell), dropout_p=dropout)[0]
        for cell in cells
    ]
    return torch.cat(mixed, 1).transpose(0, 1)


def _attend_known(q: Tensor, k: Tensor, v: Tensor, known: Tensor, dropout: float) -> Float[Tensor, "token head dim"]:
    """Attention of the tokens of a cell to the known ones and to themselves, without pairs of unknown tokens."""
    there, rest = known.nonzero().squeeze(1), (~known).nonzero().squeeze(1)
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))  # (head, token, dim)
    k_there, v_there, q_rest = k[:, there], v[:, there], q[:, rest]
    among = F.scaled_dot_product_attention(q[None, :, there], k_there[None], v_there[None], dropout_p=dropout)[0]
    own = (q_rest * k[:, rest]).sum(-1, keepdim=True)
    weight = torch.cat([own, q_rest @ k_there.transpose(1, 2)], -1) / q.shape[-1] ** 0.5
    weight = F.dropout(weight.softmax(-1), dropout)
    alone = weight[..., :1] * v[:, rest] + weight[..., 1:] @ v_there
    mixed = torch.empty_like(q).index_copy(1, there, among).index_copy(1, rest, alone)
    return mixed.transpose(0, 1)


def attend_padded(
    q: Float[Tensor, "query head dim"],
    k: Float[Tensor, "token head dim"],
    v: Float[Tensor, "token head dim"],
    packing: Packing,
    dropout: float = 0.0,
) -> Float[Tensor, "query head dim"]:
    """The same in one call, for devices where many small calls are slow."""
    one_each = len(q) != len(k)
    padded = (q[:, None] if one_each else packing.unpack(q), packing.unpack(k), packing.unpack(v))
    whole = len(set(packing.lengths)) == 1 and packing.known is None
    mask = None if whole else packing.sees_padded[:, :, : padded[0].shape[1]]
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
        self.low_rank = nn.ModuleDict()  # fine-tuning's additions by layer name: see lora.py

    def forward(
        self, x: Float[Tensor, "token width"], packing: Packing, first_only: bool = False
    ) -> Float[Tensor, "query width"]:
        """New states of all tokens, or only of the first of each cell, which saves most of the last block."""
        asking = x[packing.starts] if first_only else x
        x = self.norm_1(asking + self.dropout(self._attend(asking, x, packing)))
        hidden = self.dropout(F.relu(self._linear("expand", x)))
        return self.norm_2(x + self.dropout(self._linear("contract", hidden)))

    def _attend(self, asking: Tensor, x: Tensor, packing: Packing) -> Tensor:
        width = self.config.width
        q, kv = self._linear("qkv", asking, slice(width)), self._linear("qkv", x, slice(width, None))
        q, k, v = (t.unflatten(-1, (self.config.n_heads, -1)) for t in (q, *kv.chunk(2, -1)))
        short = packing.known is not None and max(packing.lengths) <= SHORT
        attend = attend_by_cell if x.device.type == "cpu" and not short else attend_padded
        mixed = attend(q, k, v, packing, self.config.dropout if self.training else 0.0).flatten(-2)
        projected = self._linear("project", mixed)
        if packing.known is None or len(asking) < len(x):
            return projected
        return torch.where(packing.known[:, None], projected, mixed)  # scGPT's code does not project unknown tokens

    def _linear(self, name: str, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """Some outputs of a layer, including fine-tuning's additions."""
        layer = self.get_submodule(name)
        out = F.linear(x, layer.weight[rows], layer.bias[rows])  # pyright: ignore[reportIndexIssue]
        return out + self.low_rank[name](x, rows) if name in self.low_rank else out


class Trunk(nn.Module):
    def __init__(self, config: TrunkConfig):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps) if config.final_norm else nn.Identity()
        self.recomputes = False  # in training, recompute a block for its gradient: less memory, more time

    def forward(
        self, x: Float[Tensor, "token width"], packing: Packing, depth: int | None = None, first_only: bool = False
    ) -> Float[Tensor, "query width"]:
        """States after `depth` blocks (None: all, and the final norm) of all tokens, or of the first of each cell."""
        depth = len(self.blocks) if depth is None else depth
        for i, block in enumerate(self.blocks[:depth]):
            last = first_only and i == depth - 1
            if self.recomputes and torch.is_grad_enabled():
                x = checkpoint(block, x, packing, last, use_reentrant=False)
            else:
                x = block(x, packing, last)
        if first_only and depth == 0:
            x = x[packing.starts]
        return self.norm(x) if depth == len(self.blocks) else x
