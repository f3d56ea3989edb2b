"""What a module may be able to do beside training and embedding; analyses ask for these."""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Beta

from scduet.contract import CellBatch, TokenBatch


@runtime_checkable
class Classifier(Protocol):
    """A module that predicts cell types."""

    def classify(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """Logits."""
        ...


@runtime_checkable
class HasGeneEmbeddings(Protocol):
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
class HasELBO(Protocol):
    """A module that bounds the likelihood of each cell."""

    def cell_terms(self, cells: CellBatch) -> Mapping[str, Float[Tensor, " cell"]]:
        """The terms of the negative evidence lower bound of each cell, at a draw of its state.

        "reconstruction" is that of the main modality, "reconstruction_<modality>" those of others.
        """
        ...


@runtime_checkable
class HasLikelihood(Protocol):
    """A module that sums log-likelihoods faster than `decode` gives them."""

    def log_likelihood(
        self, z: Float[Tensor, "cell latent"], cells: CellBatch, log_library: Float[Tensor, "cell 1"]
    ) -> Float[Tensor, " cell"]:
        """log p(x | z, l), summed over the features of all modalities."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """A module with a Gaussian posterior of each cell's state."""

    def posterior(self, cells: CellBatch) -> tuple[Float[Tensor, "cell latent"], Float[Tensor, "cell latent"]]:
        """Mean and variance of q(z | x)."""
        ...

    def transform_latent(self, z: Float[Tensor, "cell latent"]) -> Float[Tensor, "cell latent"]:
        """What the decoder takes, of a draw from q(z | x): the draw itself, or e.g. its softmax."""
        ...


@runtime_checkable
class HasLibrary(Protocol):
    """A module whose means grow with the library size of the cell."""

    def log_library(self, cells: CellBatch) -> Float[Tensor, "cell 1"]:
        """log of the library size: observed, or the posterior mean."""
        ...


@runtime_checkable
class LearnsLibrary(Protocol):
    """A module that has a posterior of the library size, where `learns_library`."""

    learns_library: bool

    def library_posterior(self, cells: CellBatch) -> tuple[Float[Tensor, "cell 1"], Float[Tensor, "cell 1"]]:
        """Mean and variance of its logarithm."""
        ...

    def library_prior(self, cells: CellBatch) -> tuple[Float[Tensor, "cell 1"], Float[Tensor, "cell 1"]]:
        """The same before the cell was seen."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """A module that gives distributions of what is measured in cells of given states.

    `modalities`: first the main matrix, e.g. "rna"; any other is named as in the model's `inputs`.
    """

    @property
    def modalities(self) -> tuple[str, ...]: ...

    def decode(
        self,
        z: Float[Tensor, "cell latent"],
        cells: CellBatch,
        batch: Int[Tensor, " cell"] | None = None,
        log_library: Float[Tensor, "cell 1"] | None = None,
    ) -> Mapping[str, Any]:
        """A `nn.distributions.Distribution` of each modality, as if measured in `batch` and with `log_library`."""
        ...

    def normalized_expression(
        self,
        z: Float[Tensor, "cell latent"],
        cells: CellBatch,
        batch: Int[Tensor, " cell"] | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell feature"]:
        """Expected value per unit of library, as if measured in `batch`: shares of RNA, probabilities of peaks.

        modality: None for the first. out: where to write it, if no gradient is asked for.
        """
        ...


@runtime_checkable
class HasForeground(Protocol):
    """A module that tells what is there of proteins from their background."""

    def foreground_probability(
        self, z: Float[Tensor, "cell latent"], cells: CellBatch, batch: Int[Tensor, " cell"] | None = None
    ) -> Float[Tensor, "cell protein"]:
        """Probability that a protein is there beyond background, as if measured in `batch`."""
        ...


@runtime_checkable
class HasAccessibility(Protocol):
    """A module that decodes which peaks are open, apart from how well a cell and a peak are seen."""

    accessibility_unit: str  # "probability" that a peak is open, or "share" of the fragments of a cell

    def accessibility(
        self,
        z: Float[Tensor, "cell latent"],
        cells: CellBatch,
        batch: Int[Tensor, " cell"] | None = None,
        region_factors: bool = False,
    ) -> Float[Tensor, "cell peak"]:
        """Of each peak, as if measured in `batch`; on request with the factor of each peak."""
        ...

    def cell_factors(self, cells: CellBatch) -> Float[Tensor, "cell 1"]:
        """How much is seen of each cell: its depth, 0 to 1, or its number of fragments."""
        ...

    def region_factors(self) -> Float[Tensor, " peak"]:
        """How well each peak is seen, 0 to 1, or the logit that it adds to its share."""
        ...


@runtime_checkable
class HoldsVAE(Protocol):
    """A module that leaves what it does not do itself to the autoencoder inside it."""

    @property
    def vae(self) -> Any: ...


@runtime_checkable
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


Capability = TypeVar("Capability")


def part_with(module: Any, capability: type[Capability]) -> Capability | None:
    """The module, or else the autoencoder inside it, if it has this capability."""
    if isinstance(module, capability):
        return module
    inside = module.vae if isinstance(module, HoldsVAE) else None
    return inside if isinstance(inside, capability) else None
