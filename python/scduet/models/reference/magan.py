"""MAGAN: aligns cells of two modalities by a pair of generators (Amodio and Krishnaswamy 2018, ICML).

    x1 = log(1 + 10,000 * share of the cell) of genes, x2 = log(1 + counts) of proteins, standardized over cells
    generators G12(x1), G21(x2): from genes to proteins and back          critics D1(x1), D2(x2): is this a real cell?

The critics minimize the mean of the cross entropies of real and generated cells in both modalities, the generators that
of six terms, three a direction:

    deception        cross entropy of D2(G12(x1)) and "real"
    cycle            mean square of x1 - G21(G12(x1))
    correspondence   mean square of G12(x1) - x1 in features that measure the same ("features"), or of the difference
                     between generated and real cells in the mean of each type ("labels")

Without the last, alike distributions may be laid on each other with the cell types exchanged, so that it is refused.
That a cell has both is not used. Source: arXiv 1803.00385. There 100,000 steps, and values as they are.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Input, Loss, Player, Reference, Step
from scduet.data import schema
from scduet.data.locate import Place
from scduet.errors import DataError
from scduet.models.reference.standardized import MODALITIES, Both, measure, standardized

GENERATOR, CRITIC = (200, 100, 50), (800, 400, 200, 100, 50)  # hidden layers
BETAS, STEPS, BATCH = (0.5, 0.99), 2000, 100
COLUMNS = {"gene": "x", "protein": "protein"}  # of the table of shared features, and the input that each names


@dataclass(frozen=True)
class Fields(schema.Fields):
    protein_key: str | None = None
    """Where the protein counts are: a key of obsm, or a modality of a MuData; NaN in cells without."""
    shared_features: Place | None = None
    """Genes and proteins that measure the same: a .csv, a key of uns or a DataFrame with the columns gene, protein."""


@dataclass(frozen=True)
class Config:
    correspondence: Literal["features", "labels"] | None = None
    """What ties the modalities together; None for shared features where there are some, else labels."""


def recipe(n_cells: int, max_epochs: int | None) -> dict[str, object]:
    """2,000 steps, or as many epochs as given."""
    adam = {"lr": 1e-3, "lr_schedule": "constant", "weight_decay": 0.0, "adam_eps": 1e-8}
    return {**adam, "batch_size": BATCH, "max_epochs": max_epochs or max(-(-STEPS * BATCH // n_cells), 10)}


class MAGAN(nn.Module):
    Config, Fields = Config, Fields
    players = (Player("generator", betas=BETAS), Player("critic", betas=BETAS))
    expects: Expects = "counts"
    inputs = {
        "x": Input("layer", sparse=True, may_miss=True),
        "protein": Input("protein_key", may_miss=True),
        "shared_features": Input("shared_features", "table", required=False, names_of=COLUMNS),
    }
    modalities = ("rna", "protein")
    measure = staticmethod(measure)
    recipes = {"auto": recipe}

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        table = reference.tables.get("shared_features", {"gene_row": (), "protein_row": ()})
        if not {"gene_row", "protein_row"} <= {*table}:
            raise DataError(f"shared_features has the columns {[*table]}", "name its columns gene and protein")
        rows = np.array([table["gene_row"], table["protein_row"]], np.int64)
        self.reference, self.config, self.shared = reference, config, rows[:, (rows >= 0).all(0)]
        there = {"features": self.shared.size > 0, "labels": reference.arrays["types"][0] > 1}
        self.tie = config.correspondence or ("features" if there["features"] else "labels")
        if not there[self.tie]:
            text = f"MAGAN cannot tie {MODALITIES} together by {self.tie if config.correspondence else 'anything'}"
            raise DataError(text, "pass shared_features=, or labels_key= of two types or more that both have")
        n_genes, n_proteins = (reference.arrays[name].shape[1] for name in MODALITIES)
        self.to_protein = network(n_genes, *GENERATOR, n_proteins)
        self.to_rna = network(n_proteins, *GENERATOR, n_genes)
        self.critics = nn.ModuleList(network(n, *CRITIC, 1) for n in (n_genes, n_proteins))

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if name.startswith("critics.") == (player == "critic")]

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        real, seen = standardized(cells, self.reference.arrays)
        others = seen[1], seen[0]
        made = self.to_rna(real[1]), self.to_protein(real[0])
        if step.player == "critic":
            fake = self._told((made[0].detach(), made[1].detach()), others, 1)
            terms = {"real": self._told(real, seen, -1) / 4, "generated": fake / 4}
        else:
            back = self.to_rna(made[1]), self.to_protein(made[0])
            cycle = over([(b - r) ** 2 for b, r in zip(back, real, strict=True)], seen)
            tied = self._correspondence(real, made, seen, cells.label)
            terms = {"deception": self._told(made, others, -1) / 6, "cycle": cycle / 6, "correspondence": tied / 6}
        return Loss(sum(terms.values()), terms, len(cells))  # type: ignore[arg-type]

    def embed(self, cells: CellBatch, modality: str | None = None) -> Float[Tensor, "cell protein"]:
        """Standardized proteins: as measured, or made from genes; by one modality NaN where that was not measured."""
        (x, y), (has_x, has_y) = standardized(cells, self.reference.arrays)
        if modality is None:
            return y.where(has_y[:, None], self.to_protein(x))
        return (
            self.to_protein(x).where(has_x[:, None], torch.nan)
            if modality == "rna"
            else y.where(has_y[:, None], torch.nan)
        )

    def _told(self, cells: Both, known: Both, sign: int) -> Float[Tensor, ""]:
        """Cross entropy of what the critics tell and "real" (sign -1) or "generated" (1)."""
        return over([F.softplus(sign * critic(x)) for critic, x in zip(self.critics, cells, strict=True)], known)

    def _correspondence(self, real: Both, made: Both, seen: Both, label: Tensor | None) -> Float[Tensor, ""]:
        if self.tie == "features":
            genes, proteins = self.shared
            (x, y), (made_x, made_y) = real, made
            return over([(made_y[:, proteins] - x[:, genes]) ** 2, (made_x[:, genes] - y[:, proteins]) ** 2], seen)
        member = F.one_hot(label + 1, self.reference.n_labels + 1)[:, 1:].T.float()  # type: ignore[operator]
        of = member * seen[0], member * seen[1]
        means = [n @ v / n.sum(1, keepdim=True).clamp(min=1) for n, v in zip(of + of[::-1], real + made, strict=True)]
        both = (of[0].sum(1) > 0) & (of[1].sum(1) > 0)
        return over([(means[2] - means[0]) ** 2, (means[3] - means[1]) ** 2], (both, both))


def network(*sizes: int) -> nn.Sequential:
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def over(values: list[Tensor], known: Both) -> Float[Tensor, ""]:
    """Mean of the known rows of each, added; 0 without any."""
    return sum((v.mean(1) * rows).sum() / rows.sum().clamp(min=1) for v, rows in zip(values, known, strict=True))  # type: ignore[return-value]
