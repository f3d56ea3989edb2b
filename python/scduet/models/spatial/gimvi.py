"""gimVI: single cells and spatial data of few genes in one latent space (Lopez et al. 2019, arXiv:1905.02269).

    z     ~ Normal(0, I)                                 state of the cell, of either data set
    share = softmax(A z + b)                             expected share of each gene of the single cells
    l     = total of the cell, or log l ~ Normal(m, v)   library size; learned of the single cells by default
    x     ~ ZINB(l * share, r, dropout)                  single cells, of all genes
    y     ~ NB(l * share / sum(share of the panel), r)   spatial data, of the genes measured there: the panel

    q(z | x), q(z | y) = Normal(encoder(own layers(log(1 + counts))))     layers of each data set, then shared ones

A is linear unless `n_layers_decoder_*` add hidden layers. Training minimizes -log p(counts | z, l) + kl_weight *
(KL(q(z) || p(z)) + KL(q(l) || p(l))), a mean over the cells of both, plus `kappa` times the loss of fooling a
classifier that learns to tell the data sets apart by z. Each minibatch holds as many cells of one data set as of the
other. Dispersions and priors of l belong to the batches of each data set, which are never those of the other, whatever
their names. Options, constants and initial weights are those of scvi-tools 1.4.

The data sets are one MuData or AnnData: cells with counts in the main matrix are single cells, those with counts in
`spatial_key` spatial ones. A cell with both counts as two; it is embedded as a single cell.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Input, Loss, Player, Reference, SparseRows, Step
from scduet.data import schema
from scduet.errors import OptionError
from scduet.models.multimodal.experts import Part, Posterior
from scduet.models.rna.scvi import COUNTS
from scduet.models.spatial.gimvi_networks import DATA_SETS, Decoder, Encoder, measure
from scduet.nn import sparse_likelihoods
from scduet.nn.adversary import Adversary
from scduet.nn.distributions import Distribution
from scduet.nn.heads import LazyLinear
from scduet.nn.layers import kl_to_normal, rsample
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

ADVERSARY, ADVERSARY_LAYERS = "adversary", 3
Counts = Literal["zinb", "nb", "poisson"]


@dataclass(frozen=True)
class Fields(schema.Fields):
    spatial_key: str | None = None
    """Location of the counts of the spatial data, with names of genes: a modality of a MuData, or a key of obsm."""


@dataclass(frozen=True)
class Config:
    n_latent: int = 10
    """Dimensions of the latent space."""
    gene_likelihood: Counts = "zinb"
    """Distribution of the counts of the single cells."""
    spatial_likelihood: Counts = "nb"
    """Distribution of the counts of the spatial data."""
    learn_library: bool = True
    """Learn the library size of single cells rather than take it as their total."""
    learn_spatial_library: bool = False
    """Learn the library size of spatial cells rather than take it as their total."""
    kappa: float = 5.0
    """Weight of the loss of fooling a classifier of the data sets; 0 for none."""
    n_layers_encoder_individual: int = 1
    """Hidden layers of the encoder that each data set has for itself."""
    n_layers_encoder_shared: int = 1
    """Hidden layers of the encoder that both data sets share."""
    dim_hidden_encoder: int = 64
    """Width of the encoder's hidden layers."""
    n_layers_decoder_individual: int = 0
    """Hidden layers of the decoder that see the batch."""
    n_layers_decoder_shared: int = 0
    """Hidden layers of the decoder after these, that do not."""
    dim_hidden_decoder_individual: int = 64
    """Width of the first; of one layer that no shared one follows it is dim_hidden_decoder_shared, as in scvi-tools."""
    dim_hidden_decoder_shared: int = 64
    """Width of the second."""
    dropout_rate_encoder: float = 0.2
    """Share of hidden units that the encoder drops in training."""
    dropout_rate_decoder: float = 0.2
    """Share of hidden units that the decoder drops in training, where it has any."""
    dispersion: Literal["gene-batch", "gene", "gene-cell"] = "gene-batch"
    """What the dispersion of a gene may depend on."""
    log_variational: bool = True
    """Give the encoder log(1 + counts) rather than counts."""

    def __post_init__(self) -> None:
        check_network(self)
        if self.kappa < 0:
            raise OptionError(f"kappa={self.kappa!r}", "it cannot be below 0")
        widths = {"dim_hidden_decoder_individual", "dim_hidden_decoder_shared"}
        for name in ("dim_hidden_encoder", *widths):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)!r}", "it is a whole number from 1 up")
        uneven = self.dim_hidden_decoder_individual != self.dim_hidden_decoder_shared
        if uneven and self.n_layers_decoder_individual > 1 and not self.n_layers_decoder_shared:
            raise OptionError(f"{' and '.join(sorted(widths))} differ", "make them equal, or add a shared layer")


