"""LDVAE: an scVI with a linear decoder, so that each latent dimension has a loading for each gene (Svensson 2020).

    z     ~ Normal(0, I)                                     state of the cell
    share = softmax(norm(loadings @ z + effect of covariates))   norm: batch normalization of each gene
    x     ~ NB(l * share, r)                                 counts; the rest as in scVI

Source: Svensson, Gayoso, Yosef and Pachter 2020, Bioinformatics 36:3418. The encoder sees no covariates, and the
library size is learned unless an option says otherwise, as in scvi-tools.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import asdict, dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.models.rna import scvi
from scduet.models.rna.scvi import SCVI
from scduet.nn.layers import Codes, CovariateLinear
from scduet.shapes import State


@dataclass(frozen=True)
class Config:
    n_hidden: int = 128
    """Width of the encoder's hidden layers."""
    n_latent: int = 10
    """Dimensions of the latent space."""
    n_layers: int = 1
    """Hidden layers of the encoder."""
    dropout_rate: float = 0.1
    """Share of hidden units that the encoder drops in training."""
    dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene"
    """What the dispersion of a gene may depend on."""
    gene_likelihood: Literal["nb", "zinb", "poisson"] = "nb"
    """Distribution of the counts."""
    latent_distribution: Literal["normal", "ln"] = "normal"
    """Prior of the latent space: normal, or logistic-normal."""
    log_variational: bool = True
    """Give the encoder log(1 + counts) rather than counts."""
    use_observed_lib_size: bool = False
    """Take a cell's library size as its total, rather than learn it."""
    use_batch_norm: bool = True
    """Normalize each gene's factor sum over the minibatch before the softmax."""
    bias: bool = False
    """Give each gene an intercept."""

    def __post_init__(self) -> None:
        scvi_config(self)  # the same checks


class LDVAE(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    measure = staticmethod(scvi.library_moments)

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        self.scvi = SCVI(reference, scvi_config(config), decoder=PassThrough(), head=self._factors)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        return self.scvi(cells, step)

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        return self.scvi.cell_terms(cells)

    def embed(self, cells: CellBatch) -> State:
        return self.scvi.embed(cells)

    @property
    def vae(self) -> SCVI:
        return self.scvi

    def loadings(self) -> Float[Tensor, "gene latent"]:
        """Change of a gene's logit of its share, by each latent dimension, batch normalization included."""
        return self.scvi.share.loadings().detach()[:, : self.config.n_latent]  # type: ignore[operator]

    def genes(self) -> Float[Tensor, "gene latent"]:
        """A vector for each gene: its loadings."""
        return self.loadings()

    def _factors(self) -> Factors:
        r, c = self.reference, self.config
        levels = (r.n_batches, *r.n_categories)
        return Factors(c.n_latent + r.n_continuous, r.n_genes, levels, c.use_batch_norm, c.bias)


class Factors(nn.Module):
    """A linear map from the state of a cell, with a shift for each covariate, normalized over cells."""

    def __init__(self, n_latent: int, n_genes: int, levels: tuple[int, ...], batch_norm: bool, bias: bool):
        super().__init__()
        self.linear = nn.ModuleList([CovariateLinear(n_latent, n_genes, levels, bias)])
        self.norm = nn.ModuleList([nn.BatchNorm1d(n_genes, momentum=0.01, eps=0.001)] if batch_norm else [])

    def forward(self, state: tuple[State, Codes]) -> Float[Tensor, "cell gene"]:
        found = self.linear[0](*state)
        return self.norm[0](found) if self.norm else found

    def loadings(self) -> Float[Tensor, "gene latent"]:
        weight = self.linear[0].weight
        if not self.norm:
            return weight  # type: ignore[return-value]
        norm = self.norm[0]
        return (norm.weight / torch.sqrt(norm.running_var + norm.eps))[:, None] * weight  # type: ignore[operator]


class PassThrough(nn.Module):
    """Hands the state and the codes of the covariates on as they are."""

    def forward(self, z: Tensor, codes: Codes = ()) -> tuple[Tensor, Codes]:
        return z, codes


def scvi_config(config: Config) -> scvi.Config:
    """The options of the scVI inside."""
    given = {name: value for name, value in asdict(config).items() if name not in ("use_batch_norm", "bias")}
    return scvi.Config(**given)
