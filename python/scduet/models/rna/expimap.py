"""expiMap: an scVI whose latent dimensions are gene sets (Lotfollahi et al. 2023, Nature Cell Biology 25:337).

    z     ~ Normal(0, I)                          a score of each gene set, and of terms without a set
    share = softmax(W z + intercept + effect of covariates)    W is zero for genes outside the set ("hard" mask), or
                                                  shrunk to zero there ("soft")
    x     ~ NB(l * share, r)                      counts; l and the encoder as in scVI

Training minimizes -log p(x | z) + alpha_kl * kl_weight * KL(q(z|x) || p(z)), and with free terms
hsic * HSIC(free terms, sets), which keeps them from repeating the sets. After each step of the optimizer proximal steps
shrink loadings: those of a set as a group, and single ones outside a soft mask. Loadings are at least 0 unless an
option says otherwise: a high score then always means more of the set's genes.

Unlike in scArches, genes have an intercept also where there is one batch, and the learning rate decays. A hard mask
with free terms is VEGA (Seninge et al. 2021, Nature Communications 12:5684).
"""

from __future__ import annotations

from scduet._torch import torch

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from scduet.contract import CellBatch, Expects, Input, Loss, Reference, Step
from scduet.data import schema
from scduet.data.locate import Place
from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.models.rna import scvi
from scduet.models.rna.ldvae import PassThrough
from scduet.models.rna.scvi import SCVI
from scduet.nn.layers import Codes, CovariateLinear, kl_to_normal, rsample
from scduet.shapes import State

N_STEPS, BATCH = 800, 128
FEWEST = 3  # genes of a set, by default
EPSILON = 1e-12  # below any norm of loadings


@dataclass(frozen=True)
class Fields(schema.Fields):
    gene_sets: Place | None = None
    """Where the gene sets are: the path of a .gmt file, a key of varm with a column for each set, or a DataFrame."""


@dataclass(frozen=True)
class Config:
    n_hidden: int = 256
    """Width of the encoder's hidden layers."""
    n_layers: int = 2
    """Hidden layers of the encoder."""
    dropout_rate: float = 0.05
    """Share of hidden units that the encoder drops in training."""
    min_genes: int = 3
    """Genes that a set must have among those used; smaller sets are dropped."""
    loadings: Literal["nonnegative", "free"] = "nonnegative"
    """Whether loadings are held at 0 or above; free ones are the published choice, with a sign that means nothing."""
    mask: Literal["hard", "soft"] = "hard"
    """Whether genes outside a set have no loading, or one that is shrunk to zero."""
    soft_l1: float = 0.5
    """Of the soft mask: how fast loadings outside the sets shrink, in learning rates a step."""
    group_lasso: float = 0.0
    """How fast the loadings of a set shrink as a group, in learning rates a step; switches sets off. Published: 0.7."""
    n_free: int = 0
    """Terms without a gene set, for what the sets do not explain."""
    hsic: float = 1.0
    """Weight of the dependence (HSIC) between the free terms and the sets."""
    alpha_kl: float = 0.5
    """Weight of the KL term, which the recipe's warm-up multiplies."""
    encode_covariates: bool = True
    """Show the batch and the covariates to the encoder too."""
    dispersion: Literal["gene", "gene-batch"] = "gene"
    """What the dispersion of a gene may depend on."""

    def __post_init__(self) -> None:
        for name in ("soft_l1", "group_lasso", "n_free", "hsic", "alpha_kl"):
            if not getattr(self, name) >= 0:
                raise OptionError(f"{name}={getattr(self, name)!r}", "it cannot be below 0")
        if self.min_genes < 1:
            raise OptionError(f"min_genes={self.min_genes!r}", "it is a whole number from 1 up")
        scvi_config(self, 1)  # its checks


