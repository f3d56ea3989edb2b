"""scGPT fine-tuned to predict perturbed cells (Cui et al. 2024): a control cell and flags in, a perturbed cell out.

    token      gene + value + flag, where flag is a learned vector for perturbed genes and zero for others; no <cls>
    y_g        = coefficient(h_g) * x_g + offset(h_g)        h_g: state of the gene after the trunk
    loss       = mean over genes and cells of (y - perturbed cell)²

x is the log-normalized expression of a control cell, not binned. Genes that the checkpoint does not know are tokens
too: they share the vector of padding, but are not masked.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from scduet.contract import Loss, Step, TokenBatch
from scduet.errors import OptionError
from scduet.transformers.encoder.trunk import Packing
from scduet.transformers.encoder.value_heads import AffineValueHead
from scduet.transformers.families.scgpt import ScGPT
from scduet.transformers.objectives.finetune import Tuning, choose_trained


@dataclass(frozen=True)
class PerturbedBatch(TokenBatch):
    """Control cells with flags; `target`, the perturbed cells (cell, token), is missing in prediction."""

    flag: Bool[Tensor, "cell token"] | None = None  # which genes are perturbed


@dataclass(frozen=True)
class Config(Tuning):
    tuning: Literal["lora", "full", "last", "frozen"] = "full"
    """Weights to train: all, as published, LoRA adapters, the last layers, or only new weights."""
    max_genes: int = 1536
    """Genes of a minibatch in training, drawn at random; perturbed ones are always among them."""

    def __post_init__(self):
        super().__post_init__()
        if self.max_genes < 1:
            raise OptionError(f"max_genes={self.max_genes!r}", "it is at least 1; 1536 is the published value")


class Perturber(nn.Module):
    Config = Config
    players = ("model",)
    expects = "lognormal"

    def __init__(self, encoder: ScGPT, config: Config):
        super().__init__()
        width, self.encoder, self.config = encoder.config.trunk.width, encoder, config
        self.flag = nn.Parameter(torch.randn(width))
        self.value = AffineValueHead(width)
        choose_trained(encoder, config)

    def forward(self, cells: PerturbedBatch, step: Step) -> Loss:
        assert cells.target is not None
        error = (self.predict(cells) - cells.target).square().mean()
        return Loss(error, {"squared_error": error}, len(cells))

    def predict(self, cells: PerturbedBatch) -> Float[Tensor, "cell token"]:
        """Log-normalized expression of the perturbed cells."""
        assert cells.value is not None
        assert cells.flag is not None
        packing = Packing.of(cells.padding)
        value, encoder = packing.pack(cells.value), self.encoder
        x = encoder.named(packing.pack(cells.gene)) + encoder.valued(value)
        x = x + packing.pack(cells.flag)[:, None] * self.flag
        states = encoder.trunk(encoder.batch_norm(x), packing)
        return self.value(states, value).float().view(cells.gene.shape)  # no token is padding

    def embed(self, cells: PerturbedBatch) -> Float[Tensor, "cell width"]:
        raise OptionError(
            "scGPT fine-tuned on perturbations has no vector of a cell", "embed with the one it was made from"
        )
