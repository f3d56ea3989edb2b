"""MultiVI: RNA, peaks and proteins of cells that may lack some of them (Ashuach et al. 2023, Nature Methods 20:1222).

    z     ~ Normal(0, I)                          state of the cell; with latent_distribution="ln" a softmax of it
    genes:    x ~ ZINB(l * softmax(genes(z, ...)), r, dropout)    log l = leaky ReLU of a network of the cell's genes
    peaks:    x > 0 ~ Bernoulli(p * d * f)                        p, d and f as in PeakVI
    proteins: y ~ the mixture of background and foreground of totalVI, without an efficiency of the batch

    q(z | cell): the mean and the variance of the mixture, with weights w, of one Normal for each modality that was
    measured in the cell, each from an encoder of its own that reads raw counts; w: softmax(modality weights) over these

Training minimizes, as a mean over cells and with k for kl_weight,
    - log p(what was measured | z) + k (KL(q(z) || p(z)) + KL(q(background) || p(background))) + penalty
where the penalty draws the modalities of a cell together. A second player learns to tell from z what was measured, and
the model to prevent it. A modality counts as measured in a cell where that has any count of it. Only those cells are
encoded and decoded, and peaks stay sparse. Options and initial distributions are those of scvi-tools 1.4; where its
posterior, penalty, proteins and adversary are otherwise, `as_in_scvi_tools` gives them as they are there.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Input, Loss, Player, Reference, Step
from scduet.data import schema
from scduet.models.multimodal import multivi_measured, peakvi
from scduet.models.multimodal.experts import Mixture, Part, Posterior, pair_penalty
from scduet.models.multimodal.multivi_measured import MODALITIES, cells_measured, check_paired, code_of
from scduet.models.multimodal.multivi_networks import Networks, decoder_input, encoder_input
from scduet.models.multimodal.proteins import Proteins
from scduet.nn.adversary import Adversary
from scduet.nn.distributions import Bernoulli, Distribution
from scduet.nn.gaussians import softmax_mean
from scduet.nn.layers import kl_to_normal, rsample
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

ADVERSARY = "adversary"
THEIR_RATE = 10.0  # of the adversary beside that of the model, in scvi-tools: 1e-3 and 1e-4


@dataclass(frozen=True)
class Fields(schema.Fields):
    peaks_key: str | None = None
    """Where the counts of peaks are: a key of obsm, a modality of a MuData, or the feature_types of peaks in X."""
    protein_key: str | None = None
    """Where the protein counts are: a key of obsm, or a modality of a MuData; NaN where a protein was not measured."""


@dataclass(frozen=True)
class Config:
    modality_weights: Literal["equal", "cell", "universal"] = "equal"
    """Weight of each modality in the posterior of a cell: all alike, learned for all cells, or for each of them."""
    modality_penalty: Literal["Jeffreys", "MMD", "None"] = "Jeffreys"
    """What draws the modalities of a cell together: symmetric KL divergence, distance of the means, or nothing."""
    n_hidden: int | None = None
    """Width of the hidden layers; None for the square root of the number of peaks, 128 at most."""
    n_latent: int | None = None
    """Dimensions of the latent space; None for the square root of n_hidden."""
    n_layers_encoder: int = 2
    """Hidden layers of the encoders."""
    n_layers_decoder: int = 2
    """Hidden layers of the decoders."""
    dropout_rate: float = 0.1
    """Share of hidden units that the encoders drop in training."""
    region_factors: bool = True
    """Learn a factor of each peak."""
    gene_likelihood: Literal["zinb", "nb", "poisson"] = "zinb"
    """Distribution of the counts of genes."""
    dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene"
    """What the dispersion of a gene may depend on."""
    protein_dispersion: Literal["protein", "protein-batch", "protein-label"] = "protein"
    """What the dispersion of a protein may depend on."""
    use_batch_norm: Literal["encoder", "decoder", "none", "both"] = "none"
    """Where batch normalization is used."""
    use_layer_norm: Literal["encoder", "decoder", "none", "both"] = "both"
    """Where layer normalization is used."""
    latent_distribution: Literal["normal", "ln"] = "normal"
    """Prior of the latent space: normal, or logistic-normal."""
    deeply_inject_covariates: bool = False
    """Show categorical covariates to every hidden layer of the decoders of genes and peaks, not only to the first."""
    encode_covariates: bool = False
    """Show the batch and the covariates to the encoders too."""
    override_missing_proteins: bool = False
    """Take a protein without a count in a whole batch for measured there. One that is NaN never is."""
    fully_paired: bool = False
    """Refuse cells in which RNA or peaks were not measured."""
    adversarial_mixing: bool = True
    """Learn a latent space from which one cannot tell what was measured in a cell."""
    as_in_scvi_tools: bool = False
    """The posterior's variance, penalty, proteins and adversary (of the batch) of scvi-tools, for equal numbers."""

    def __post_init__(self) -> None:
        check_network(self)


