"""Pre-training objectives: Geneformer predicts masked genes, scGPT predicts masked values."""

from __future__ import annotations

from scduet._torch import torch

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import Loss, Step, TokenBatch
from scduet.errors import OptionError
from scduet.transformers.encoder.trunk import Packing
from scduet.transformers.encoder.value_heads import CellValueHead, value_head
from scduet.transformers.families.geneformer import Geneformer
from scduet.transformers.families.scgpt import ScGPT
from scduet.transformers.objectives.losses import bert_masking, mean_square


@dataclass(frozen=True)
class MaskedConfig:
    mask_share: float = 0.15
    """Fraction of the genes of a cell to mask."""

    def __post_init__(self):
        if not 0 < self.mask_share < 1:
            raise OptionError(f"option 'mask_share' cannot be {self.mask_share}", "it must be between 0 and 1")


class MaskedGenes(nn.Module):
    """Theodoris et al. 2023: cross-entropy of the genes at the masked ranks.

    logits = table of genes . LayerNorm(ReLU(A h + a)) + b, of the state h of a masked token after the last layer.
    """

    Config = MaskedConfig
    players = ("model",)
    expects = "counts"
    genes: Tensor  # tokens of the genes of the data

    def __init__(self, encoder: Geneformer, genes: Int[np.ndarray, " gene"], config: MaskedConfig):
        super().__init__()
        trunk, self.encoder, self.config = encoder.config.trunk, encoder, config
        self.transform = nn.Linear(trunk.width, trunk.width)
        self.norm = nn.LayerNorm(trunk.width, eps=trunk.norm_eps)
        self.bias = nn.Parameter(torch.zeros(encoder.config.n_tokens))
        self.register_buffer("genes", torch.from_numpy(genes), persistent=False)

    def forward(self, tokens: TokenBatch, step: Step) -> Loss:
        maskable = ~tokens.padding & torch.isin(tokens.gene, self.genes)
        mask = self.encoder.vocabulary.special["<mask>"]
        shown, chosen = bert_masking(tokens.gene, maskable, self.genes, mask, self.config.mask_share)
        logits, right = self.restored(replace(tokens, gene=shown), chosen).float(), tokens.gene[chosen]
        loss = F.cross_entropy(logits, right, reduction="sum") / max(len(right), 1)
        accuracy = (logits.argmax(-1) == right).float().sum() / max(len(right), 1)
        return Loss(loss, {"cross_entropy": loss, "accuracy": accuracy}, len(tokens))

    def restored(self, tokens: TokenBatch, where: Bool[Tensor, "cell token"]) -> Float[Tensor, "chosen token"]:
        """Logits of the genes at the given positions only."""
        packing = Packing.of(tokens.padding)
        states = self.encoder(tokens, packing)[packing.pack(where)]
        return F.linear(self.norm(F.relu(self.transform(states))), self.encoder.gene.weight, self.bias)

    def embed(self, tokens: TokenBatch) -> Float[Tensor, "cell width"]:
        return self.encoder.embed(tokens)


