"""A toy of DestVI's shape: spots are mixtures of states whose expression a trained scVI knows."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from scduet.contract import CellBatch, Expects, Loss, Reference, Step

N_STATES = 3


@dataclass(frozen=True)
class Config:
    n_hidden: int = 16
    """Width of the hidden layer."""


class ToySpots(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    needs = {"single_cell": "scvi"}

    def __init__(self, reference: Reference, config: Config, single_cell: Any):
        super().__init__()
        self.reference, self.config = reference, config
        self.single_cell = single_cell.module
        self.encoder = nn.Sequential(
            nn.Linear(reference.n_genes, config.n_hidden), nn.ReLU(), nn.Linear(config.n_hidden, N_STATES)
        )
        self.states = nn.Parameter(torch.randn(N_STATES, single_cell.config.n_latent))

    def train(self, mode: bool = True) -> ToySpots:
        super().train(mode)
        self.single_cell.eval()
        return self

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        one = CellBatch(cells.x, torch.arange(N_STATES), torch.zeros(N_STATES, dtype=torch.long))
        share = self.embed(cells) @ self.single_cell.normalized_expression(self.states, one)
        error = -(cells.x.dense() * (share + 1e-8).log()).sum(1).mean()
        return Loss(error, {"reconstruction": error}, len(cells))

    def embed(self, cells: CellBatch) -> Tensor:
        return self.encoder(cells.x.dense().log1p()).softmax(-1)
