"""AutoZI: which genes are zero-inflated? An scVI in which each gene has its own answer (Clivio et al. 2019).

    d_g   ~ Beta(alpha, beta)                   probability that gene g is not zero-inflated
    z, r, share, dropout as in scVI
    x     ~ d_g NB(l * share, r) + (1 - d_g) ZINB(l * share, r, dropout)

    q(d_g) = Beta(alpha_g, beta_g)

Training minimizes the loss of scVI with that mixture as likelihood, plus KL(q(d) || p(d)) shared among the cells.
Source: Clivio, Lopez, Regier, Gayoso, Jordan and Yosef 2019, bioRxiv 10.1101/794875. Dropout has a smallest
probability, `minimal_dropout`, below which a ZINB could not be told from a NB.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass, fields, replace
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Beta, Gamma, kl_divergence
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.errors import OptionError
from scduet.models.rna import scvi
from scduet.models.rna.scvi import SCVI
from scduet.nn.distributions import ZeroInflatedNegativeBinomial
from scduet.nn.layers import kl_to_normal, rsample
from scduet.nn.likelihoods import log_negative_binomial
from scduet.shapes import CellCode, State

EPS = 1e-8


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
    """What the dispersion of a gene may depend on."""
    latent_distribution: Literal["normal", "ln"] = "normal"
    """Prior of the latent space: normal, or logistic-normal."""
    use_observed_lib_size: bool = True
    """Take a cell's library size as its total, rather than learn it."""
    alpha_prior: float = 0.5
    """First parameter of the Beta prior, between 0 and 1."""
    beta_prior: float = 0.5
    """Second parameter of the Beta prior, between 0 and 1."""
    minimal_dropout: float = 0.01
    """Smallest probability of a dropout where a gene is zero-inflated."""
    zero_inflation: Literal["gene", "gene-batch", "gene-label"] = "gene"
    """What a gene's zero inflation may depend on; "gene-label" needs every cell labeled."""

    def __post_init__(self) -> None:
        scvi_config(self)  # the same checks
        for name in ("alpha_prior", "beta_prior"):
            if not 0 < getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)!r}", f"{name} is between 0 and 1")
        if not 0 <= self.minimal_dropout < 1:
            raise OptionError(f"minimal_dropout={self.minimal_dropout!r}", "it is from 0 up to, not including, 1")


@dataclass(frozen=True)
class Mixture(ZeroInflatedNegativeBinomial):
    """A negative binomial with probability `plain`, else a zero-inflated one."""

    plain: Float[Tensor, "*#cell gene"]

    @property
    def mean(self) -> Float[Tensor, "cell gene"]:
        return self.rate * (1 - (1 - self.plain) * self.dropout_logits.sigmoid())

    def sample(self) -> Float[Tensor, "cell gene"]:
        inflated = replace(self, dropout_logits=self.dropout_logits.masked_fill(self._drawn_plain(), -torch.inf))
        return super(Mixture, inflated).sample()

    def log_prob(self, x: Float[Tensor, "cell gene"]) -> Float[Tensor, "cell gene"]:
        nb = (self.plain + EPS).log() + log_negative_binomial(x, self.rate, self.dispersion)
        return torch.logaddexp(nb, (1 - self.plain + EPS).log() + super().log_prob(x))

    def _drawn_plain(self) -> Bool[Tensor, "cell gene"]:
        return torch.rand_like(self.rate) < self.plain