@dataclass(frozen=True)
class GenerativeConfig:
    asked_shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Fractions of the expressed genes to predict; one is drawn for each minibatch."""
    zeros: float = 1.0
    """Number of unexpressed genes to predict per expressed gene; 0 as in the official code."""

    def __post_init__(self):
        if not self.asked_shares or not all(0 < share < 1 for share in self.asked_shares):
            raise OptionError(f"option 'asked_shares' cannot be {self.asked_shares}", "shares are between 0 and 1")
        if self.zeros < 0:
            raise OptionError(f"option 'zeros' cannot be {self.zeros}", "it cannot be below 0")


class Generative(nn.Module):
    """Cui et al. 2024: the values of some genes of a cell are known, and those of the others are predicted.

    Every token attends to the known tokens and itself, so that predictions are independent of each other. The loss is
    the sum of three mean squared errors over the genes to predict: from their states (gene prompt), from the cell
    embedding (the state of <cls>) by `CellValueHead` (MVC), and from states when only <cls> is known and set to the
    cell embedding (cell prompt; the official code keeps the known genes).
    """

    Config = GenerativeConfig
    players = ("model",)
    expects = "lognormal"
    genes: Tensor  # tokens of the genes of the data

    def __init__(self, encoder: ScGPT, genes: Int[np.ndarray, " gene"], config: GenerativeConfig):
        super().__init__()
        width, self.encoder, self.config = encoder.config.trunk.width, encoder, config
        self.flag = nn.Embedding(2, width)  # row 1 replaces the value of a gene to predict
        self.value, self.cell_value = value_head(width), CellValueHead(width)
        self.unit = encoder.config.n_bins - 1.0  # the heads predict values as a share of the highest bin
        self.cell_unit = self.unit / width**0.5  # and a sum over the width
        self.register_buffer("genes", torch.from_numpy(genes), persistent=False)

    def forward(self, tokens: TokenBatch, step: Step) -> Loss:
        tokens = with_unexpressed(tokens, self.genes, self.config.zeros)
        assert tokens.value is not None
        shares = torch.tensor(self.config.asked_shares, device=tokens.gene.device)
        asked = choose_asked(tokens, shares[torch.randint(len(shares), (1,), device=shares.device)])
        packing = Packing.of(tokens.padding, ~asked)
        wanted, value = packing.pack(asked), packing.pack(tokens.value)
        states = self.states(tokens, packing)
        cell = states[packing.starts]
        by_cell, _ = self.cell_value(self.encoder.named(packing.pack(tokens.gene)), cell, packing)
        terms = {
            "gene_prompt": mean_square(self.values(states)[wanted], value[wanted]),
            "mvc": mean_square(by_cell[wanted].float() * self.cell_unit, value[wanted]),
            "cell_prompt": self._by_cell(tokens, packing, cell.detach()),
        }
        return Loss(torch.stack(list(terms.values())).sum(), terms, len(tokens))

    def states(
        self, tokens: TokenBatch, packing: Packing, cell: Float[Tensor, "cell width"] | None = None
    ) -> Float[Tensor, "token width"]:
        """States of all tokens, some known by `packing`; `cell` replaces the embedding of <cls>."""
        assert tokens.value is not None
        assert packing.known is not None
        valued = self.encoder.valued(packing.pack(tokens.value))
        x = self.encoder.named(packing.pack(tokens.gene))
        x = x + torch.where(packing.known[:, None], valued, self.flag.weight[1].to(valued.dtype))
        x = self.encoder.batch_norm(x)
        x = x if cell is None else x.index_copy(0, packing.starts, cell.to(x.dtype))
        return self.encoder.trunk(x, packing)

    def values(self, states: Float[Tensor, "token width"]) -> Float[Tensor, " token"]:
        """Predicted values, in bins."""
        return self.value(states).squeeze(-1).float() * self.unit

    def embed(self, tokens: TokenBatch) -> Float[Tensor, "cell width"]:
        return self.encoder.embed(tokens)

    def _by_cell(self, tokens: TokenBatch, packing: Packing, cell: Tensor) -> Float[Tensor, ""]:
        assert tokens.value is not None
        first = torch.zeros_like(packing.present.flatten()[packing.places]).index_fill(0, packing.starts, True)
        states = self.states(tokens, replace(packing, known=first), cell)
        return mean_square(self.values(states)[~first], packing.pack(tokens.value)[~first])


def with_unexpressed(tokens: TokenBatch, genes: Int[Tensor, " gene"], each: float) -> TokenBatch:
    """The cells with further tokens of value 0: `each` of `genes` not expressed for every one that is, at random."""
    if each == 0:
        return tokens
    assert tokens.value is not None
    n_tokens = int(max(tokens.gene.max(), genes.max())) + 1
    held = torch.zeros(len(tokens), n_tokens, dtype=torch.bool, device=genes.device).scatter(1, tokens.gene, True)
    draw = torch.rand(len(tokens), len(genes), device=genes.device).masked_fill(held[:, genes], 2.0)
    n_absent, n_held = (draw < 2).sum(1), (~tokens.padding).sum(1) - 1
    n = (n_held * each).round().long().minimum(n_absent)
    more = genes[draw.argsort(1)[:, : int(n.max())]]
    absent = torch.arange(more.shape[1], device=genes.device)[None] >= n[:, None]
    return replace(
        tokens,
        gene=torch.cat([tokens.gene, more], 1),
        padding=torch.cat([tokens.padding, absent], 1),
        value=torch.cat([tokens.value, torch.zeros_like(more, dtype=tokens.value.dtype)], 1),
    )


def choose_asked(tokens: TokenBatch, share: Float[Tensor, "1"]) -> Bool[Tensor, "cell token"]:
    """Tokens to predict: a random fraction of the expressed genes of each cell, and all genes with value 0."""
    assert tokens.value is not None
    gene = ~tokens.padding
    gene[:, 0] = False  # <cls>
    expressed = gene & (tokens.value > 0)
    draw = torch.rand(gene.shape, device=gene.device).masked_fill(~expressed, 2.0)
    rank = draw.argsort(1).argsort(1)
    return (rank < (expressed.sum(1, keepdim=True) * share).long()) | (gene & (tokens.value == 0))


OBJECTIVES: dict[str, type] = {"geneformer": MaskedGenes, "scgpt": Generative}
_BERT, _GPT = r"cls\.predictions\.", r"(?:module\.)?"
HEADS: dict[str, dict[str, str]] = {  # official names of the weights beside the encoder -> ours
    "geneformer": {
        _BERT + r"transform\.dense\.(.+)": r"transform.\1",
        _BERT + r"transform\.LayerNorm\.(.+)": r"norm.\1",
        _BERT + "bias": "bias",
    },
    "scgpt": {
        _GPT + r"flag_encoder\.weight": "flag.weight",
        _GPT + r"decoder\.fc\.([024])\.(.+)": r"value.\1.\2",
        _GPT + r"mvc_decoder\.gene2query\.(.+)": r"cell_value.query.\1",
        _GPT + r"mvc_decoder\.W\.weight": "cell_value.mix.weight",
    },
}


def head_weights(module: nn.Module, family: str, aside: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the weights of the heads of `module`, in scduet's or official names, from a checkpoint's head weights."""
    units = {"value.4.weight": "unit", "value.4.bias": "unit", "cell_value.mix.weight": "cell_unit"}
    found = {}
    for name, weight in aside.items():
        ours = [match.expand(new) for old, new in HEADS[family].items() if (match := re.fullmatch(old, name))]
        divided = ours and ours[0] in units  # official heads predict bins
        found[ours[0] if ours else name] = weight / getattr(module, units[ours[0]]) if divided else weight
    return found
