"""A toy of expiMap's shape: lognormal expression, a linear decoder masked by gene sets, and a critic of the batch."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Input, Loss, Player, Reference, Step
from scduet.data import schema
from scduet.data.locate import Place

LIMIT = 0.5  # of the weights of the critic


@dataclass(frozen=True)
class Fields(schema.Fields):
    mask_key: Place | None = None
    """Gene sets (gene, set), 1 where a gene is in a set: a key of varm, the path of a .gmt, or a DataFrame."""


@dataclass(frozen=True)
class Config:
    n_hidden: int = 32
    """Width of the hidden layer."""


class ToyMasked(nn.Module):
    Config, Fields = Config, Fields
    players = (Player("generator"), Player("critic", steps=2, lr=0.5, betas=(0.5, 0.9)))
    expects: Expects = "lognormal"
    inputs = {
        "x": Input("layer", sparse=False, look_in=("layers",)),
        "mask": Input("mask_key", axis="feature", values="binary"),
    }
    strata = "batch"

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        self.register_buffer("mask", torch.tensor(reference.arrays["mask"]))
        n = reference.n_extra["mask"]
        layers = nn.Linear(reference.n_genes, config.n_hidden), nn.ReLU(), nn.Linear(config.n_hidden, n)
        self.encoder = nn.Sequential(*layers)
        self.weight = nn.Parameter(torch.randn(reference.n_genes, n) * 0.1)
        self.critic = nn.Linear(n, reference.n_batches)

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        return list(self.critic.parameters()) if player == "critic" else [*self.encoder.parameters(), self.weight]

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        z = self.embed(cells)
        seen = F.cross_entropy(self.critic(z.detach() if step.player == "critic" else z), cells.batch)
        if step.player == "critic":
            return Loss(seen, {"entropy": seen}, len(cells))
        error = (z @ (self.weight * self.mask).t() - cells.x).square().sum(1).mean()
        return Loss(error - seen, {"reconstruction": error}, len(cells))

    def after_step(self, step: Step) -> None:
        if step.player == "critic":
            self.critic.weight.clamp_(-LIMIT, LIMIT)

    def embed(self, cells: CellBatch) -> Tensor:
        return self.encoder(cells.x)