class AutoZI(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    measure = staticmethod(scvi.library_moments)

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        self.scvi = SCVI(reference, scvi_config(config), counts=self._mixture)
        groups = {"gene": (), "gene-batch": (reference.n_batches,), "gene-label": (reference.n_labels,)}
        shape = (*groups[config.zero_inflation], reference.n_genes)
        if 0 in shape:
            raise OptionError('zero_inflation="gene-label" needs labels', "pass labels_key=")
        self.alpha_logit, self.beta_logit = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(shape))
        for name in ("alpha_prior", "beta_prior"):
            self.register_buffer(f"{name}_logit", torch.tensor([getattr(config, name)]).logit())

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        terms = {name: values.mean() for name, values in self.cell_terms(cells).items()}
        kl_genes = kl_divergence(self.posterior_of_genes(), self.prior_of_genes()).sum()
        terms["kl_genes"] = kl_genes / max(self.reference.n_cells, 1)
        total = terms["reconstruction"] + step.kl_weight * terms["kl"] + terms["kl_genes"]
        return Loss(total + terms["kl_library"] if self.scvi.learns_library else total, terms, len(cells))

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        """The terms of each cell's negative evidence lower bound, but for that of the genes, at a draw of its state."""
        mean, variance = self.scvi.posterior(cells)
        log_library, kl_library = self.scvi.sample_library(cells)
        z, kl = self.scvi.transform_latent(rsample(mean, variance)), kl_to_normal(mean, variance)
        return {"reconstruction": -self.scvi.log_likelihood(z, cells, log_library), "kl": kl, **kl_library}

    def posterior_of_genes(self) -> Beta:
        """q(d): by gene, or (batch or label, gene)."""
        return _beta(self.alpha_logit, self.beta_logit)

    def prior_of_genes(self) -> Beta:
        return _beta(self.alpha_prior_logit, self.beta_prior_logit)  # type: ignore[arg-type]

    def embed(self, cells: CellBatch) -> State:
        return self.scvi.embed(cells)

    @property
    def vae(self) -> SCVI:
        return self.scvi

    def _mixture(self, p: ZeroInflatedNegativeBinomial, cells: CellBatch, batch: CellCode) -> Mixture:
        """With a draw of d, and with dropout raised to `minimal_dropout`."""
        least, dropout_logits = self.config.minimal_dropout, p.dropout_logits
        if least:
            raised = least + (1 - least) * dropout_logits.sigmoid()
            dropout_logits = (raised / (1 - raised + EPS)).log()
        plain = self._of_cell(_drawn(self.posterior_of_genes()), cells, batch)
        return Mixture(p.scale, p.rate, p.dispersion, dropout_logits, plain)

    def _of_cell(self, plain: Tensor, cells: CellBatch, batch: CellCode) -> Float[Tensor, "*#cell gene"]:
        """d of each cell's batch or label."""
        kind = self.config.zero_inflation
        if kind == "gene":
            return plain
        if kind == "gene-batch":
            return F.embedding(batch, plain)
        label = torch.full_like(cells.batch, -1) if cells.label is None else cells.label
        table = torch.cat([plain, plain.mean(0, keepdim=True)])  # an unlabeled cell gets the labels' mean
        return F.embedding(torch.where(label < 0, len(plain), label), table)


def scvi_config(config: Config) -> scvi.Config:
    """The options of the scVI inside."""
    shared = {f.name for f in fields(scvi.Config)} & {f.name for f in fields(Config)}
    return scvi.Config(gene_likelihood="zinb", **{name: getattr(config, name) for name in shared})


def _beta(alpha_logit: Tensor, beta_logit: Tensor) -> Beta:
    """Not checked, which would make a GPU wait at every step."""
    return Beta(alpha_logit.sigmoid(), beta_logit.sigmoid(), validate_args=False)


def _drawn(beta: Beta) -> Tensor:
    """A draw that gradients pass through, kept off 0 and 1; by Gamma draws in logarithms, which do not underflow.

    Made gene by gene, all groups of a gene together: the order of draws of scvi-tools.
    """
    sizes = (beta.concentration1.t().contiguous(), beta.concentration0.t().contiguous())
    first, second = ((Gamma(size, 1.0, validate_args=False).rsample() + 1e-30).log() for size in sizes)
    return (1e-7 + (1 - 2e-7) * torch.sigmoid(first - second)).t()
