"""scGPT fine-tuned on cells with several modalities (Cui et al. 2024, MultiOmicTransformerModel).

    token      gene, protein or peak + the bin of its value among those of its modality; trunk -> h
    c_t        batch vector + modality vector of the token, both normalized
    GEP        mean square of (value - head([h_t, c_t])) over masked tokens
    MVC        the same of W sigmoid(Q [gene_t, c_t]) . [h_cls, c_cls]
    DAR        cross-entropy of the batch told by a discriminator from h_cls, gradient reversed
    loss       GEP + MVC + adversary_weight DAR

The trunk learns the modality of a token by its vector alone; c is what the heads are told, so that the vector of a cell
need not know its batch. Proteins and peaks are new rows of the vocabulary.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import Loss, Step, TokenBatch
from scduet.errors import DataError, OptionError
from scduet.transformers.encoder.trunk import Packing
from scduet.transformers.encoder.value_heads import CellValueHead, value_head
from scduet.transformers.families.scgpt import ScGPT
from scduet.transformers.objectives import finetune
from scduet.transformers.objectives.finetune import choose_trained
from scduet.transformers.objectives.integration import MASKED, choose_masked, discriminator
from scduet.transformers.objectives.losses import mean_square, reversed_gradient
from scduet.transformers.tokenizers.vocabulary import Vocabulary

RNA, PROTEIN, PEAK, SPECIAL = range(4)  # codes of modalities, and of <cls>
SPREAD = 0.1  # of new vectors, as in the official code


@dataclass(frozen=True)
class Config(finetune.Tuning):
    tuning: Literal["lora", "full", "last", "frozen"] = "full"
    """Weights to train: all, LoRA adapters, the last layers, or only new weights."""
    protein_key: str | None = None
    """Where the protein counts are: a key of obsm, or a modality of a MuData."""
    peaks_key: str | None = None
    """Where the counts of peaks are: a key of obsm, or a modality of a MuData."""
    proteins: tuple[str, ...] = ()
    """Proteins with a token, which are found in the data."""
    peaks: tuple[str, ...] = ()
    """Peaks with a token, which are found in the data."""
    mask_ratio: float = 0.4
    """Fraction of the tokens of a cell whose values are masked and predicted."""
    adversary_weight: float = 1.0
    """Weight of the adversarial batch discriminator; 0 for none."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.mask_ratio < 1:
            raise OptionError(f"option 'mask_ratio' cannot be {self.mask_ratio}", "it must be between 0 and 1")
        if self.adversary_weight < 0:
            raise OptionError(f"option 'adversary_weight' cannot be {self.adversary_weight}", "it cannot be below 0")
        if self.protein_key is None and self.peaks_key is None:
            raise OptionError("there is one modality, RNA", "pass protein_key= or peaks_key=")


class GrownEmbedding(nn.Module):
    """An embedding with further rows; the first ones are trained or not as the transformer is."""

    def __init__(self, known: nn.Embedding, n_new: int):
        super().__init__()
        self.known = known
        self.new = nn.Parameter(known.weight.new_empty(n_new, known.embedding_dim).uniform_(-SPREAD, SPREAD))

    @property
    def weight(self) -> Float[Tensor, "token width"]:
        return torch.cat([self.known.weight, self.new])

    def forward(self, token: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        return F.embedding(token, self.weight, self.known.padding_idx)


class MultiOmic(nn.Module):
    Config = Config
    players = ("model",)
    expects = "counts"

    def __init__(self, encoder: ScGPT, n_batches: int, config: Config):
        super().__init__()
        width, self.encoder, self.config = encoder.config.trunk.width, encoder, config
        n_known, new = encoder.config.n_tokens, [*config.proteins, *config.peaks]
        choose_trained(encoder, config)
        encoder.vocabulary = grown(encoder.vocabulary, n_known, new)
        encoder.gene = GrownEmbedding(encoder.gene, len(new))  # pyright: ignore[reportAttributeAccessIssue]
        codes = torch.full((n_known + len(new),), RNA)
        codes[list(encoder.vocabulary.special.values())] = SPECIAL
        codes[n_known:] = torch.tensor([PROTEIN] * len(config.proteins) + [PEAK] * len(config.peaks))
        self.register_buffer("modality_of", codes, persistent=False)
        self.unit = encoder.config.n_bins - 1.0  # the heads predict values as a share of the highest bin
        self.modality, self.modality_norm = nn.Embedding(SPECIAL + 1, width), nn.LayerNorm(width)
        self.batch, self.batch_norm = nn.Embedding(n_batches, width), nn.LayerNorm(width)
        self.value, self.cell_value = value_head(width, 2 * width), CellValueHead(2 * width)
        self.discriminator = discriminator(width, n_batches) if config.adversary_weight and n_batches > 1 else None

    def forward(self, tokens: TokenBatch, step: Step) -> Loss:
        assert tokens.value is not None
        assert tokens.batch is not None
        masked = choose_masked(tokens, self.config.mask_ratio)
        packing = Packing.of(tokens.padding)
        where, value, gene = packing.pack(masked), packing.pack(tokens.value), packing.pack(tokens.gene)
        states = self.encoder(replace(tokens, value=tokens.value.masked_fill(masked, MASKED)), packing)
        cell, told = states[packing.starts], self.told(gene, tokens.batch[packing.cell])
        by_gene = self.value(torch.cat([states, told], 1)[where]).squeeze(-1)
        named = torch.cat([self.encoder.named(gene), told], 1)
        by_cell, _ = self.cell_value(named, torch.cat([cell, told[packing.starts]], 1), packing)
        terms = {
            "gep": mean_square(by_gene.float() * self.unit, value[where]),
            "mvc": mean_square(by_cell[where].float() * self.unit / named.shape[1] ** 0.5, value[where]),
        }
        if self.discriminator is not None:
            logits = self.discriminator(reversed_gradient(cell)).float()
            terms["adversary"] = self.config.adversary_weight * F.cross_entropy(logits, tokens.batch)
        return Loss(torch.stack(list(terms.values())).sum(), terms, len(tokens))

    def told(self, gene: Int[Tensor, " token"], batch: Int[Tensor, " token"]) -> Float[Tensor, "token width"]:
        """What the heads are told of each token beside its state: batch and modality."""
        modality = self.modality_of[gene]  # pyright: ignore[reportIndexIssue]
        return self.batch_norm(self.batch(batch)) + self.modality_norm(self.modality(modality))

    def embed(self, tokens: TokenBatch) -> Float[Tensor, "cell width"]:
        """The state of <cls>, scaled to length 1."""
        return self.encoder.embed(tokens)


def grown(vocabulary: Vocabulary, n_known: int, new: list[str]) -> Vocabulary:
    """The vocabulary with new names behind the known ones. Raises DataError for names that are known already."""
    there = [name for name in new if name in vocabulary.token or name in vocabulary.special]
    if there:
        raise DataError(f"{there[0]!r} is a feature to add, and a gene of the checkpoint", "rename the feature")
    return replace(vocabulary, token={**vocabulary.token, **{name: n_known + i for i, name in enumerate(new)}})
