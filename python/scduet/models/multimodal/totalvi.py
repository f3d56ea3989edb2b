"""totalVI: RNA and surface proteins of the same cells (CITE-seq; Gayoso, Steier et al. 2021, Nature Methods 18:272).

    z     ~ Normal(0, I)                       state of the cell; with latent_distribution="ln" a softmax of it
    l     = total of the cell's counts         or log l ~ Normal(m_batch, v_batch), or a size factor of the data's own
    share = softmax(genes(z, batch, ...))      expected share of each gene (softplus with size factors)
    x     ~ NB(l * share, r)                   counts of genes, with dispersion r; or ZINB
    log b ~ Normal(m_panel, s_panel)           background of a protein in a cell, e.g. from unbound antibodies
    f     = 1 + relu(foreground(z, batch, ...)),   p = sigmoid(mixing(z, batch, ...)): is there no more than background?
    y     ~ p NB(e b, q) + (1 - p) NB(e b f, q)    counts of proteins; e: efficiency of capture in the batch
    q(z | x, y) = Normal(encoder(x, y, batch, ...)),  q(log b | z) = Normal(background(z, batch, ...))

Training minimizes, as a mean over cells and with w for kl_weight and R for a weak prior of e and p,
    -log p(x | z, l) + KL(q(l) || p(l)) + w (-log p(y | z, b) + KL(q(z) || p(z)) + KL(q(b) || p(b)) + R)
A protein that was not measured in a cell counts in the encoder alone, which takes it for zero. Where proteins are
missing, a second player learns to tell the batch from z, and the model to prevent it. Options, initial distributions
and random draws, but for those of dropout, are those of scvi-tools 1.4. The proteins' side is in `proteins`.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass, replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Input, Loss, Player, Reference, SparseRows, Step
from scduet.data import schema
from scduet.models.multimodal.protein_background import measured
from scduet.models.multimodal.proteins import Branch, ProteinDecoder, Proteins, draw_as_theirs, level_rows, of_level
from scduet.nn.adversary import Adversary
from scduet.nn.distributions import Distribution, NegativeBinomial, ZeroInflatedNegativeBinomial
from scduet.nn.gaussians import softmax_mean
from scduet.nn.heads import head
from scduet.nn.layers import MLP, Codes, GaussianEncoder, kl_to_normal, rows_beside, rsample
from scduet.nn.sparse_likelihoods import negative_binomial, zero_inflated_negative_binomial
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

ADVERSARY = Player("adversary", lr=0.25)  # 1e-3 where the model's rate is 4e-3, as in scvi-tools


@dataclass(frozen=True)
class Fields(schema.Fields):
    protein_key: str | None = None
    """Where the protein counts are: a key of obsm, or a modality of a MuData; NaN where a protein was not measured."""
    panel_key: str | None = None
    """Column of obs with the panel of antibodies, where that is not one for each batch."""


@dataclass(frozen=True)
class Config:
    n_hidden: int = 256
    """Width of the hidden layers."""
    n_latent: int = 20
    """Dimensions of the latent space."""
    n_layers_encoder: int = 2
    """Hidden layers of the encoder."""
    n_layers_decoder: int = 1
    """Hidden layers of each of the four decoders."""
    dropout_rate_encoder: float = 0.2
    """Share of hidden units that the encoder drops in training."""
    dropout_rate_decoder: float = 0.2
    """Share of hidden units that the decoders drop in training."""
    gene_dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene"
    """What the dispersion of a gene may depend on; with "gene-label" an unlabeled cell gets the labels' mean."""
    protein_dispersion: Literal["protein", "protein-batch", "protein-label"] = "protein"
    """What the dispersion of a protein may depend on."""
    gene_likelihood: Literal["nb", "zinb"] = "nb"
    """Distribution of the counts of genes."""
    latent_distribution: Literal["normal", "ln"] = "normal"
    """Prior of the latent space: normal, or logistic-normal (the cell is a mixture of topics)."""
    log_variational: bool = True
    """Give the encoder logarithms of counts rather than counts."""
    use_observed_lib_size: bool = True
    """Take a cell's library size as its total, rather than learn it. With size factors it is never learned."""
    encode_covariates: bool = True
    """Show the batch and the covariates to the encoder too."""
    use_batch_norm: Literal["encoder", "decoder", "none", "both"] = "both"
    """Where batch normalization is used."""
    use_layer_norm: Literal["encoder", "decoder", "none", "both"] = "none"
    """Where layer normalization is used."""
    empirical_protein_background_prior: bool | None = None
    """Start the prior of the background from mixtures fitted to cells; None: with more than 10 proteins."""
    override_missing_proteins: bool = False
    """Take a protein without a count in a whole batch or panel for measured there. One that is NaN never is."""
    adversarial_classifier: bool | None = None
    """Learn a latent space from which the batch cannot be told; None: where proteins are missing in a batch."""
    pro_recons_weight: float = 1.0
    """Weight of the proteins' part of the likelihood."""
    encoder_input: Literal["normalized", "log1p"] = "normalized"
    """Counts divided by 1 + their mean in the cell, or as they are: scvi-tools since 1.3.1, and before."""
    background_activation: Literal["softplus", "exp"] = "softplus"
    """Link of the background's standard deviation: scvi-tools since 1.2, and before."""
    protein_efficiency: bool = True
    """Learn how well batches capture proteins, and weight the proteins' likelihood like KL: scvi-tools since 1.3.1."""

    def __post_init__(self) -> None:
        check_network(self)