class MultiVI(nn.Module):
    Config, Fields = Config, Fields
    players: tuple[str | Player, ...] = (Player(optimizer="adamw"),)
    expects: Expects = "counts"
    inputs = {
        "x": Input("layer", sparse=True, may_miss=True),
        "peaks": Input("peaks_key", sparse=True, may_miss=True),
        "protein": Input("protein_key", may_miss=True, required=False),
    }
    modalities: tuple[str, ...] = MODALITIES
    accessibility_unit = "probability"
    recipes = peakvi.RECIPES
    measure = staticmethod(multivi_measured.measure)

    @staticmethod
    def per_cell(config: Config) -> bool:
        """Whether each cell has weights of its own."""
        return config.modality_weights == "cell"

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        make, n_extra = Networks(reference, config), reference.n_extra
        self.n_latent, self.modalities = make.n_latent, MODALITIES[: 3 if "protein" in n_extra else 2]
        if config.fully_paired:
            check_paired(reference)
        self.rna, self.peaks = make.rna(), make.peaks()
        self.peaks_encoder = make.encoder(n_extra["peaks"], sparse=True)
        self.depth = make.factor(n_extra["peaks"])
        if not reference.size_factor:
            self.library = make.factor(reference.n_genes)
        if "protein" in self.modalities:
            self.protein_encoder, self.proteins = make.encoder(n_extra["protein"], sparse=False), make.proteins()
            for prior in (self.proteins.prior_mean, self.proteins.prior_log_sd):
                prior.requires_grad_(not config.as_in_scvi_tools)
        n_cells, learned = reference.n_cells if self.per_cell(config) else None, config.modality_weights != "equal"
        self.mixture = Mixture(len(MODALITIES), n_cells, learned, config.as_in_scvi_tools)
        self.add_adversary()
        self._encoded = partial(encoder_input, with_covariates=config.encode_covariates)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        if step.player == ADVERSARY and self.adversary is not None:
            told = self.adversary.recognition(*self._told.pop(0))
            return Loss(told, {"recognition": told}, len(cells))
        each, z, parts = self._terms(cells)
        terms = {name: values.mean() for name, values in each.items()}
        total = sum((step.kl_weight if name.startswith("kl") else 1) * value for name, value in terms.items())
        if self.adversary is not None and self.training:
            level = cells.batch if self.config.as_in_scvi_tools else self.level_of_code[code_of(parts)]  # pyright: ignore[reportIndexIssue]
            self._told.append((z.detach(), level))  # for the adversary's turn
            terms["deception"] = self.adversary.deception(z, level)
            total = total + terms["deception"]
        return Loss(total, terms, len(cells))  # pyright: ignore[reportArgumentType]

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """The weights of the model, or of its adversary."""
        return [p for name, p in self.named_parameters() if name.startswith("adversary.") == (player == ADVERSARY)]

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        """The terms of each cell's negative evidence lower bound, at a draw of its state; without the penalty."""
        return {name: values for name, values in self._terms(cells)[0].items() if name != "penalty"}

    def embed(self, cells: CellBatch, modality: str | None = None) -> State:
        """Posterior mean of z, by all that was measured or by one modality; NaN where that was not.

        For "ln" the mean over draws, whose noise is fixed and the same for every cell.
        """
        if modality is None:
            mean, variance = self.posterior(cells)
        else:
            parts = self._parts(cells)
            mean, variance = self._experts(parts)[modality]
            mean = mean.where(parts[modality].known[:, None], torch.nan)
        return mean if self.config.latent_distribution == "normal" else softmax_mean(mean, variance)

    def posterior(self, cells: CellBatch) -> Posterior:
        """Mean and variance of q(z | cell), before the softmax of "ln"; the prior's for a cell without any count."""
        parts = self._parts(cells)
        return self.mixture(self._experts(parts), parts, cells)

    def transform_latent(self, z: State) -> State:
        return z.softmax(-1) if self.config.latent_distribution == "ln" else z

    def log_library(self, cells: CellBatch) -> CellValue:
        """log l: what the network says of the genes (also where RNA was not measured), or of the size factor."""
        if self.reference.size_factor:
            return cells.covariates.size_factor.log()[:, None]  # type: ignore[union-attr]
        return F.leaky_relu(self.library(*self._encoded(cells, cells.x)))

    def log_likelihood(self, z: State, cells: CellBatch, log_library: CellValue) -> Float[Tensor, " cell"]:
        """log p(what was measured | z), summed over the features of all modalities."""
        parts = self._parts(cells)
        found = self._log_rna(z, parts["rna"], log_library) + self._log_peaks(z, parts["peaks"])
        if "protein" not in parts:
            return found
        proteins = self._proteins(z, cells)
        if self.config.as_in_scvi_tools:  # there is no prior of the background
            return found - self._protein_terms(proteins, cells, parts)["reconstruction_protein"]
        return found + parts["protein"].known * self.proteins.log_likelihood(proteins, cells)

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> Mapping[str, Distribution]:
        """Distributions of all modalities, measured or not, of cells in the states z, as if measured in `batch`."""
        batch = cells.batch if batch is None else batch
        log_library = self.log_library(cells) if log_library is None else log_library
        seen = self.accessibility(z, cells, batch, region_factors=True) * self.cell_factors(cells)
        found = {**self.rna.decode(z, cells, batch, log_library), "peaks": Bernoulli(seen)}
        if "protein" in self.modalities:
            found["protein"] = self.proteins.mixture(self._proteins(z, cells, batch), cells, batch)
        return found

    def normalized_expression(
        self,
        z: State,
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
        *,
        include_protein_background: bool = False,
        sample_protein_mixing: bool = False,
        scale_protein: bool = False,
    ) -> Float[Tensor, "cell feature"]:
        """Expected share of each gene, probability that each peak is open, or expected counts of each protein.

        Measured or not, as if measured in `batch`. Options of proteins: as in totalVI. out: where to write the result.
        """
        if modality in (None, "rna"):
            return self.rna.normalized_expression(z, cells, batch, out=out)
        if modality == "peaks":
            return self.peaks.probability(*decoder_input(z, cells, batch), out)
        options = include_protein_background, sample_protein_mixing, scale_protein
        found = self._proteins(z, cells, batch).normalized(*options)
        return found if out is None else out.copy_(found)

    def foreground_probability(
        self, z: State, cells: CellBatch, batch: CellCode | None = None
    ) -> Float[Tensor, "cell protein"]:
        """Probability that a protein is there beyond background, as if measured in `batch`."""
        return torch.sigmoid(-self._proteins(z, cells, batch).logits)

    def accessibility(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, region_factors: bool = False
    ) -> Float[Tensor, "cell peak"]:
        """The probability that each peak is open, or with `region_factors` that it would be seen at full depth."""
        open_ = self.normalized_expression(z, cells, batch, "peaks")
        return open_ * self.region_factors() if region_factors else open_

    def cell_factors(self, cells: CellBatch) -> CellValue:
        """The depth d of each cell, as the network sees it, also where peaks were not measured."""
        return self.depth(*self._encoded(cells, cells.extra["peaks"])).sigmoid()

    def region_factors(self) -> Float[Tensor, " peak"]:
        """The factor f of each peak; 1 where it is not learned."""
        return self.peaks.region_factors()

    def _terms(self, cells: CellBatch) -> tuple[dict[str, Float[Tensor, " cell"]], Tensor, dict[str, Part]]:
        """The terms of each cell's loss, the state that was drawn, and what was measured."""
        parts = self._parts(cells)
        experts = self._experts(parts)
        mean, variance = self.mixture(experts, parts, cells)
        if self.config.as_in_scvi_tools:  # where each modality is drawn from, for nothing: so do we, for equal numbers
            for _ in MODALITIES:
                torch.randn_like(mean)
        z = self.transform_latent(rsample(mean, variance))
        terms = {"reconstruction": -self._log_rna(z, parts["rna"])}
        terms |= {"reconstruction_peaks": -self._log_peaks(z, parts["peaks"]), "kl": kl_to_normal(mean, variance)}
        if "protein" in parts:
            terms |= self._protein_terms(self._proteins(z, cells), cells, parts)
        kind, as_theirs = self.config.modality_penalty, self.config.as_in_scvi_tools
        terms |= {"penalty": pair_penalty(kind, experts, parts, as_theirs)} if kind != "None" else {}
        return terms, z, parts

    def _parts(self, cells: CellBatch) -> dict[str, Part]:
        """The cells in which each modality was measured: those with any count of it."""
        matrices = {"rna": cells.x, "peaks": cells.extra["peaks"]}
        if "protein" in self.modalities:
            matrices["protein"] = cells.extra["protein"].nan_to_num(0.0)
        return {name: Part.of(cells, matrix) for name, matrix in matrices.items()}

    def _experts(self, parts: Mapping[str, Part]) -> dict[str, Posterior]:
        """Mean and variance of q(z | one modality); 0 and 1 where it was not measured."""
        encoders, found = {"rna": self.rna.encoder, "peaks": self.peaks_encoder}, {}
        encoders |= {"protein": self.protein_encoder} if "protein" in parts else {}
        for name, part in parts.items():
            mean, variance = encoders[name](*self._encoded(part.cells, part.cells.x))
            found[name] = part.spread(mean), part.spread(variance) + ~part.known[:, None]
        return found

    def _log_rna(self, z: Tensor, part: Part, log_library: Tensor | None = None) -> Float[Tensor, " cell"]:
        library = self.log_library(part.cells) if log_library is None else part.take(log_library)
        return part.spread(self.rna.log_likelihood(part.take(z), part.cells, library))

    def _log_peaks(self, z: Tensor, part: Part) -> Float[Tensor, " cell"]:
        depth, given = self.depth(*self._encoded(part.cells, part.cells.x)), part.take(z)
        return part.spread(self.peaks.log_likelihood(part.cells.x, *decoder_input(given, part.cells), depth))

    def _proteins(self, z: Tensor, cells: CellBatch, batch: Tensor | None = None) -> Proteins:
        return self.proteins(*decoder_input(z, cells, batch))

    def _protein_terms(self, proteins: Proteins, cells: CellBatch, parts: Mapping[str, Part]) -> dict[str, Tensor]:
        found = self.proteins.cell_terms(proteins, cells)
        wanted = ["reconstruction_protein"] if self.config.as_in_scvi_tools else list(found)
        return {name: parts["protein"].known * found[name] for name in wanted}

    def add_adversary(self) -> None:
        """Make the adversary, where the options ask for one and there is something to tell apart."""
        of_batch, there = self.config.as_in_scvi_tools, cells_measured(self.reference) > 0
        n_levels = self.reference.n_batches if of_batch else int(there.sum())
        self.adversary, self._told, self.players = None, list[tuple[Tensor, Tensor]](), type(self).players
        if self.config.adversarial_mixing and n_levels > 1:
            self.adversary = Adversary(self.n_latent, n_levels)
            self.players = Player(optimizer="adamw"), Player(ADVERSARY, lr=THEIR_RATE if of_batch else 1.0)
            level_of_code = torch.from_numpy(np.maximum(there.cumsum() - 1, 0))
            self.register_buffer("level_of_code", level_of_code, persistent=False)
