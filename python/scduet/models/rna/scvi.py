"""scVI, all of it: a variational autoencoder of single-cell counts (Lopez et al. 2018, Nature Methods 15:1053).

    z     ~ Normal(0, I)                        state of the cell; with latent_distribution="ln" a softmax of it
    l     = total of the cell's counts          library size, or log l ~ Normal(m_batch, v_batch) when it is learned,
                                                or the size factor that came with the data
    share = softmax(decoder(z, batch, ...))     expected share of each gene (softplus with size factors)
    x     ~ ZINB(l * share, r, dropout)         counts, with dispersion r; or NB, Poisson, Normal

    q(z | x) = Normal(encoder(log(1 + x)))      and the same for a learned log l

Training minimizes -log p(x | z, l) + kl_weight * KL(q(z|x) || p(z)) + KL(q(l|x) || p(l)), a mean over cells.
Options, initial distributions, constants and random draws, but for those of dropout, are those of scvi-tools 1.4.
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Measured, Reference, SparseRows, Step
from scduet.data.sources import Cells
from scduet.errors import OptionError
from scduet.nn import sparse_likelihoods
from scduet.nn.distributions import Distribution, NegativeBinomial, Normal, Poisson, ZeroInflatedNegativeBinomial
from scduet.nn.gaussians import softmax_mean
from scduet.nn.heads import head, write_logits
from scduet.nn.layers import MLP, Activation, Codes, GaussianEncoder, kl_to_normal, rsample
from scduet.nn.sparse_likelihoods import Link
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

COUNTS = {"zinb": ZeroInflatedNegativeBinomial, "nb": NegativeBinomial, "poisson": Poisson, "normal": Normal}


@dataclass(frozen=True)
class Config:
    n_hidden: int = 128
    """Width of the hidden layers."""
    n_latent: int = 10
    """Dimensions of the latent space."""
    n_layers: int = 1
    """Hidden layers of the encoder and of the decoder."""
    dropout_rate: float = 0.1
    """Share of hidden units that the encoder drops in training."""
    dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene"
    """What the dispersion of a gene may depend on; with "gene-label" an unlabeled cell gets the labels' mean."""
    gene_likelihood: Literal["zinb", "nb", "poisson", "normal"] = "zinb"
    """Distribution of the counts."""
    latent_distribution: Literal["normal", "ln"] = "normal"
    """Prior of the latent space: normal, or logistic-normal (the cell is a mixture of topics)."""
    log_variational: bool = True
    """Give the encoder log(1 + counts) rather than counts."""
    use_observed_lib_size: bool = True
    """Take a cell's library size as its total, rather than learn it. With size factors it is never learned."""
    encode_covariates: bool = False
    """Show the batch and the covariates to the encoder too."""
    deeply_inject_covariates: bool = True
    """Show categorical covariates to every hidden layer, not only to the first."""
    batch_representation: Literal["one-hot", "embedding"] = "one-hot"
    """Batch as a covariate of its own, or as a learned vector of length 5, which suits very many batches."""
    use_batch_norm: Literal["encoder", "decoder", "none", "both"] = "both"
    """Where batch normalization is used."""
    use_layer_norm: Literal["encoder", "decoder", "none", "both"] = "none"
    """Where layer normalization is used."""

    def __post_init__(self) -> None:
        check_network(self)


EMBEDDING = 5  # length of a batch's vector, as in scvi-tools


def library_moments(cells: Cells, reference: Reference) -> dict[str, Measured]:
    """Mean and variance, within each batch, of the log of the cells' totals above 0: the prior of a library size."""
    filled, n_batches = cells.total > 0, reference.n_batches
    batch, log_total = cells.batch[filled], np.log(cells.total[filled], dtype=np.float64)
    n = np.bincount(batch, minlength=n_batches)
    mean = np.bincount(batch, log_total, n_batches) / np.maximum(n, 1)
    variance = np.bincount(batch, (log_total - mean[batch]) ** 2, n_batches) / np.maximum(n, 1)
    varies = variance > 1e-9  # not so in a batch of one cell, which takes the mean variance of the others
    usual = np.average(variance, weights=n * varies) if varies.any() else 1.0
    moments = {"library_log_mean": mean, "library_log_variance": np.where(varies, variance, np.where(n > 0, usual, 1))}
    return {name: Measured(values.astype(np.float32), "batch") for name, values in moments.items()}


