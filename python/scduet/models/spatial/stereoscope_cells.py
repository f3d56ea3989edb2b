"""Stereoscope's model of single cells, the reference of that of spots (Andersson et al. 2020, Communications Biology).

    x ~ NB(r, o)        r = l * softplus(W) of the cell's type and the gene, l the total of the cell
                        o of the gene: the logit of success, so that the mean is r * exp(o)

Training minimizes -log p(x), a mean over cells; there is no network. scvi-tools takes the sum over a minibatch, which
for Adam is the same. W starts at the mean shares of each type, and o at 0; `initialization="random"` starts as
scvi-tools does.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Reference, SparseRows, Step
from scduet.data.sources import Cells
from scduet.errors import OptionError
from scduet.models.spatial.condscvi import label_weights
from scduet.options import check_network

PIECE = 4096  # cells summed together
SMALLEST = 1e-8  # share of a gene that no cell of a type shows
RECIPES = {
    "auto": {"lr": 1e-2, "adam_eps": 1e-8, "weight_decay": 0.0, "train_size": 1.0, "max_epochs": 100},
    "scvi-tools": {"lr": 1e-2, "adam_eps": 1e-8, "weight_decay": 0.0, "train_size": 1.0, "max_epochs": 400},
}


@dataclass(frozen=True)
class Config:
    initialization: Literal["closed", "random"] = "closed"
    """Where the parameters start: at the mean shares of each type, or at random as in scvi-tools."""

    def __post_init__(self) -> None:
        check_network(self)


class StereoscopeCells(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    recipes = RECIPES

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        refuse_covariates("stereoscope_cells", reference)
        self.reference, self.config = reference, config
        self.rate = nn.Parameter(torch.randn(reference.n_genes, reference.n_labels))
        self.logit = nn.Parameter(torch.randn(reference.n_genes))

    @staticmethod
    def measure(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
        """The mean share of each gene in each label (label, gene)."""
        label_weights(cells, reference)
        found = np.zeros((reference.n_labels, reference.n_genes))
        for start in range(0, len(cells), PIECE):
            index = np.arange(start, min(start + PIECE, len(cells)))
            rows = cells.counts.rows(index)
            rows = rows.multiply(1 / np.maximum(cells.total[index], 1)[:, None]).tocsr()
            for label in np.unique(cells.label[index]):  # pyright: ignore[reportOptionalSubscript]
                found[label] += np.asarray(rows[cells.label[index] == label].sum(0)).ravel()  # pyright: ignore[reportOptionalSubscript]
        n = np.bincount(cells.label, minlength=reference.n_labels)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return {"label_share": (found / np.maximum(n, 1)[:, None]).astype(np.float32)}

    def begin(self, cells: Cells) -> None:
        """Start at the mean shares of each label."""
        if self.config.initialization == "closed":
            share = torch.tensor(self.reference.arrays["label_share"]).t()
            self.rate.copy_(softplus_inverse(share.clamp(min=SMALLEST)))
            self.logit.zero_()

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        rate = F.softplus(self.rate)
        library, label = cells.x.sum(), labels_of(cells)
        at = library[cells.x.row] * rate[cells.x.indices, label[cells.x.row]]
        total = library * (F.logsigmoid(-self.logit) @ rate)[label]
        error = -(total + log_nb_entries(cells.x, at, self.logit)).mean()
        return Loss(error, {"reconstruction": error}, len(cells))

    def embed(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """Log-likelihood of each cell under each type, by count; the types of a cell have mean 0."""
        logits = self.classify(cells) / cells.x.sum().clamp(min=1)[:, None]
        return logits - logits.mean(1, keepdim=True)

    def classify(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """Log-likelihood of each cell under each type."""
        rate, library = F.softplus(self.rate), cells.x.sum()
        at = library[cells.x.row, None] * rate[cells.x.indices]
        totals = library[:, None] * (F.logsigmoid(-self.logit) @ rate)
        of_labels = [log_nb_entries(cells.x, at[:, i], self.logit) for i in range(at.shape[1])]
        return totals + torch.stack(of_labels, 1)


def refuse_covariates(name: str, reference: Reference) -> None:
    """Raise OptionError for what Stereoscope cannot correct for."""
    if reference.n_batches > 1 or reference.n_categories or reference.n_continuous or reference.size_factor:
        raise OptionError(f"{name!r} corrects for no batch or covariate", "leave batch_key and covariates out")


def labels_of(cells: CellBatch) -> Tensor:
    """Raises OptionError for cells of unknown type."""
    if cells.label is None or (cells.label < 0).any():
        raise OptionError("some cells have no cell type", "give each cell its type in labels_key")
    return cells.label


def log_nb_entries(
    x: SparseRows, rate: Float[Tensor, " entry"], logit: Float[Tensor, " gene"]
) -> Float[Tensor, " cell"]:
    """log NB(x | r, logit) of each cell, less its part `r * log sigmoid(-logit)`, which is all there is at a zero."""
    count, r = x.data.double(), rate.double()
    choices = torch.lgamma(count + r) - torch.lgamma(r) - torch.lgamma(count + 1)
    values = choices.float() + x.data * F.logsigmoid(logit)[x.indices]
    return values.new_zeros(len(x)).index_add(0, x.row, values)


def softplus_inverse(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-value))
