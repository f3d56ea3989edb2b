"""A toy of totalVI's shape: RNA (sparse counts) and proteins (dense counts, some not measured), one latent state."""

from __future__ import annotations

from scduet._torch import torch

import warnings
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Input, Loss, Measured, Reference, Step
from scduet.data import schema
from scduet.data.inputs import measured_by_batch
from scduet.data.sources import Cells, gathered
from scduet.models.rna import scvi
from scduet.models.rna.scvi import SCVI
from scduet.nn.distributions import Distribution, Poisson
from scduet.nn.layers import kl_to_normal, rsample


@dataclass(frozen=True)
class Fields(schema.Fields):
    protein_key: str | None = None
    """Where the counts of proteins are: a key of obsm, or a modality of a MuData; NaN where one was not measured."""


@dataclass(frozen=True)
class Config:
    n_latent: int = 10
    """Dimensions of the latent space."""
    n_layers: int = 1
    """Hidden layers."""


class ToyCiteSeq(nn.Module):
    Config, Fields = Config, Fields
    players = ("model",)
    expects: Expects = "counts"
    modalities = ("rna", "protein")
    inputs = {"protein": Input("protein_key", may_miss=True)}
    recipes = {"auto": {"lr": 4e-3, "kl_warmup_steps": 50}}

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        self.scvi = SCVI(reference, scvi.Config(n_hidden=16, n_latent=config.n_latent, n_layers=config.n_layers))
        self.protein = nn.Linear(config.n_latent, reference.n_extra["protein"])
        self.label = nn.Linear(config.n_latent, max(1, reference.n_labels))
        self.register_buffer("background", torch.tensor(reference.arrays["protein_mean"]))

    @staticmethod
    def measure(cells: Cells, reference: Reference) -> dict[str, np.ndarray | Measured]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a protein that was measured in no cell
            mean = np.nanmean(gathered(cells.extra["protein"]), 0)
        there = Measured(measured_by_batch(cells, "protein", reference.n_batches), "batch")
        return {"protein_mean": np.nan_to_num(mean, nan=1).astype(np.float32), "protein_measured": there}

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        mean, of_cells = self._cell_terms(cells)
        terms = {name: values.mean() for name, values in of_cells.items()}
        total = terms["reconstruction"] + terms["reconstruction_protein"] + step.kl_weight * terms["kl"]
        if cells.label is not None and (cells.label >= 0).any():
            terms["label"] = F.cross_entropy(self.label(mean), cells.label, ignore_index=-1)
            total = total + 20 * terms["label"]
        return Loss(total, terms, len(cells))

    def cell_terms(self, cells: CellBatch) -> dict[str, Tensor]:
        return self._cell_terms(cells)[1]

    def _cell_terms(self, cells: CellBatch) -> tuple[Tensor, dict[str, Tensor]]:
        mean, variance = self.scvi.posterior(cells)
        z, protein = rsample(mean, variance), cells.extra["protein"]
        seen = ~protein.isnan()
        log_prob = self._proteins(z).log_prob(protein.nan_to_num())
        rna = self.scvi.log_likelihood(z, cells, self.scvi.log_library(cells))
        terms = {"reconstruction": -rna, "reconstruction_protein": -torch.where(seen, log_prob, 0.0).sum(1)}
        return mean, {**terms, "kl": kl_to_normal(mean, variance)}

    def decode(
        self, z: Tensor, cells: CellBatch, batch: Tensor | None = None, log_library: Tensor | None = None
    ) -> dict[str, Distribution]:
        return {**self.scvi.decode(z, cells, batch, log_library), "protein": self._proteins(z)}

    def normalized_expression(
        self,
        z: Tensor,
        cells: CellBatch,
        batch: Tensor | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        if modality != "protein":
            return self.scvi.normalized_expression(z, cells, batch, out=out)
        rate = self._proteins(z).rate
        return rate if out is None else out.copy_(rate)

    def _proteins(self, z: Tensor) -> Poisson:
        rate = self.protein(z).exp() * self.background
        return Poisson(rate, rate)

    @property
    def vae(self) -> SCVI:
        return self.scvi

    def classify(self, cells: CellBatch) -> Tensor:
        return self.label(self.embed(cells))

    def embed(self, cells: CellBatch) -> Tensor:
        return self.scvi.embed(cells)


class ToyGuided(ToyCiteSeq):
    """Its decoder reads the proteins: they say how much of each there is at least."""

    def normalized_expression(
        self,
        z: Tensor,
        cells: CellBatch,
        batch: Tensor | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        found = super().normalized_expression(z, cells, batch, modality, out)
        return found + cells.extra["protein"] if modality == "protein" else found
