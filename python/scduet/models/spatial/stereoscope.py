"""Stereoscope: spots as sums of cells of the types of a reference (Andersson et al. 2020, Communications Biology).

    x ~ NB(r, o)        r = sum over types of softplus(b) * softplus(W) * softplus(V) + softplus(e) * softplus(V_noise)
                        o of the gene: the logit of success, so that the mean is r * exp(o)

W and o are those of the reference and stay as they are; b, a platform effect, and e, what is of no type, belong to the
genes, and V to the spot: other spots need a training of their own. Training minimizes, a mean over spots,
-log p(x) - log Normal(e | 0, 1) / n, with n the number of spots (`prior_weight="n_obs"`) or of a minibatch.

V starts at the non-negative least squares fit of the reference's mean shares, and hardly moves from there: the answer
is that of NNLS, with a likelihood. `initialization="random"` starts as scvi-tools does.
"""

from __future__ import annotations

from scduet._torch import torch

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.data.sources import Cells
from scduet.models.spatial.stereoscope_cells import (
    PIECE,
    RECIPES,
    log_nb_entries,
    refuse_covariates,
    softplus_inverse,
)
from scduet.options import check_network

UNIFORM, NOISE = 0.02, 0.01  # of the closed start: share of all types alike, and of what is of no type


@dataclass(frozen=True)
class Config:
    prior_weight: Literal["n_obs", "minibatch"] = "n_obs"
    """Weight of the prior of e: once for all spots, or once for each minibatch as in the original Stereoscope."""
    initialization: Literal["closed", "random"] = "closed"
    """Where the parameters start: at non-negative least squares, or at random as in scvi-tools."""

    def __post_init__(self) -> None:
        check_network(self)


class Stereoscope(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    needs = {"single_cell": "stereoscope_cells"}
    recipes = RECIPES
    per_cell = True
    rate: Float[Tensor, "gene label"]
    logit: Float[Tensor, " gene"]

    def __init__(self, reference: Reference, config: Config, single_cell: Any):
        super().__init__()
        refuse_covariates("stereoscope", reference)
        self.reference, self.config = reference, config
        self.n_labels = single_cell.reference.n_labels
        self.register_buffer("rate", single_cell.module.rate.detach().clone())
        self.register_buffer("logit", single_cell.module.logit.detach().clone())
        self.noise = nn.Parameter(torch.randn(reference.n_genes))
        self.amount = nn.Parameter(torch.randn(reference.n_cells, self.n_labels + 1))
        self.platform = nn.Parameter(0.01 * torch.randn(reference.n_genes))

    def begin(self, cells: Cells) -> None:
        """Start at non-negative least squares on the reference's mean shares."""
        if self.config.initialization != "closed":
            return
        rate = F.softplus(self.rate)
        fit = _nnls((rate * self.logit.exp()[:, None]).cpu().double().numpy(), cells)
        total = np.maximum(fit.sum(1, keepdims=True), 1.0)
        amount = torch.tensor((1 - UNIFORM) * fit + UNIFORM * total / self.n_labels, dtype=torch.float32)
        noise = torch.tensor(NOISE * total, dtype=torch.float32)
        scale = float(total.mean()) / self.n_labels  # the part of the platform effect: V is then near 1, and can move
        both = (torch.cat([amount, noise], 1) / scale).clamp(min=1e-6)
        self.amount.copy_(softplus_inverse(both))
        self.platform.fill_(float(softplus_inverse(torch.tensor(scale))))
        self.noise.copy_(softplus_inverse((scale * rate.mean(1)).clamp(min=1e-6)))

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        rate = F.softplus(self.amount[cells.index]) @ self._profiles().t()
        total = rate @ F.logsigmoid(-self.logit)
        entries = rate[cells.x.row, cells.x.indices]
        error = -(total + log_nb_entries(cells.x, entries, self.logit)).mean()
        prior = 0.5 * (self.noise.square() + math.log(2 * math.pi)).sum()
        n = self.reference.n_cells if self.config.prior_weight == "n_obs" else len(cells)
        return Loss(error + prior / n, {"reconstruction": error, "noise": prior / n}, len(cells))

    def embed(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """The proportions of the types of the reference, which sum to 1."""
        return self.proportions(cells)

    def proportions(self, cells: CellBatch, keep_additional: bool = False) -> Float[Tensor, "cell type"]:
        """Share of each type in the RNA of the spots; keep_additional: of what is of no type too, which comes last."""
        found = F.softplus(self.amount[cells.index])
        found = found if keep_additional else found[:, : self.n_labels]
        return found / found.sum(-1, keepdim=True)

    def type_rates(self) -> Float[Tensor, "label gene"]:
        """Expected counts of the genes of each type, with the platform effect: softplus(b) exp(o) softplus(W)."""
        return ((self.logit.exp() * F.softplus(self.platform))[:, None] * F.softplus(self.rate)).t()

    def type_shares(self, cells: CellBatch, label: int) -> Float[Tensor, "cell gene"]:
        """Expected share of each gene in the cells of a type in the spots: the same in all."""
        rates = self.type_rates()[label]
        return (rates / rates.sum()).expand(len(cells), -1)

    def _profiles(self) -> Float[Tensor, "gene type"]:
        known = F.softplus(self.platform)[:, None] * F.softplus(self.rate)
        return torch.cat([known, F.softplus(self.noise)[:, None]], 1)


def _nnls(profiles: np.ndarray, cells: Cells) -> np.ndarray:
    """Amount of each profile (gene, label) in each cell (cell, label)."""
    rotation, triangle = np.linalg.qr(profiles)
    found = np.zeros((len(cells), profiles.shape[1]))
    for start in range(0, len(cells), PIECE):
        index = np.arange(start, min(start + PIECE, len(cells)))
        for i, row in zip(index, cells.counts.rows(index) @ rotation, strict=True):
            found[i] = nnls(triangle, row)[0]
    return found
