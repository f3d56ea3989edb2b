"""What a module may be able to do beside training and embedding; analyses ask for these."""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Beta

from scduet.contract import CellBatch, TokenBatch


@runtime_checkable
class Classifies(Protocol):
    """A module that tells cell types."""

    def classify(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """Logits."""
        ...


@runtime_checkable
class KnowsGenes(Protocol):
    """A module that has learned a vector for each gene."""

    def genes(self) -> Float[Tensor, "gene width"]:
        """The vectors, in the order of the genes (of a transformer: of the tokens)."""
        ...


@runtime_checkable
class ReadsTokens(Protocol):
    """A transformer: it sees a cell as tokens of its genes, and gives each token a state."""

    def states(self, tokens: TokenBatch, options: Any = ...) -> Float[Tensor, "token width"]:
        """The state of every token, cells end to end."""
        ...

    def tokenizer(self, match: Any, cell: Any, options: Any) -> Any:
        """What makes tokens of the counts of genes that were matched."""
        ...


@runtime_checkable
class HasLoadings(Protocol):
    """A module with a linear decoder."""

    def loadings(self) -> Float[Tensor, "gene latent"]:
        """Change of the logit of a gene's share by each latent dimension."""
        ...


@runtime_checkable
class HasZeroInflation(Protocol):
    """A module with a posterior of which genes are zero-inflated."""

    def posterior_of_genes(self) -> Beta:
        """Of the probability that a gene is not zero-inflated: by gene, or (batch or label, gene)."""
        ...


@runtime_checkable
class Bounds(Protocol):
    """A module that bounds the likelihood of each cell."""

    def cell_terms(self, cells: CellBatch) -> Mapping[str, Float[Tensor, " cell"]]:
        """The terms of the negative evidence lower bound of each cell, at a draw of its state."""
        ...


class VAE(Protocol):
    """A variational autoencoder of counts: from counts to the state of a cell, and from a state to counts."""

    learns_library: bool

    def posterior(self, cells: CellBatch) -> tuple[Float[Tensor, "cell latent"], Float[Tensor, "cell latent"]]:
        """Mean and variance of q(z | x)."""
        ...

    def state(self, z: Float[Tensor, "cell latent"]) -> Float[Tensor, "cell latent"]:
        """What the decoder wants, of a draw from q(z | x)."""
        ...

    def log_library(self, cells: CellBatch) -> Float[Tensor, "cell 1"]:
        """log of the library size: observed, or the posterior mean."""
        ...

    def drawn_library(self, cells: CellBatch) -> tuple[Float[Tensor, "cell 1"], dict[str, Tensor]]:
        """log of the library size for training, and where it is learned, its term of each cell's loss."""
        ...

    def library_posterior(self, cells: CellBatch) -> tuple[Float[Tensor, "cell 1"], Float[Tensor, "cell 1"]]:
        """Mean and variance of its logarithm, where it is learned; `library_prior` likewise."""
        ...

    def library_prior(self, cells: CellBatch) -> tuple[Float[Tensor, "cell 1"], Float[Tensor, "cell 1"]]: ...

    def log_likelihood(
        self, z: Float[Tensor, "cell latent"], cells: CellBatch, log_library: Float[Tensor, "cell 1"]
    ) -> Float[Tensor, " cell"]:
        """log p(x | z, l), summed over genes."""
        ...

    def shares(
        self,
        z: Float[Tensor, "cell latent"],
        cells: CellBatch,
        batch: Int[Tensor, " cell"] | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell gene"]:
        """Expected share of each gene, as if measured in `batch`; written to `out`, where no gradient is asked for."""
        ...

    def decode(
        self,
        z: Float[Tensor, "cell latent"],
        cells: CellBatch,
        batch: Int[Tensor, " cell"] | None = None,
        log_library: Float[Tensor, "cell 1"] | None = None,
    ) -> Any:
        """Parameters of the counts' distribution: `scale`, `rate`, `dispersion`, `dropout_logits`."""
        ...


@runtime_checkable
class Generates(Protocol):
    """A module that is a VAE of counts, or holds one."""

    @property
    def vae(self) -> VAE: ...


class TrainedModel(Protocol):
    """What training and `load` give: a module, and what turns a user's cells into its minibatches."""

    needs_mapping: bool  # must it be adapted (`map_query`) to batches that it has not seen?

    @property
    def name(self) -> str: ...
    @property
    def module(self) -> Any: ...
    @property
    def features(self) -> list[str]:
        """The names of the genes, or other features, that it reads."""
        ...

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: mean loss and its terms."""
        ...

    @property
    def key(self) -> str:
        """Where its embedding goes in obsm."""
        ...

    @property
    def columns(self) -> Mapping[str, str]:
        """The columns of obs with batches and labels that it was given, as "batch_key" and "labels_key"."""
        ...

    @property
    def description(self) -> str:
        """What it is and what it learned, in a line."""
        ...

    def embed(self, adata, *, accelerator: Any = ..., callback: Any = None) -> Float[NDArray[Any], "cell latent"]:
        """One vector for each cell of `adata`."""
        ...

    def predict(self, adata) -> pd.DataFrame:
        """Probability of each cell type (cell x type). Raises OptionError for a model that tells none."""
        ...

    def gene_rows(self, adata) -> Int[NDArray[Any], " gene"]:
        """Row of each gene of `adata` in the module's table of genes, -1 for an unknown one."""
        ...

    def save(self, folder: Any, overwrite: bool = False) -> None:
        """Write the model, so that `load` reads it."""
        ...
