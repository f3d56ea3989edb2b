"""Rank-based attention between genes, averaged over the cells that express both.

Source: scGPT (Cui et al., Nature Methods 2024), where in each cell the scores q.k of one block are ranked along each
row, the ranks are ranked along each column, and both are averaged over the heads and then over the cells. Here a rank
is a quantile between 0 and 1 and equal values share their mean rank, so that neither the number of genes that a cell
expresses nor the order of its tokens matters.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from scduet.contract import TokenBatch
from scduet.errors import OptionError
from scduet.transformers.encoder.trunk import Packing


@dataclass(frozen=True)
class Attention:
    """Attention from one gene (row) to another (column) by group of cells, and the number of cells with both."""

    weight: Float[np.ndarray, "group gene gene"]  # mean quantile, 0 to 1; NaN if no cell has both
    cells: Int[np.ndarray, "group gene gene"]


def attention(
    model: Any,
    adata,
    token: Int[np.ndarray, " gene"],
    group: Int[np.ndarray, " cell"],
    *,
    block: int = -1,
    **how,
) -> Attention:
    """Attention in `block` (-1 is the last) among the genes with these tokens, by group of cells (codes from 0).

    model: a `Transformer`. how: arguments of its `map`: layer, accelerator, precision, and the family's options.
    Raises OptionError for a block that does not exist.
    """
    encoder = model.encoder
    blocks = encoder.trunk.blocks
    if not -len(blocks) <= block < len(blocks):
        raise OptionError(f"block cannot be {block}", f"{model.name} has {len(blocks)}")
    depth = block % len(blocks)
    place = torch.full((int(encoder.genes().shape[0]) + 3,), -1)
    place[torch.from_numpy(token)] = torch.arange(len(token))
    shape = (int(group.max()) + 1, len(token), len(token))
    total, seen = torch.zeros(shape), torch.zeros(shape, dtype=torch.int32)

    def add(tokens: TokenBatch) -> Tensor:
        packing = Packing.of(tokens.padding)
        states = packing.split(encoder(tokens, packing, depth))
        genes = packing.split(packing.pack(tokens.gene))
        for cell, gene, code in zip(states, genes, group[tokens.index.cpu().numpy()], strict=True):
            here = place[gene.cpu()]
            ranks = quantiles(scores(blocks[depth], cell[(here >= 0).to(cell.device)])).mean(0).cpu()
            at = here[here >= 0]
            total[code, at[:, None], at] += ranks
            seen[code, at[:, None], at] += 1
        return tokens.index[:, None][:, :0]

    model.map(add, adata, **how)
    weight = torch.where(seen > 0, total / seen.clamp(min=1), torch.nan)
    return Attention(weight.numpy(), seen.numpy())


def scores(block, states: Float[Tensor, "gene width"]) -> Float[Tensor, "head gene gene"]:
    """q.k of every pair of tokens in each head of a block, before the softmax."""
    width = states.shape[1]
    q, k = block._linear("qkv", states, slice(2 * width)).float().chunk(2, -1)
    q, k = (part.unflatten(-1, (block.config.n_heads, -1)).transpose(0, 1) for part in (q, k))
    return q @ k.transpose(1, 2)


def quantiles(scores: Float[Tensor, "head gene gene"]) -> Float[Tensor, "head gene gene"]:
    """Quantiles along each row, and of those along each column."""
    return _quantiles(_quantiles(scores).transpose(1, 2)).transpose(1, 2)


def _quantiles(values: Float[Tensor, "head row column"]) -> Float[Tensor, "head row column"]:
    """Quantile of each value in its row, in (0, 1); ties share their mean."""
    values = values.contiguous()
    ordered = values.sort(-1).values
    below, up_to = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + up_to).float() / (2 * values.shape[-1])
