"""scANVI: an scVI whose latent space knows cell types (Xu et al. 2021, Molecular Systems Biology 17:e9620).

    y     ~ Uniform(types)                      type of the cell, known for some of the cells
    u     ~ Normal(0, I)                        variation within the type
    z     ~ Normal(prior(u, y))                 state of the cell
    x     ~ as in scVI, from z                  counts

    q(z | x) as in scVI,  q(y | z) = classifier(z),  q(u | z, y) = Normal(within(z, y))

Training minimizes, a mean over cells,
    -log p(x|z) + log q(z|x) - E log p(z|u, y)
    + kl_weight * (E KL(q(u|z,y) || p(u)) + KL(q(y|z) || p(y)) + KL(q(l|x) || p(l)))
with E over the types by q(y | z), plus classification_ratio times the cross entropy of the classifier at the posterior
mean of z, a mean over labeled cells. Unlike in scVI the term of a learned library is weighted too, as in scvi-tools.
"""

from __future__ import annotations

from scduet._torch import torch

import math
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.errors import OptionError
from scduet.models.rna import scvi
from scduet.models.rna.scvi import SCVI
from scduet.nn.enumerated import each_level
from scduet.nn.gaussians import draw, log_density, log_normal
from scduet.nn.layers import MLP, GaussianEncoder, rsample
from scduet.shapes import State


@dataclass(frozen=True)
class Config(scvi.Config):
    linear_classifier: bool = False
    """Classify with one linear layer rather than with a network like the encoder."""
    classification_ratio: float = 50.0
    """Weight of the classification against the rest of the loss."""
    n_samples_per_label: int | None = None
    """Labeled cells of each type that an epoch classifies at most, beside the minibatches; None for all."""


class SCANVI(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    measure = staticmethod(scvi.library_moments)

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        if reference.n_labels < 1:
            raise OptionError("scANVI learns from labels, and no cell has one", "pass labels_key=, or use scVI")
        self.reference, self.config, n, h = reference, config, config.n_latent, config.n_hidden
        self.scvi = SCVI(reference, scvi_config(config))
        self.classifier = nn.Sequential() if config.linear_classifier else self._mlp("encoder", config.dropout_rate)
        self.label = nn.Linear(n if config.linear_classifier else h, reference.n_labels)
        levels = (reference.n_labels,)
        self.within = GaussianEncoder(self._mlp("encoder", config.dropout_rate, levels), h, n)
        self.prior = self._mlp("decoder", 0.0, levels)
        self.prior_mean, self.prior_log_variance = nn.Linear(h, n), nn.Linear(h, n)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        mean, of_cells = self._cell_terms(cells)
        terms = {name: values.mean() for name, values in of_cells.items()} | self._classification(cells, mean)
        kl = terms["kl"] + terms["kl_library"] if "kl_library" in terms else terms["kl"]
        total = terms["reconstruction"] + terms["state"] + step.kl_weight * kl
        if "classification" in terms:
            total = total + self.config.classification_ratio * terms["classification"]
        return Loss(total, terms, len(cells))

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        """The terms of each cell's negative evidence lower bound, at a draw of its state."""
        return self._cell_terms(cells)[1]

    def strata(self, label: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, ...]:
        """The labeled cells of an epoch, as places among cells with these labels: n_samples_per_label a type at most.

        Without that limit none where half of the cells have labels: those of each minibatch then do, in one pass.
        """
        most, labeled = self.config.n_samples_per_label, np.flatnonzero(label >= 0)
        if most is None:
            return (labeled,) if 2 * len(labeled) < len(label) else ()
        kinds = [np.flatnonzero(label == code) for code in range(self.reference.n_labels)]
        return (np.concatenate([draw.choice(kind, min(most, len(kind)), replace=False) for kind in kinds]),)

    def classify(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """Logits of the types, at the posterior mean."""
        return self.logits(self.scvi.posterior(cells)[0])

    def logits(self, z: State) -> Float[Tensor, "cell label"]:
        return self.label(self.classifier(z))

    def embed(self, cells: CellBatch) -> State:
        return self.scvi.embed(cells)

    @property
    def vae(self) -> SCVI:
        return self.scvi

    def _mlp(self, side: str, dropout: float, levels: tuple[int, ...] = ()) -> MLP:
        c = self.config
        batch_norm, layer_norm = (use in (side, "both") for use in (c.use_batch_norm, c.use_layer_norm))
        sizes = c.n_latent, c.n_hidden, c.n_layers
        return MLP(*sizes, levels=levels, dropout=dropout, batch_norm=batch_norm, layer_norm=layer_norm)

    def _cell_terms(self, cells: CellBatch) -> tuple[State, dict[str, Float[Tensor, " cell"]]]:
        """The mean of q(z | x) too."""
        mean, variance = self.scvi.posterior(cells)
        z = self.scvi.transform_latent(rsample(mean, variance))
        log_library, kl_library = self.scvi.sample_library(cells)
        reconstruction = -self.scvi.log_likelihood(z, cells, log_library)
        state, kl = self._types(z, mean, variance)
        return mean, {"reconstruction": reconstruction, "state": state, "kl": kl, **kl_library}

    def _types(
        self, z: Tensor, mean: Tensor, variance: Tensor
    ) -> tuple[Float[Tensor, " cell"], Float[Tensor, " cell"]]:
        """log q(z|x) - E log p(z|u, y), and the KL terms of u and y; every cell is tried with every type."""
        n_labels, heads = self.reference.n_labels, (self.within.mean, self.within.log_variance)
        u, kl = draw(each_level(self.within.body, heads, z[None], n_labels))
        log_p = log_density(z, each_level(self.prior, (self.prior_mean, self.prior_log_variance), u, n_labels))
        log_share = self.logits(z).log_softmax(-1).t()  # (label, cell), as all that follows
        share = log_share.exp()
        by_type = (share * (kl + log_share)).sum(0)
        state = log_normal(z, mean, variance.log()) - (share * log_p).sum(0)
        return state, by_type + math.log(n_labels)

    def _classification(self, cells: CellBatch, mean: Tensor) -> dict[str, Float[Tensor, ""]]:
        """Cross entropy and accuracy of the classifier on the labeled stratum, or else on these cells' own labels."""
        if cells.strata:
            mean, label = self.scvi.posterior(cells.strata[0])[0], cells.strata[0].label
        else:
            label = torch.full_like(cells.batch, -1) if cells.label is None else cells.label
            labeled = label >= 0
            if not labeled.all():
                mean, label = mean[labeled], label[labeled]
        if label is None or len(label) == 0:
            return {}
        logits = self.logits(mean)
        accuracy = (logits.detach().argmax(-1) == label).float().mean()
        return {"classification": F.cross_entropy(logits, label), "accuracy": accuracy}


def scvi_config(config: Config) -> scvi.Config:
    """The options of the scVI inside."""
    return scvi.Config(**{f.name: getattr(config, f.name) for f in fields(scvi.Config)})
