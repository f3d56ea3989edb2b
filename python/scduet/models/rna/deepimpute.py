"""DeepImpute: genes predicted from the genes they go with (Arisdakessian et al. 2019, Genome Biology 20:211).

    The genes are dealt out at random to sub-networks of at most 512. Each sub-network reads log(1 + count) of the five
    genes that correlate best with each of its own, among the genes of the others:
    prediction = softplus(Linear(dropout(relu(Linear(in)))))        of log(1 + count) of its genes

Training minimizes mean(y (y - prediction)²), summed over sub-networks. A zero has no weight there, so what is learned
is the level of a gene *given that it was seen*, not its expected count, unless `loss="mse"`. Held-out molecules are
predicted worse than by the counts as they are: the model is here to be compared with.

Unlike the package deepimpute 1.2 each gene is predicted once, by sub-networks of equal size, two at least.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.data.sources import Cells, gathered
from scduet.errors import OptionError
from scduet.nn.distributions import Distribution, Poisson
from scduet.shapes import CellCode, CellValue

TARGETS = 512  # genes of a sub-network at most
PREDICTORS = 5  # for each of them


@dataclass(frozen=True)
class Config:
    n_hidden: int = 256
    """Width of the hidden layer of each sub-network."""
    dropout_rate: float = 0.2
    """Share of hidden units dropped in training."""
    loss: Literal["weighted", "mse"] = "weighted"
    """Squared errors weighted by the value, as published, or all alike, which aims at the mean."""

    def __post_init__(self) -> None:
        if self.n_hidden < 1:
            raise OptionError(f"n_hidden={self.n_hidden!r}", "n_hidden is a whole number from 1 up")
        if not 0 <= self.dropout_rate < 1:
            raise OptionError(f"dropout_rate={self.dropout_rate!r}", "dropout_rate is from 0 up to, not including, 1")


def sub_networks(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """Which sub-network predicts each gene (gene,), and which genes each reads (sub-network, gene), 1 or 0."""
    n_genes = reference.n_genes
    if n_genes < 2:
        raise OptionError("DeepImpute predicts genes from other genes, and there is only one", "give more genes")
    counts = sp.csc_matrix(gathered(cells.counts), dtype=np.float64)
    mean = np.asarray(counts.mean(0)).ravel()
    deviation = np.sqrt(np.maximum(np.asarray(counts.multiply(counts).mean(0)).ravel() - mean**2, 0))
    n_parts = max(2, -(-n_genes // TARGETS))
    part, reads = np.zeros(n_genes, np.float32), np.zeros((n_parts, n_genes), np.float32)
    for k, targets in enumerate(np.array_split(np.random.default_rng(0).permutation(n_genes), n_parts)):
        part[targets] = k
        together = (counts[:, targets].T @ counts).toarray() / counts.shape[0] - np.outer(mean[targets], mean)
        spread = np.outer(deviation[targets], deviation)
        correlation = np.abs(np.divide(together, spread, out=np.zeros_like(together), where=spread > 0))
        correlation[:, targets] = -1
        reads[k, np.argsort(-correlation, axis=1)[:, :PREDICTORS]] = 1
        reads[k, targets] = 0  # where there are fewer other genes than predictors
    return {"part": part, "reads": reads}


class DeepImpute(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    measure = staticmethod(sub_networks)
    modalities = ("rna",)
    recipes = {
        "auto": dict(
            max_epochs=500, batch_size=64, lr=1e-4, adam_eps=1e-7, weight_decay=0.0, lr_schedule="constant",
            train_size=0.95, early_stopping=True, early_stopping_patience=5,
        )
    }  # fmt: skip

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        part, reads = reference.arrays["part"], reference.arrays["reads"]
        self.reads = [torch.from_numpy(np.flatnonzero(row)) for row in reads]
        self.targets = [torch.from_numpy(np.flatnonzero(part == k)) for k in range(len(reads))]
        self.hidden = nn.ModuleList(nn.Linear(len(genes), config.n_hidden) for genes in self.reads)
        self.predicts = nn.ModuleList(nn.Linear(config.n_hidden, len(genes)) for genes in self.targets)
        for layer in (*self.hidden, *self.predicts):
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        y = cells.x.dense().log1p()
        error = (y - self._logged(self.embed(cells))).square()
        weighted = error * y if self.config.loss == "weighted" else error
        total = torch.stack([weighted[:, genes.to(y.device)].mean() for genes in self.targets]).sum()
        return Loss(total, {"reconstruction": total}, len(cells))

    def embed(self, cells: CellBatch) -> Float[Tensor, "cell hidden"]:
        """The hidden units of all sub-networks."""
        x = cells.x.dense().log1p()
        units = [layer(x[:, genes.to(x.device)]) for layer, genes in zip(self.hidden, self.reads, strict=True)]
        return torch.cat(units, 1).relu()

    def log_library(self, cells: CellBatch) -> CellValue:
        """log of the cell's total."""
        return cells.x.sum().log()[:, None]

    def decode(
        self,
        z: Float[Tensor, "cell hidden"],
        cells: CellBatch,
        batch: CellCode | None = None,
        log_library: CellValue | None = None,
    ) -> dict[str, Distribution]:
        """Poisson counts with the imputed values as their mean; DeepImpute itself has no distribution.

        `batch` plays no part, and neither does `log_library`: the imputed values are at the depth of the cell.
        """
        rate = self._logged(z).expm1()
        return {"rna": Poisson(rate / self.log_library(cells).exp(), rate)}

    def normalized_expression(
        self,
        z: Float[Tensor, "cell hidden"],
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell gene"]:
        """Imputed values by unit of library; the genes of a cell need not sum to 1."""
        found = self.decode(z, cells)["rna"].scale  # type: ignore[attr-defined]
        return found if out is None else out.copy_(found)

    def _logged(self, z: Float[Tensor, "cell hidden"]) -> Float[Tensor, "cell gene"]:
        """log(1 + imputed count)."""
        units = F.dropout(z, self.config.dropout_rate, self.training).split(self.config.n_hidden, 1)
        found = torch.cat([F.softplus(layer(u)) for layer, u in zip(self.predicts, units, strict=True)], 1)
        return found[:, torch.cat(self.targets).argsort().to(found.device)]
