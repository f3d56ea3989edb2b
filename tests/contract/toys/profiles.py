"""A toy with parameters of each cell: its state, from which a linear decoder gives shares of genes."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass

from torch import Tensor, nn

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.nn import sparse_likelihoods
from scduet.nn.heads import head


@dataclass(frozen=True)
class Config:
    n_latent: int = 4
    """Dimensions of the state of a cell."""


class ToyProfiles(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    recipes = {"auto": {"lr": 0.02}}
    per_cell = True

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        self.states = nn.Parameter(torch.randn(reference.n_cells, config.n_latent) * 0.1)
        self.decoder = nn.Linear(config.n_latent, reference.n_genes)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        states = self.embed(cells)
        log_library = cells.x.sum().log()[:, None]
        error = -sparse_likelihoods.poisson(cells.x, head(self.decoder, states), log_library).mean()
        prior = 0.5 * states.square().sum(1).mean()
        return Loss(error + prior, {"reconstruction": error, "prior": prior}, len(cells))

    def embed(self, cells: CellBatch) -> Tensor:
        return self.states[cells.index]
