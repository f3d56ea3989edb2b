"""CondSCVI: an autoencoder of the states that cells of each type are in, the reference of DestVI (Lopez et al. 2022).

    z     ~ Normal(0, I), or the mixture of normals of the cell's type             state within the type
    share = softmax(decoder(z, type, batch) + bias of the type)                    expected share of each gene
    x     ~ NB(l * share, r)                                                       counts; l is their total

    q(z | x, type) = Normal(encoder(log(1 + x), type))

Training minimizes w(type) * (-log p(x | z) + kl_weight * KL(q(z|x, type) || p(z|type))), a mean over cells; with fine
types also classification_ratio times the cross entropy of a classifier of them at the posterior mean. Cells without a
fine type are left out of that term; scvi-tools learns "unlabeled" as one more type. Options, constants and initial
weights are those of scvi-tools 1.4, but the default prior is its "mog", the one that `DestVI` reads there.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Input, Loss, Reference, SparseRows, Step
from scduet.data import schema
from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError
from scduet.nn import sparse_likelihoods
from scduet.nn.distributions import Distribution, NegativeBinomial
from scduet.nn.heads import head
from scduet.nn.layers import MLP, CovariateLinear, GaussianEncoder, kl_to_normal, rsample
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

EMBEDDING = 5  # length of a batch's vector, as in scvi-tools
DRAWS = 30  # over which the KL divergence from a mixture is taken
FLOOR = 1e-4  # of the standard deviations of a mixture
RAREST = 0.05  # share that rarer types are counted as, with weight_obs


@dataclass(frozen=True)
class Fields(schema.Fields):
    fine_labels_key: str | None = None
    """Column of obs with finer cell types, which a classifier learns from the states; missing values are left out."""


@dataclass(frozen=True)
class Config:
    n_hidden: int = 128
    """Width of the hidden layers."""
    n_latent: int = 5
    """Dimensions of the latent space."""
    n_layers: int = 2
    """Hidden layers of the encoder and of the decoder."""
    weight_obs: bool = False
    """Weight cells by the inverse frequency of their type, so that rare types count as much as common ones."""
    dropout_rate: float = 0.05
    """Share of hidden units that the encoder and the decoder drop in training."""
    log_variational: bool = True
    """Give the encoder log(1 + counts) rather than counts."""
    encode_covariates: bool = False
    """Show the batch to the encoder too."""
    prior: Literal["mog", "normal"] = "mog"
    """Prior of the states of a type: a learned mixture of normals, or the standard normal."""
    num_classes_mog: int = 10
    """Components of the mixture of each type."""
    classification_ratio: float = 5.0
    """Weight of the cross entropy of fine types."""

    def __post_init__(self) -> None:
        check_network(self)
        if self.num_classes_mog < 1:
            raise OptionError(f"num_classes_mog={self.num_classes_mog!r}", "it is a whole number from 1 up")


def label_weights(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """The weight of each type under `weight_obs`. Raises OptionError or DataError where a cell has no type."""
    if reference.n_labels < 1 or cells.label is None:
        raise OptionError("'condscvi' learns the states of each cell type", "pass labels_key=")
    unlabeled = int((cells.label < 0).sum())
    if unlabeled:
        raise DataError(f"{unlabeled} cells have no cell type", "leave them out, or name their type in labels_key")
    share = np.bincount(cells.label, minlength=reference.n_labels) / len(cells)
    share = np.maximum(share, RAREST)
    return {"label_weight": (share.sum() / share).astype(np.float32)}


class CondSCVI(nn.Module):
    Config, Fields = Config, Fields
    players = ("model",)
    expects: Expects = "counts"
    measure = staticmethod(label_weights)
    modalities = ("rna",)
    inputs = {"fine": Input("fine_labels_key", values="binary", may_miss=True, required=False, look_in=("obs",))}
    recipes = {"scvi-tools": {"max_epochs": 300, "train_size": 1.0}}
    label_weight: Float[Tensor, " label"]

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        if reference.n_categories or reference.n_continuous or reference.size_factor:
            raise OptionError("'condscvi' corrects for batch_key alone", "leave covariates and size factors out")
        self.reference, self.config = reference, config
        n_labels, n_genes, n_fine = reference.n_labels, reference.n_genes, reference.n_extra.get("fine", 0)
        self.log_dispersion = nn.Parameter(torch.randn(n_genes))
        self.batch_embedding = nn.Embedding(reference.n_batches, EMBEDDING)
        n_in = n_genes + (EMBEDDING if config.encode_covariates else 0)
        self.encoder = GaussianEncoder(self._mlp(n_in, sparse=True), config.n_hidden, config.n_latent)
        self.decoder = self._mlp(config.n_latent + EMBEDDING)
        self.share = CovariateLinear(config.n_hidden, n_genes, (n_labels,))
        for table in self.share.covariate.values():
            nn.init.zeros_(table)
        weight = torch.tensor(reference.arrays["label_weight"]).reshape(-1)
        self.register_buffer("label_weight", weight if config.weight_obs else torch.ones_like(weight))
        if config.prior == "mog":
            shape = n_labels, config.num_classes_mog
            self.prior_mean = nn.Parameter(torch.randn(*shape, config.n_latent))
            self.prior_log_sd = nn.Parameter(torch.full((*shape, config.n_latent), -2.0))
            self.prior_logits = nn.Parameter(torch.zeros(shape))
        if n_fine:
            levels = (n_labels,)
            self.fine_body = MLP(config.n_latent, config.n_hidden, 1, levels, layer_norm=True)
            self.fine = nn.Linear(config.n_hidden, n_fine)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        mean, of_cells = self._cell_terms(cells)
        terms = {name: values.mean() for name, values in of_cells.items()}
        costs = of_cells["reconstruction"] + step.kl_weight * of_cells["kl"]
        if "fine" in cells.extra:
            terms["classification"] = self._classification(mean, cells)
            costs = costs + self.config.classification_ratio * terms["classification"]
        return Loss((self.label_weight[self._labels(cells)] * costs).mean(), terms, len(cells))

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        """The terms of each cell's negative evidence lower bound, at a draw of its state."""
        return self._cell_terms(cells)[1]

    def posterior(self, cells: CellBatch) -> tuple[State, State]:
        """Mean and variance of q(z | x, type)."""
        x = replace(cells.x, data=cells.x.data.log1p()) if self.config.log_variational else cells.x
        shown: Tensor | SparseRows = x
        if self.config.encode_covariates:
            shown = torch.cat([x.dense(), self.batch_embedding(cells.batch)], -1)
        return self.encoder(shown, [self._labels(cells)])

    def transform_latent(self, z: State) -> State:
        return z

    def embed(self, cells: CellBatch) -> State:
        """Posterior mean of z: the state within the cell's type. States of different types cannot be compared."""
        return self.posterior(cells)[0]

    def log_library(self, cells: CellBatch) -> CellValue:
        """log of the total of each cell."""
        return cells.x.sum().log()[:, None]

    def log_likelihood(self, z: State, cells: CellBatch, log_library: CellValue) -> Float[Tensor, " cell"]:
        """log p(x | z), summed over genes."""
        logits = head(self.share, self._hidden(z, cells, cells.batch), [self._labels(cells)])
        return sparse_likelihoods.negative_binomial(cells.x, logits, log_library, self.log_dispersion)

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> dict[str, Distribution]:
        """Distribution of the counts of cells in the states z of their types."""
        scale = self.normalized_expression(z, cells, batch)
        log_library = self.log_library(cells) if log_library is None else log_library
        return {"rna": NegativeBinomial(scale, log_library.exp() * scale, self.log_dispersion.exp())}

    def normalized_expression(
        self,
        z: State,
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell gene"]:
        """Expected share of each gene, of cells in the states z of their types."""
        hidden = self._hidden(z, cells, cells.batch if batch is None else batch)
        found = self.share(hidden, [self._labels(cells)]).softmax(-1)
        return found if out is None else out.copy_(found)

    def genes(self) -> Float[Tensor, "gene hidden"]:
        """A vector for each gene: its weights in the last layer."""
        return self.share.weight

    def fine_logits(self, z: State, label: CellCode) -> Float[Tensor, "cell fine"]:
        """Logits of the finer types of cells in states z of these types. Raises OptionError if none were learned."""
        if not hasattr(self, "fine"):
            raise OptionError("this 'condscvi' learned no fine types", "train one with fine_labels_key=")
        return self.fine(self.fine_body(z, [label]))

    def _mlp(self, n_in: int, sparse: bool = False) -> MLP:
        c, levels = self.config, (self.reference.n_labels,)
        return MLP(
            n_in,
            c.n_hidden,
            c.n_layers,
            levels,
            dropout=c.dropout_rate,
            batch_norm=False,
            layer_norm=True,
            sparse=sparse,
        )

    def _cell_terms(self, cells: CellBatch) -> tuple[State, dict[str, Float[Tensor, " cell"]]]:
        mean, variance = self.posterior(cells)
        z = rsample(mean, variance)
        kl = (
            kl_to_normal(mean, variance)
            if self.config.prior == "normal"
            else self._kl_to_mixture(mean, variance, cells)
        )
        return mean, {"reconstruction": -self.log_likelihood(z, cells, self.log_library(cells)), "kl": kl}

    def _kl_to_mixture(self, mean: Tensor, variance: Tensor, cells: CellBatch) -> Float[Tensor, " cell"]:
        """Mean over draws of log q - log p, p the mixture of the cell's type.

        The square of a draw's distance from a component is written out, as products of matrices.
        """
        noise, label = torch.randn(DRAWS, *mean.shape, device=mean.device), self._labels(cells)
        log_q = -0.5 * (noise.square() + variance.log()).sum(-1)  # both without log(2 pi) / 2 by dimension
        sd = self.prior_log_sd.exp() + FLOOR
        apart = (mean[:, None] - self.prior_mean[label]) / sd[label]
        spread = variance.sqrt()[:, None] / sd[label]
        draws = noise.transpose(0, 1)  # (cell, draw, latent)
        square = draws @ (2 * apart * spread).mT + draws.square() @ spread.square().mT
        log_weight = self.prior_logits.log_softmax(-1) - sd.log().sum(-1)
        log_p = log_weight[label, None] - 0.5 * (square + apart.square().sum(-1)[:, None])
        return (log_q - log_p.logsumexp(-1).t()).mean(0)

    def _classification(self, mean: State, cells: CellBatch) -> Float[Tensor, ""]:
        """Cross entropy of the fine types of the cells that have one."""
        fine = cells.extra["fine"].nan_to_num()
        known = fine.sum(1) > 0
        if not known.any():
            return mean.new_zeros(())
        logits = self.fine_logits(mean[known], self._labels(cells)[known])
        return F.cross_entropy(logits, fine[known].argmax(1))

    def _hidden(self, z: State, cells: CellBatch, batch: CellCode) -> Float[Tensor, "cell hidden"]:
        return self.decoder(torch.cat([z, self.batch_embedding(batch)], -1), [self._labels(cells)])

    def _labels(self, cells: CellBatch) -> CellCode:
        if cells.label is None or (cells.label < 0).any():
            raise DataError("'condscvi' embeds cells of known types, and some have none", "give each cell its type")
        return cells.label