def measure_sets(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """log of the mean share of each gene. Warns of sets and genes that play no part."""
    mask = reference.arrays["gene_sets"]
    small, idle = mask.sum(0) < FEWEST, mask.max(1, initial=0) == 0
    if small.any():
        dropped = f"{small.sum()} of {len(small)} gene sets have fewer than {FEWEST} of the genes"
        warnings.warn(f"{dropped}: they are dropped, unless min_genes is lower", ScduetWarning, 4)
    if idle.mean() > 0.5:
        message = f"{idle.sum()} of {len(idle)} genes are in no gene set: what they do is not explained"
        warnings.warn(f"{message}; pass genes= that are in the sets", ScduetWarning, 4)
    total = np.zeros(reference.n_genes)
    for _, piece in cells.counts.pieces():
        total += np.asarray(piece.sum(0), np.float64).ravel()
    return {"gene_log_share": np.log((total + 0.5) / (total + 0.5).sum()).astype(np.float32)}


def brief(n_cells: int, max_epochs: int | None) -> dict[str, float]:
    """About 800 minibatches: in longer training one of several overlapping sets takes the genes of the others."""
    epochs = max_epochs or min(max(math.ceil(N_STEPS * BATCH / n_cells), 10), 200)
    return {"lr": 2e-3, "max_epochs": epochs, "kl_warmup_epochs": max(1, epochs // 4)}


class ExpiMap(nn.Module):
    Config, Fields = Config, Fields
    players = ("model",)
    expects: Expects = "counts"
    inputs = {"gene_sets": Input("gene_sets", axis="feature", values="binary")}
    measure = staticmethod(measure_sets)
    modalities = ("rna",)
    recipes = {"auto": brief}
    rows_of_terms = ("scvi.encoder.mean.", "scvi.encoder.log_variance.", "scvi.share.weight")  # see `map_query`

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        mask = reference.arrays["gene_sets"]
        self.kept: Int[np.ndarray, " term"] = np.flatnonzero(mask.sum(0) >= config.min_genes)  # columns of the sets
        if not len(self.kept):
            message = f"no gene set has {config.min_genes} of the genes or more"
            raise DataError(message, "are genes named alike there? else use more genes, or set min_genes")
        self.n_sets, self.n_latent = len(self.kept), len(self.kept) + config.n_free
        self.mask = mask[:, self.kept].T
        options = scvi_config(config, self.n_latent)
        self.scvi = SCVI(reference, options, decoder=PassThrough(), head=self._factors)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        terms, z = self._terms(cells)
        means = {name: values.mean() for name, values in terms.items()}
        total = means["reconstruction"] + self.config.alpha_kl * step.kl_weight * means["kl"]
        if self.config.n_free:
            means["hsic"] = hsic(z[:, self.n_sets :], z[:, : self.n_sets])
            total = total + self.config.hsic * means["hsic"]
        return Loss(total, means, len(cells))

    def after_step(self, step: Step) -> None:
        """Proximal steps at the learning rate of the step."""
        weight = self.factors.weight
        sets, config = weight[: self.n_sets], self.config
        if config.loadings == "nonnegative":
            sets.clamp_(min=0)
        if config.mask == "soft":
            outside = 1 - self.factors.mask[: self.n_sets]
            sets.copy_(shrunk(sets, config.soft_l1 * step.lr * outside))
        if config.group_lasso:
            sets.copy_(shrunk_as_groups(sets, config.group_lasso * step.lr))

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        """The terms of each cell's negative evidence lower bound, at a draw of its state."""
        return self._terms(cells)[0]

    def embed(self, cells: CellBatch) -> State:
        """Posterior means of the terms; their signs are those of `program_scores` if loadings are nonnegative."""
        return self.scvi.embed(cells)

    @property
    def vae(self) -> SCVI:
        return self.scvi

    @property
    def factors(self) -> MaskedFactors:
        return self.scvi.share  # type: ignore[return-value]

    def loadings(self) -> Float[Tensor, "gene latent"]:
        """Change of a gene's logit of its share, by each term."""
        return self.factors.loadings().detach().t()

    def genes(self) -> Float[Tensor, "gene latent"]:
        """A vector for each gene: its loadings."""
        return self.loadings()

    def programs(self) -> tuple[Int[np.ndarray, " term"], int]:
        """Columns of the gene sets that have a latent dimension, in their order; and how many free terms follow."""
        return self.kept, self.config.n_free

    def _terms(self, cells: CellBatch) -> tuple[dict[str, Float[Tensor, " cell"]], State]:
        mean, variance = self.scvi.posterior(cells)
        z = rsample(mean, variance)
        reconstruction = -self.scvi.log_likelihood(z, cells, self.scvi.log_library(cells))
        return {"reconstruction": reconstruction, "kl": kl_to_normal(mean, variance)}, z

    def _factors(self) -> MaskedFactors:
        r, c = self.reference, self.config
        of_sets = self.mask if c.mask == "hard" else np.ones_like(self.mask)
        start = r.arrays["gene_log_share"]
        made = MaskedFactors(of_sets, self.mask, c.n_free, start, (r.n_batches, *r.n_categories), r.n_continuous)
        if c.loadings == "nonnegative":
            made.weight.data[: self.n_sets].abs_()
        return made


class MaskedFactors(nn.Module):
    """A linear map from terms to genes with zeros where a term has no loading, an intercept, and covariates."""

    allowed: Float[Tensor, "term gene"]
    mask: Float[Tensor, "term gene"]

    def __init__(
        self,
        allowed: Float[np.ndarray, "set gene"],
        mask: Float[np.ndarray, "set gene"],
        n_free: int,
        intercept: Float[np.ndarray, " gene"],
        levels: tuple[int, ...],
        n_continuous: int,
    ):
        super().__init__()
        n_sets, n_genes = mask.shape
        bound = 1 / math.sqrt(n_sets + n_free)
        for name, of_sets in (("allowed", allowed), ("mask", mask)):
            whole = np.concatenate([of_sets, np.ones((n_free, n_genes), np.float32)])
            self.register_buffer(name, torch.tensor(whole), persistent=False)
        self.weight = nn.Parameter(torch.empty(n_sets + n_free, n_genes).uniform_(-bound, bound) * self.allowed)
        self.intercept = nn.Parameter(torch.tensor(intercept))
        self.n_terms = len(self.weight)
        covariates = n_continuous > 0 or any(n > 1 for n in levels)
        self.covariates = CovariateLinear(n_continuous, n_genes, levels, bias=False) if covariates else None
        if self.covariates is not None:
            for table in self.covariates.covariate.values():
                nn.init.zeros_(table)

    def forward(self, state: tuple[State, Codes]) -> Float[Tensor, "cell gene"]:
        z, codes = state  # continuous covariates are the last columns of z
        found = torch.addmm(self.intercept, z[:, : self.n_terms], self.loadings())
        return found if self.covariates is None else found + self.covariates(z[:, self.n_terms :], codes)

    def loadings(self) -> Float[Tensor, "term gene"]:
        return self.weight * self.allowed


def shrunk(weight: Tensor, by: Tensor | float) -> Tensor:
    """The proximal step of an L1 penalty: each weight nearer to zero by `by`, at most to it."""
    return weight.sign() * (weight.abs() - by).clamp(min=0)


def shrunk_as_groups(weight: Float[Tensor, "term gene"], by: float) -> Float[Tensor, "term gene"]:
    """The proximal step of the group lasso: the norm of each row shorter by `by`, at most by all of it."""
    return weight * (1 - by / weight.norm(dim=1, keepdim=True).clamp(min=EPSILON)).clamp(min=0)


def hsic(x: Float[Tensor, "cell first"], y: Float[Tensor, "cell second"]) -> Float[Tensor, ""]:
    """Root of the Hilbert-Schmidt independence criterion of two sets of dimensions, as scArches estimates it.

    Gaussian kernels exp(-s d^2), s = 1 / (2 g^2), with g the mean length of a standard normal vector times sqrt(2).
    Source: Gretton et al. 2005, Algorithmic Learning Theory.
    """
    k, m = _kernel(x), _kernel(y)
    found = (k * m).mean() + k.mean() * m.mean() - 2 * (k.mean(1) * m.mean(1)).mean()
    return found.clamp(min=EPSILON).sqrt()


def _kernel(x: Float[Tensor, "cell dimension"]) -> Float[Tensor, "cell cell"]:
    d = x.shape[1]
    length = 2 * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    distance = (x[:, None] - x[None]).square().sum(-1)
    return torch.exp(-distance / (2 * length**2))


def scvi_config(config: Config, n_latent: int) -> scvi.Config:
    """The options of the scVI inside."""
    return scvi.Config(
        n_hidden=config.n_hidden,
        n_latent=n_latent,
        n_layers=config.n_layers,
        dropout_rate=config.dropout_rate,
        dispersion=config.dispersion,
        gene_likelihood="nb",
        encode_covariates=config.encode_covariates,
        deeply_inject_covariates=False,
        use_batch_norm="none",
        use_layer_norm="encoder",
    )