class Drawn(NamedTuple):
    """What a data set's own cells in a minibatch are drawn to be."""

    z: State
    log_library: CellValue
    kl: Float[Tensor, " cell"]  # of z and of the library


class GimVI(nn.Module):
    Config, Fields = Config, Fields
    players: tuple[str | Player, ...] = ("model", Player(ADVERSARY))
    expects: Expects = "counts"
    inputs = {
        "x": Input("layer", sparse=True, may_miss=True),
        "spatial": Input("spatial_key", sparse=True, may_miss=True, of_genes=True, look_in=("mod", "obsm")),
    }
    modalities = ("rna", "spatial")
    strata = "spatial"
    measure = staticmethod(measure)
    recipes: Mapping[str, Mapping[str, Any]] = {
        "auto": {"batch_size": 256},
        "scvi-tools": {"batch_size": 256, "max_epochs": 200},  # there 128 of each data set
    }
    batch_code: Int[Tensor, "dataset batch"]
    panel: Int[Tensor, " measured"]
    library_log_mean: Float[Tensor, " code"]
    library_log_variance: Float[Tensor, " code"]

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        if reference.n_categories or reference.n_continuous or reference.size_factor:
            raise OptionError("'gimvi' corrects for batch_key alone", "leave covariates and size factors out")
        if reference.arrays["batch_code"].shape[1] != reference.n_batches:
            raise OptionError("'gimvi' takes no further batches", "train it again, with these cells")
        self.reference, self.config = reference, config
        self._add_known(reference)
        learned = {"rna": config.learn_library, "spatial": config.learn_spatial_library}
        sizes = {"rna": reference.n_genes, "spatial": len(self.panel)}
        self.encoder = Encoder(sizes, config, [name for name in DATA_SETS if learned[name]])
        self.decoder = Decoder(reference.n_genes, self.n_codes, config, {self._likelihood(name) for name in DATA_SETS})
        if config.kappa:
            self.adversary = Adversary(config.n_latent, len(DATA_SETS), ADVERSARY_LAYERS)
        else:
            self.players = ("model",)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        parts = self._parts(cells)
        if step.player == ADVERSARY:
            with torch.no_grad():
                states = {name: rsample(*self.encoder(name, part.cells.x)) for name, part in parts.items()}
            told = self.adversary.recognition(*self._with_level(states, parts))
            return Loss(self.config.kappa * told, {"recognition": told}, len(cells))
        states = {name: self._state(name, part) for name, part in parts.items()}
        n = sum(part.known.sum() for part in parts.values())
        terms = {name: values.sum() / n for name, values in self._terms(states, parts).items()}
        total = sum((step.kl_weight if name == "kl" else 1) * value for name, value in terms.items())
        if self.config.kappa and self.training:
            drawn = {name: state.z for name, state in states.items()}
            terms["deception"] = self.adversary.deception(*self._with_level(drawn, parts))
            total = total + self.config.kappa * terms["deception"]
        return Loss(total, terms, len(cells))  # pyright: ignore[reportArgumentType]

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """The weights of the model, or of its adversary."""
        return [p for name, p in self.named_parameters() if name.startswith("adversary.") == (player == ADVERSARY)]

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        """The terms of each cell's negative evidence lower bound, at a draw of its state."""
        parts = self._parts(cells)
        return self._terms({name: self._state(name, part) for name, part in parts.items()}, parts)

    def embed(self, cells: CellBatch) -> State:
        """Posterior mean of z."""
        return self.posterior(cells)[0]

    def posterior(self, cells: CellBatch) -> Posterior:
        """Mean and variance of q(z | counts), of the data set that the cell is in."""
        parts = self._parts(cells)
        found = {name: self.encoder(name, part.cells.x) for name, part in parts.items()}
        return tuple(self._own(parts, {k: both[i] for k, both in found.items()}) for i in (0, 1))  # pyright: ignore[reportReturnType]

    def transform_latent(self, z: State) -> State:
        return z

    def log_library(self, cells: CellBatch) -> CellValue:
        """log l: the posterior mean where it is learned, else the total in the data set that the cell is in."""
        return self.library_posterior(cells)[0]

    def library_posterior(self, cells: CellBatch) -> tuple[CellValue, CellValue]:
        """Mean and variance of log l; the variance is 0 where l is the total."""
        parts = self._parts(cells)
        mean, variance = {}, {}
        for name, part in parts.items():
            mean[name], spread = self.encoder.library_size(name, part.cells.x)
            variance[name] = torch.zeros_like(mean[name]) if spread is None else spread
        return self._own(parts, mean), self._own(parts, variance)

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> dict[str, Distribution]:
        """Distributions of the counts of all genes, as single cells show them and as spatial data would."""
        code, library = self._code(cells, batch), self.log_library(cells) if log_library is None else log_library
        hidden = self.decoder.hidden(z, code)
        share, found = self.decoder.share(hidden).softmax(-1), {}
        for name in DATA_SETS:
            scale, likelihood = self._of_panel(share, name), self._likelihood(name)
            parameters = [scale, library.exp() * scale]
            if likelihood != "poisson":
                parameters.append(self.decoder.log_dispersion_in(hidden, code, slice(None)).exp())
            if likelihood == "zinb":
                parameters.append(self.decoder.dropout_logits(hidden))
            found[name] = COUNTS[likelihood](*parameters)
        return found

    def normalized_expression(
        self,
        z: State,
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell gene"]:
        """Expected share of each gene in the counts of all genes; of "spatial", in those of the panel."""
        share = self.decoder.share(self.decoder.hidden(z, self._code(cells, batch))).softmax(-1)
        found = self._of_panel(share, modality or "rna")
        return found if out is None else out.copy_(found)

    def genes(self) -> Float[Tensor, "gene hidden"]:
        """A vector for each gene: its weights in the last layer."""
        return self.decoder.share.weight

    def _add_known(self, reference: Reference) -> None:
        """What was measured in the data, which never changes."""
        panel, code = reference.arrays["panel"] > 0, reference.arrays["batch_code"]
        first = [row[row >= 0].min() for row in code]  # for a batch that only the other data set has
        known = {
            "batch_code": np.where(code >= 0, code, np.array(first)[:, None]),
            "panel": np.flatnonzero(panel),
            "place": np.where(panel, panel.cumsum() - 1, -1),
        }
        for name, values in known.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)
        for name in ("library_log_mean", "library_log_variance"):
            self.register_buffer(name, torch.tensor(reference.arrays[name]))
        self.n_codes = int(self.batch_code.max()) + 1

    def _parts(self, cells: CellBatch) -> dict[str, Part]:
        """The cells of each data set. Those of the other only stand in where there are none."""
        return {"rna": Part.of(cells, cells.x), "spatial": Part.of(cells, self._on_panel(cells.extra["spatial"]))}

    def _on_panel(self, x: SparseRows) -> SparseRows:
        """Rows of all genes as rows of the panel."""
        place: Tensor = self.place[x.indices]  # pyright: ignore[reportAssignmentType, reportIndexIssue]
        if not (place < 0).any():
            return replace(x, indices=place, shape=(len(x), len(self.panel)))
        kept = place >= 0
        ends = F.pad(kept.cumsum(0), (1, 0))
        return SparseRows(x.data[kept], place[kept], ends[x.indptr], (len(x), len(self.panel)))

    def _own(self, parts: Mapping[str, Part], values: Mapping[str, Tensor]) -> Tensor:
        """Values of each data set's cells, in the minibatch; of a cell in both, those of the single cell."""
        single = parts["rna"].known.view(-1, *(1,) * (values["rna"].ndim - 1))
        return torch.where(single, *(parts[name].spread(values[name]) for name in DATA_SETS))

    def _state(self, name: str, part: Part) -> Drawn:
        mean, variance = self.encoder(name, part.cells.x)
        z, kl = rsample(mean, variance), kl_to_normal(mean, variance)
        log_library, spread = self.encoder.library_size(name, part.cells.x)
        if spread is None:
            return Drawn(z, log_library, kl)
        code = self._code_in(name, part.cells)
        prior = self.library_log_mean[code, None], self.library_log_variance[code, None]
        return Drawn(z, rsample(log_library, spread), kl + kl_to_normal(log_library, spread, prior))

    def _terms(self, states: Mapping[str, Drawn], parts: Mapping[str, Part]) -> dict[str, Float[Tensor, " cell"]]:
        """The terms of each cell's loss, summed over the data sets that it is in."""
        errors = [part.spread(-self._log_likelihood(name, part, states[name])) for name, part in parts.items()]
        kl = [part.spread(states[name].kl) for name, part in parts.items()]
        return {"reconstruction": sum(errors), "kl": sum(kl)}  # pyright: ignore[reportReturnType]

    def _log_likelihood(self, name: str, part: Part, state: Drawn) -> Float[Tensor, " cell"]:
        """log p(counts | z, l) of a data set's own cells, summed over the genes that it measures."""
        likelihood, code, decoder = self._likelihood(name), self._code_in(name, part.cells), self.decoder
        hidden, genes = decoder.hidden(state.z, code), slice(None) if name == "rna" else self.panel

        def head(layer: nn.Linear) -> LazyLinear:
            return LazyLinear(hidden, layer.weight[genes], layer.bias[genes])

        given = part.cells.x, head(decoder.share), state.log_library
        if likelihood == "poisson":
            return sparse_likelihoods.poisson(*given)
        log_dispersion = decoder.log_dispersion_in(hidden, code, genes)
        if likelihood == "nb":
            return sparse_likelihoods.negative_binomial(*given, log_dispersion)
        return sparse_likelihoods.zero_inflated_negative_binomial(*given, log_dispersion, head(decoder.dropout_logits))

    def _of_panel(self, share: Float[Tensor, "cell gene"], name: str) -> Float[Tensor, "cell gene"]:
        """Shares in the counts of the genes that a data set measures."""
        return share if name == "rna" else share / share[:, self.panel].sum(1, keepdim=True)

    def _likelihood(self, name: str) -> Counts:
        return self.config.gene_likelihood if name == "rna" else self.config.spatial_likelihood

    def _code_in(self, name: str, cells: CellBatch) -> CellCode:
        """Code of the batch among those of both data sets."""
        return self.batch_code[DATA_SETS.index(name)][cells.batch]

    def _code(self, cells: CellBatch, batch: CellCode | None) -> CellCode:
        """Code of the batch of each cell, or of another batch, in the data set that the cell is in."""
        measured = replace(cells, batch=cells.batch if batch is None else batch)
        single = cells.x.sum() > 0
        return torch.where(single, *(self._code_in(name, measured) for name in DATA_SETS))

    def _with_level(
        self, states: Mapping[str, Tensor], parts: Mapping[str, Part]
    ) -> tuple[Float[Tensor, "state latent"], Int[Tensor, " state"]]:
        """States of the cells of both data sets, and which of the two each is of."""
        there = [(i, states[name]) for i, name in enumerate(DATA_SETS) if parts[name].known.any()]
        level = torch.cat([torch.full((len(z),), i, device=z.device) for i, z in there])
        return torch.cat([z for _, z in there]), level