def _auto(n_cells: int, max_epochs: int | None) -> dict[str, Any]:
    """Below 2,500 cells a warm-up of as many minibatches as 20 epochs of these: after 40 of them batches stay apart."""
    training = {"lr": 4e-3, "batch_size": 256}
    few = {"kl_warmup_epochs": max(1, min(50_000 // n_cells, (max_epochs or 200) * 3 // 4))}
    return training | few if n_cells < 2500 else training


def _scvi_tools(n_cells: int, max_epochs: int | None) -> dict[str, Any]:
    """TOTALVI.train of scvi-tools 1.4, whose warm-up is half as long with the adversary, since its steps count too."""
    training = {"lr": 4e-3, "batch_size": 256, "early_stopping": True, "reduce_lr_on_plateau": True}
    return training | {"kl_warmup_steps": max(1, int(0.75 * n_cells))}


class TotalVI(nn.Module):
    Config, Fields = Config, Fields
    players: tuple[str | Player, ...] = ("model",)
    expects: Expects = "counts"
    inputs = {
        "protein": Input("protein_key", may_miss=True),
        "panel": Input("panel_key", values="binary", may_miss=True, required=False, look_in=("obs",)),
    }
    modalities = ("rna", "protein")
    recipes = {"auto": _auto, "scvi-tools": _scvi_tools}
    measure = staticmethod(measured)

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        self.inflated = config.gene_likelihood == "zinb"
        self.learns_library = not (config.use_observed_lib_size or reference.size_factor)
        n_genes, hidden = reference.n_genes, config.n_hidden
        n_in = n_genes + reference.n_extra["protein"] + reference.n_continuous * config.encode_covariates
        self.encoder = GaussianEncoder(self._mlp("encoder", n_in, config.n_layers_encoder), hidden, config.n_latent)
        if self.learns_library:
            self.library_encoder = GaussianEncoder(self._mlp("encoder", n_in, 1), hidden, 1)
            for name in ("library_log_mean", "library_log_variance"):
                self.register_buffer(name, torch.tensor(reference.arrays[name]).reshape(-1))
        self.genes = self._branch(share=n_genes)
        self.proteins = ProteinDecoder(reference, config, self._branch, n_genes if self.inflated else 0)
        self.log_dispersion = nn.Parameter(torch.randn(*level_rows(config.gene_dispersion, reference), n_genes))
        self.add_adversary()

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        if self.adversary is not None and step.player == ADVERSARY.name:
            told = self.adversary.recognition(self._states.pop(0), cells.batch)
            return Loss((1 - step.kl_weight) * told, {"recognition": told}, len(cells))
        each, z = self._terms(cells)
        terms = {name: values.mean() for name, values in each.items()}
        protein = self.config.pro_recons_weight * terms["reconstruction_protein"]
        total = terms["reconstruction"] + (step.kl_weight * protein if self.config.protein_efficiency else protein)
        total = total + step.kl_weight * (terms["kl"] + terms["kl_background"])
        total = total + terms["kl_library"] if self.learns_library else total
        if self.adversary is not None and self.training:
            self._states.append(z.detach())  # for the adversary's turn
            terms["deception"] = self.adversary.deception(z, cells.batch)
            total = total + (1 - step.kl_weight) * terms["deception"]
        return Loss(total, terms, len(cells))

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """The weights of the model, or of its adversary."""
        return [p for name, p in self.named_parameters() if name.startswith("adversary.") == (player == "adversary")]

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        """The terms of each cell's negative evidence lower bound, at a draw of its state and background."""
        return self._terms(cells)[0]

    def embed(self, cells: CellBatch) -> State:
        """Posterior mean of z. For "ln" the mean over draws, whose noise is fixed and the same for every cell."""
        mean, variance = self.posterior(cells)
        return mean if self.config.latent_distribution == "normal" else softmax_mean(mean, variance)

    def posterior(self, cells: CellBatch) -> tuple[State, State]:
        """Mean and variance of q(z | x, y), before the softmax of "ln"."""
        return self.encoder(*self._encoder_input(cells))

    def transform_latent(self, z: State) -> State:
        """The state of a cell, of a draw from q(z | x, y): its softmax for "ln"."""
        return z.softmax(-1) if self.config.latent_distribution == "ln" else z

    def library_posterior(self, cells: CellBatch) -> tuple[CellValue, CellValue]:
        """Mean and variance of q(log l | x, y), where the library size is learned."""
        return self.library_encoder(*self._encoder_input(cells))

    def library_prior(self, cells: CellBatch) -> tuple[CellValue, CellValue]:
        """Mean and variance of p(log l) in the cell's batch, where the library size is learned."""
        return self.library_log_mean[cells.batch, None], self.library_log_variance[cells.batch, None]  # type: ignore

    def log_library(self, cells: CellBatch) -> CellValue:
        """log l: of the size factor, the posterior mean, or the observed total (-inf for an empty cell)."""
        if self.reference.size_factor:
            return cells.covariates.size_factor.log()[:, None]  # type: ignore[union-attr]
        return self.library_posterior(cells)[0] if self.learns_library else cells.x.sum().log()[:, None]

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> dict[str, Distribution]:
        """Distributions of counts as if measured in `batch` and with `log_library`, proteins around a draw of b."""
        batch = cells.batch if batch is None else batch
        log_library = self.log_library(cells) if log_library is None else log_library
        state, codes = self._state(z, cells, batch)
        scale, mixing = self._scale(state, codes), self.proteins.mixing(state, codes)
        dispersion = of_level(self.config.gene_dispersion, self.log_dispersion, batch, cells.label).exp()
        genes = NegativeBinomial(scale, log_library.exp() * scale, dispersion)
        if self.inflated:
            genes = ZeroInflatedNegativeBinomial(
                **vars(genes), dropout_logits=self.proteins.mixing.dropout_logits(mixing, codes)
            )
        draw_as_theirs(z)
        return {"rna": genes, "protein": self.proteins.mixture(self.proteins(state, codes, mixing), cells, batch)}

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
        """Expected share of each gene, or expected counts of each protein, as if measured in `batch`.

        Proteins are around a draw of their background, without it unless it is included, and at full efficiency; see
        `proteins.Proteins.normalized`. out: where to write it, if no gradient is asked for.
        """
        state, codes = self._state(z, cells, batch)
        if modality in (None, "rna"):
            found = self._scale(state, codes)
        else:
            draw_as_theirs(z)
            options = include_protein_background, sample_protein_mixing, scale_protein
            found = self.proteins(state, codes).normalized(*options)
        return found if out is None else out.copy_(found)

    def foreground_probability(
        self, z: State, cells: CellBatch, batch: CellCode | None = None
    ) -> Float[Tensor, "cell protein"]:
        """Probability that a protein is there beyond background, as if measured in `batch`."""
        state, codes = self._state(z, cells, batch)
        return torch.sigmoid(-self.proteins.mixing.logits(self.proteins.mixing(state, codes), codes))

    def log_likelihood(self, z: State, cells: CellBatch, log_library: CellValue) -> Float[Tensor, " cell"]:
        """log p(x, y | z, l), summed over genes and measured proteins: an estimate from one draw of the background."""
        genes, proteins = self._decoded(z, cells, log_library)
        return genes + self.proteins.log_likelihood(proteins, cells)

    def _terms(self, cells: CellBatch) -> tuple[dict[str, Float[Tensor, " cell"]], State]:
        """The terms of each cell's loss, and the state that was drawn."""
        mean, variance = self.posterior(cells)
        z = self.transform_latent(rsample(mean, variance))
        log_library, kl_library = self._sample_library(cells, z)
        genes, proteins = self._decoded(z, cells, log_library)
        terms = {"reconstruction": -genes, "kl": kl_to_normal(mean, variance), **kl_library}
        return terms | self.proteins.cell_terms(proteins, cells), z

    def _decoded(self, z: State, cells: CellBatch, log_library: CellValue) -> tuple[Float[Tensor, " cell"], Proteins]:
        """log p(x | z, l), summed over genes, and the proteins around a draw of their background."""
        state, codes = self._state(z, cells)
        mixing = self.proteins.mixing(state, codes)
        logits = head(self.genes.share, self.genes(state, codes), codes)
        log_r = of_level(self.config.gene_dispersion, self.log_dispersion, cells.batch, cells.label)
        link, proteins = "softplus" if self.reference.size_factor else "softmax", self.proteins(state, codes, mixing)
        if not self.inflated:
            return negative_binomial(cells.x, logits, log_library, log_r, link), proteins
        dropout = head(self.proteins.mixing.dropout_logits, mixing, codes)
        return zero_inflated_negative_binomial(cells.x, logits, log_library, log_r, dropout, link), proteins

    def _sample_library(self, cells: CellBatch, z: Tensor) -> tuple[CellValue, dict[str, Tensor]]:
        """log l for training, and where it is learned, its term of each cell's loss."""
        if not self.learns_library:
            draw_as_theirs(z)
            return self.log_library(cells), {}
        mean, variance = self.library_posterior(cells)
        kl = kl_to_normal(mean, variance, self.library_prior(cells))
        return rsample(mean, variance).clamp(max=15.0), {"kl_library": kl}

    def _encoder_input(self, cells: CellBatch) -> tuple[SparseRows, Codes]:
        """Genes, proteins, and where they are encoded the covariates."""
        c, values, proteins = self.config, cells.x.data, self.proteins.counts(cells)[0]
        if c.encoder_input == "normalized":
            values = values / (1 + cells.x.sum() / self.reference.n_genes)[cells.x.row]
            proteins = proteins / (1 + proteins.mean(1, keepdim=True))
        if c.log_variational:
            values, proteins = values.log1p(), proteins.log1p()
        dense, codes = self._state(proteins, cells) if c.encode_covariates else (proteins, ())
        return rows_beside(replace(cells.x, data=values), dense), codes

    def _scale(self, state: Float[Tensor, "cell state"], codes: Codes) -> Float[Tensor, "cell gene"]:
        logits = self.genes.share(self.genes(state, codes), codes)
        return F.softplus(logits) if self.reference.size_factor else logits.softmax(-1)

    def _state(self, z: Tensor, cells: CellBatch, batch: Tensor | None = None) -> tuple[Tensor, Codes]:
        """What the decoders see: z beside the continuous covariates, and the codes of the categorical ones."""
        batch, covariates = cells.batch if batch is None else batch, cells.covariates
        codes = [batch] if covariates.categorical is None else [batch, *covariates.categorical.unbind(1)]
        return z if covariates.continuous is None else torch.cat([z, covariates.continuous], -1), codes

    def _mlp(self, side: Literal["encoder", "decoder"], n_in: int, n_layers: int) -> MLP:
        c, r = self.config, self.reference
        return MLP(
            n_in,
            c.n_hidden,
            n_layers,
            levels=(r.n_batches, *r.n_categories) if side == "decoder" or c.encode_covariates else (),
            dropout=c.dropout_rate_encoder if side == "encoder" else c.dropout_rate_decoder,
            batch_norm=c.use_batch_norm in (side, "both"),
            layer_norm=c.use_layer_norm in (side, "both"),
            sparse=side == "encoder",
        )

    def _branch(self, **heads: int) -> Branch:
        c, n_state = self.config, self.config.n_latent + self.reference.n_continuous
        levels = self.reference.n_batches, *self.reference.n_categories
        return Branch(self._mlp("decoder", n_state, c.n_layers_decoder), c.n_hidden, n_state, levels, **heads)

    def add_adversary(self) -> None:
        """Make the adversary, where the options or missing proteins ask for one."""
        wanted, r = self.config.adversarial_classifier, self.reference
        undetected, unmeasured = r.arrays["protein_missing"]
        missing = unmeasured or (undetected and not self.config.override_missing_proteins)
        self.adversary, self._states, self.players = None, list[Tensor](), ("model",)
        if r.n_batches > 1 and (missing if wanted is None else wanted):
            self.adversary = Adversary(self.config.n_latent, r.n_batches)
            self.players = ("model", ADVERSARY)