class SCVI(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    measure = staticmethod(library_moments)
    modalities = ("rna",)
    library_log_mean: Float[Tensor, " batch"]
    library_log_variance: Float[Tensor, " batch"]

    def __init__(
        self,
        reference: Reference,
        config: Config,
        decoder: nn.Module | None = None,
        head: Callable[[], nn.Module] | None = None,
        counts: Callable[[Any, CellBatch, CellCode], Distribution] | None = None,
        activation: Activation = "relu",
        sparse: bool = False,
    ):
        """Of a model that is a scVI with other parts, these parts; None for scVI's own.

        decoder: gives what the heads read, of a state and the codes of covariates. head: makes one that gives logits of
        each gene, of shares or of dropout; the two come together. counts: makes the distribution of counts of cells,
        as if measured in a batch, of scVI's.
        sparse: of the encoder's first layer, see `CovariateLinear`.
        """
        super().__init__()
        self.activation: Activation = activation
        self.sparse = sparse
        self.reference, self.config, self.counts = reference, config, counts
        self.learns_library = not (config.use_observed_lib_size or reference.size_factor)
        self.embeds_batch = config.batch_representation == "embedding"
        n_extra = reference.n_continuous + (EMBEDDING if self.embeds_batch else 0)
        if self.embeds_batch:
            self.batch_embedding = nn.Embedding(reference.n_batches, EMBEDDING)
        n_in = reference.n_genes + (n_extra if config.encode_covariates else 0)
        self.encoder = GaussianEncoder(self._mlp("encoder", n_in, config.n_layers), config.n_hidden, config.n_latent)
        if self.learns_library:
            self.library_encoder = GaussianEncoder(self._mlp("encoder", n_in, 1), config.n_hidden, 1)
            for name in ("library_log_mean", "library_log_variance"):
                self.register_buffer(name, torch.tensor(reference.arrays[name]).reshape(-1))
        self.decoder = self._mlp("decoder", config.n_latent + n_extra, config.n_layers)
        self._add_heads(lambda: nn.Linear(config.n_hidden, reference.n_genes))
        if config.gene_likelihood != "poisson":
            self._add_dispersion()
        if decoder is not None and head is not None:  # after all random draws of scVI, as in 0.1.0
            self.decoder = decoder
            self._add_heads(head)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        terms = {name: values.mean() for name, values in self.cell_terms(cells).items()}
        total = terms["reconstruction"] + step.kl_weight * terms["kl"]
        return Loss(total + terms["kl_library"] if self.learns_library else total, terms, len(cells))

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        """The terms of each cell's negative evidence lower bound, at a draw of its state."""
        mean, variance = self.posterior(cells)
        z, kl = self.transform_latent(rsample(mean, variance)), kl_to_normal(mean, variance)
        log_library, kl_library = self.sample_library(cells)
        return {"reconstruction": -self.log_likelihood(z, cells, log_library), "kl": kl, **kl_library}

    def embed(self, cells: CellBatch) -> State:
        """Posterior mean of z. For "ln" the mean over fixed draws; those of scvi-tools differ from call to call."""
        mean, variance = self.posterior(cells)
        return mean if self.config.latent_distribution == "normal" else softmax_mean(mean, variance)

    def posterior(self, cells: CellBatch) -> tuple[State, State]:
        """Mean and variance of q(z | x), before the softmax of "ln"."""
        return self.encoder(*self._encoder_input(cells))

    def library_posterior(self, cells: CellBatch) -> tuple[CellValue, CellValue]:
        """Mean and variance of q(log l | x), where the library size is learned."""
        return self.library_encoder(*self._encoder_input(cells))

    def library_prior(self, cells: CellBatch) -> tuple[CellValue, CellValue]:
        """Mean and variance of p(log l) in the cell's batch, where the library size is learned."""
        return self.library_log_mean[cells.batch, None], self.library_log_variance[cells.batch, None]

    def log_library(self, cells: CellBatch) -> CellValue:
        """log l: of the size factor, the posterior mean, or the observed total (-inf for an empty cell)."""
        if self.reference.size_factor:
            return cells.covariates.size_factor.log()[:, None]  # type: ignore[union-attr]
        if self.learns_library:
            return self.library_posterior(cells)[0]
        return cells.x.sum().log()[:, None]

    def log_likelihood(
        self, z: State, cells: CellBatch, log_library: CellValue, hidden: Float[Tensor, "cell hidden"] | None = None
    ) -> Float[Tensor, " cell"]:
        """log p(x | z, l), summed over genes. hidden: units of the decoder's last layer, where they are known."""
        hidden = self._hidden(z, cells, cells.batch) if hidden is None else hidden
        likelihood = self.config.gene_likelihood
        if likelihood == "normal" or self.counts is not None:
            return self._counts(hidden, cells, cells.batch, log_library).log_prob(cells.x.dense()).sum(-1)
        inputs = (cells.x, head(self.share, hidden), log_library)
        if likelihood == "poisson":
            return sparse_likelihoods.poisson(*inputs, self._link)
        log_dispersion = self._log_dispersion(hidden, cells, cells.batch)
        if likelihood == "nb":
            return sparse_likelihoods.negative_binomial(*inputs, log_dispersion, self._link)
        dropout = head(self.dropout_logits, hidden)
        return sparse_likelihoods.zero_inflated_negative_binomial(*inputs, log_dispersion, dropout, self._link)

    def normalized_expression(
        self,
        z: State,
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell gene"]:
        """Expected share of each gene, of cells in the states z; `scale` of `decode`."""
        hidden = self._hidden(z, cells, cells.batch if batch is None else batch)
        return self._linked(self.share(hidden) if out is None else write_logits(out, self.share, hidden), out)

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> dict[str, Distribution]:
        """Distribution of the counts of cells in the states z, as if measured in `batch` and with `log_library`."""
        batch = cells.batch if batch is None else batch
        log_library = self.log_library(cells) if log_library is None else log_library
        return {"rna": self._counts(self._hidden(z, cells, batch), cells, batch, log_library)}

    def genes(self) -> Float[Tensor, "gene hidden"]:
        """A vector for each gene: its weights in the last layer, which gives the logit of its share."""
        return self.share.weight  # type: ignore[return-value]

    def _mlp(self, side: Literal["encoder", "decoder"], n_in: int, n_layers: int) -> MLP:
        c, r = self.config, self.reference
        levels = (*(() if self.embeds_batch else (r.n_batches,)), *r.n_categories)
        return MLP(
            n_in,
            c.n_hidden,
            n_layers,
            levels=levels if side == "decoder" or c.encode_covariates else (),
            inject=c.deeply_inject_covariates,
            dropout=c.dropout_rate if side == "encoder" else 0.0,  # the decoder has none
            batch_norm=c.use_batch_norm in (side, "both"),
            layer_norm=c.use_layer_norm in (side, "both"),
            activation=self.activation,
            sparse=self.sparse and side == "encoder",
        )

    def _add_heads(self, head: Callable[[], nn.Module]) -> None:
        self.share = head()
        if self.config.gene_likelihood == "zinb":
            self.dropout_logits = head()

    def _add_dispersion(self) -> None:
        kind, n_genes = self.config.dispersion, self.reference.n_genes
        if kind == "gene-label" and self.reference.n_labels < 1:
            raise OptionError('dispersion="gene-label" needs labels', "pass labels_key=")
        if kind == "gene-cell":
            self.log_dispersion_of_cell = nn.Linear(self.config.n_hidden, n_genes)
        else:
            rows = {"gene": (), "gene-batch": (self.reference.n_batches,), "gene-label": (self.reference.n_labels,)}
            self.log_dispersion = nn.Parameter(torch.randn(*rows[kind], n_genes))

    def _encoder_input(self, cells: CellBatch) -> tuple[Float[Tensor, "cell in"] | SparseRows, Codes]:
        x = replace(cells.x, data=cells.x.data.log1p()) if self.config.log_variational else cells.x
        if not self.config.encode_covariates:
            return x, ()
        return self.joined(x.dense(), cells, cells.batch), self.codes(cells, cells.batch)

    def _hidden(self, z: State, cells: CellBatch, batch: CellCode) -> Float[Tensor, "cell hidden"]:
        return self.decoder(self.joined(z, cells, batch), self.codes(cells, batch))

    def joined(self, x: Float[Tensor, "cell in"], cells: CellBatch, batch: CellCode) -> Tensor:
        """x beside the continuous covariates and the batch's vector."""
        parts = [x] if cells.covariates.continuous is None else [x, cells.covariates.continuous]
        if self.embeds_batch:
            parts.append(self.batch_embedding(batch))
        return torch.cat(parts, -1) if len(parts) > 1 else x

    def codes(self, cells: CellBatch, batch: CellCode) -> Codes:
        """Of the categories that the networks see."""
        extra = cells.covariates.categorical
        return [*([] if self.embeds_batch else [batch]), *([] if extra is None else extra.unbind(1))]

    def transform_latent(self, z: State) -> State:
        """The state of a cell, of a draw from q(z | x): its softmax for "ln"."""
        return z.softmax(-1) if self.config.latent_distribution == "ln" else z

    def sample_library(self, cells: CellBatch) -> tuple[CellValue, dict[str, Tensor]]:
        """log l for training, and where it is learned, its term of each cell's loss."""
        if not self.learns_library:
            return self.log_library(cells), {}
        mean, variance = self.library_posterior(cells)
        return rsample(mean, variance), {"kl_library": kl_to_normal(mean, variance, self.library_prior(cells))}

    def _log_dispersion(
        self, hidden: Float[Tensor, "cell hidden"], cells: CellBatch, batch: CellCode
    ) -> Float[Tensor, "*#cell gene"]:
        kind = self.config.dispersion
        if kind == "gene":
            return self.log_dispersion
        if kind == "gene-batch":
            return F.embedding(batch, self.log_dispersion)
        if kind == "gene-cell":
            return self.log_dispersion_of_cell(hidden)
        table = torch.cat([self.log_dispersion, self.log_dispersion.mean(0, keepdim=True)])
        label = torch.full_like(batch, -1) if cells.label is None else cells.label
        return F.embedding(torch.where(label < 0, self.reference.n_labels, label), table)

    def _counts(
        self, hidden: Float[Tensor, "cell hidden"], cells: CellBatch, batch: CellCode, log_library: CellValue
    ) -> Distribution:
        likelihood, scale = self.config.gene_likelihood, self._linked(self.share(hidden))
        parameters = [scale, log_library.exp() * scale]
        if likelihood != "poisson":
            parameters.append(self._log_dispersion(hidden, cells, batch).exp())
        if likelihood == "zinb":
            parameters.append(self.dropout_logits(hidden))
        found = COUNTS[likelihood](*parameters)
        return found if self.counts is None else self.counts(found, cells, batch)

    def _linked(self, logits: Float[Tensor, "cell gene"], out: Tensor | None = None) -> Float[Tensor, "cell gene"]:
        if self._link == "softmax":
            return torch.softmax(logits, -1, out=out)
        return F.softplus(logits) if out is None else out.copy_(F.softplus(logits))

    @property
    def _link(self) -> Link:
        return "softplus" if self.reference.size_factor else "softmax"
