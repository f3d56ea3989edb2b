"""Optional capabilities of modules, which analyses require."""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Beta

from scduet.contract import CellBatch, TokenBatch
from scduet.shapes import CellCode, CellValue, State


@runtime_checkable
class Classifier(Protocol):
    """A module that predicts cell types."""

    def classify(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """Logits."""
        ...


@runtime_checkable
class HasMemberships(Protocol):
    """A module that learns clusters of cells without labels."""

    def memberships(self, cells: CellBatch) -> Float[Tensor, "cell cluster"]:
        """Probability of each cluster."""
        ...


@runtime_checkable
class HasBinaryCodes(Protocol):
    """A module with binary units: cells with the same code are a cluster."""

    def binary_codes(self, cells: CellBatch) -> Bool[Tensor, "cell unit"]:
        """Which units each cell activates."""
        ...


@runtime_checkable
class Votes(Protocol):
    """A classifier on a graph of cells, beside which `annotate` sets a plain vote over the same edges."""

    def vote(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """Share of each type among labeled cells that the edges lead to."""
        ...


@runtime_checkable
class HasGeneEmbeddings(Protocol):
    """A module with gene embeddings."""

    def genes(self) -> Float[Tensor, "gene width"]:
        """The gene embeddings, in the order of the genes (for a transformer, of the tokens)."""
        ...


@runtime_checkable
class ReadsTokens(Protocol):
    """A transformer, which maps the gene tokens of a cell to states."""

    def states(self, tokens: TokenBatch, options: Any = ...) -> Float[Tensor, "token width"]:
        """The state of every token, cells concatenated."""
        ...

    def tokenizer(self, match: Any, cell: Any, options: Any) -> Any:
        """The tokenizer for matched genes."""
        ...


@runtime_checkable
class HasLoadings(Protocol):
    """A module with a linear decoder."""

    def loadings(self) -> Float[Tensor, "gene latent"]:
        """Change of each gene's logit per unit of each latent dimension."""
        ...


@runtime_checkable
class HasPrograms(Protocol):
    """A module whose latent dimensions are gene sets, its input "gene_sets"."""

    def programs(self) -> tuple[Int[NDArray[Any], " term"], int]:
        """Columns of the gene sets that have a dimension, in their order, and how many dimensions without follow."""
        ...

    def loadings(self) -> Float[Tensor, "gene latent"]:
        """Change of each gene's logit per unit of each latent dimension."""
        ...


@runtime_checkable
class HasZeroInflation(Protocol):
    """A module with a posterior of zero inflation per gene."""

    def posterior_of_genes(self) -> Beta:
        """Posterior of the probability that a gene is not zero-inflated: by gene, or (batch or label, gene)."""
        ...


@runtime_checkable
class HasELBO(Protocol):
    """A module with an evidence lower bound for each cell."""

    def cell_terms(self, cells: CellBatch) -> Mapping[str, Float[Tensor, " cell"]]:
        """The terms of the negative evidence lower bound of each cell, at a sample of its latent state.

        "reconstruction" is that of the main modality, "reconstruction_<modality>" those of others.
        """
        ...


@runtime_checkable
class HasLikelihood(Protocol):
    """A module with a faster summed log-likelihood than that of `decode`."""

    def log_likelihood(self, z: State, cells: CellBatch, log_library: CellValue) -> Float[Tensor, " cell"]:
        """log p(x | z, l), summed over the features of all modalities."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """A module with a Gaussian posterior of each cell's state."""

    def posterior(self, cells: CellBatch) -> tuple[State, State]:
        """Mean and variance of q(z | x)."""
        ...

    def transform_latent(self, z: State) -> State:
        """The decoder's input for a sample from q(z | x): the sample itself, or e.g. its softmax."""
        ...


@runtime_checkable
class HasLibrary(Protocol):
    """A module whose means scale with the library size of the cell."""

    def log_library(self, cells: CellBatch) -> CellValue:
        """log of the library size: observed, or the posterior mean."""
        ...


@runtime_checkable
class LearnsLibrary(Protocol):
    """A module with a posterior of the library size, if `learns_library`."""

    learns_library: bool

    def library_posterior(self, cells: CellBatch) -> tuple[CellValue, CellValue]:
        """Mean and variance of its logarithm."""
        ...

    def library_prior(self, cells: CellBatch) -> tuple[CellValue, CellValue]:
        """Prior mean and variance of its logarithm."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """A module that decodes latent states to distributions of measurements.

    `modalities`: first the main matrix, e.g. "rna"; any other is named as in the model's `inputs`.
    """

    @property
    def modalities(self) -> tuple[str, ...]: ...

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> Mapping[str, Any]:
        """A `nn.distributions.Distribution` for each modality, given `batch` and `log_library`."""
        ...

    def normalized_expression(
        self,
        z: State,
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell feature"]:
        """Expected value per unit of library, given `batch`: fractions of RNA, probabilities of peaks.

        modality: None for the first. out: output tensor, if no gradient is needed.
        """
        ...


@runtime_checkable
class MakesCells(Protocol):
    """A module that makes cells of a type out of noise, without a state of a real cell."""

    def shares(self, cells: CellBatch) -> Float[Tensor, "cell gene"]:
        """Share of each gene in the counts of a new cell, of the type of each of these cells."""
        ...


@runtime_checkable
class HasForeground(Protocol):
    """A module that tells what is there of proteins from their background."""

    def foreground_probability(
        self, z: State, cells: CellBatch, batch: CellCode | None = None
    ) -> Float[Tensor, "cell protein"]:
        """Probability that a protein is there beyond background, as if measured in `batch`."""
        ...


@runtime_checkable
class HasAccessibility(Protocol):
    """A module that decodes which peaks are open, apart from how well a cell and a peak are seen."""

    accessibility_unit: str  # "probability" that a peak is open, or "share" of the fragments of a cell

    def accessibility(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, region_factors: bool = False
    ) -> Float[Tensor, "cell peak"]:
        """Of each peak, as if measured in `batch`; on request with the factor of each peak."""
        ...

    def cell_factors(self, cells: CellBatch) -> CellValue:
        """How much is seen of each cell: its depth, 0 to 1, or its number of fragments."""
        ...

    def region_factors(self) -> Float[Tensor, " peak"]:
        """How well each peak is seen, 0 to 1, or the logit that it adds to its share."""
        ...


@runtime_checkable
class HoldsVAE(Protocol):
    """A module that delegates other capabilities to the autoencoder it contains."""

    @property
    def vae(self) -> Any: ...


@runtime_checkable
class TrainedModel(Protocol):
    """The result of training and `load`: a module, and the encoding of a user's cells for it."""

    needs_mapping: bool  # whether `map_query` must adapt it to new batches

    @property
    def name(self) -> str: ...
    @property
    def module(self) -> Any: ...
    @property
    def features(self) -> list[str]:
        """The names of its genes or other features."""
        ...

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: mean loss and its terms."""
        ...

    @property
    def key(self) -> str:
        """Key of its embedding in obsm."""
        ...

    @property
    def columns(self) -> Mapping[str, str]:
        """The columns of obs with its batches and labels, as "batch_key" and "labels_key"."""
        ...

    @property
    def description(self) -> str:
        """A one-line description."""
        ...

    def embed(self, adata, *, accelerator: Any = ..., callback: Any = None) -> Float[NDArray[Any], "cell latent"]:
        """One vector for each cell of `adata`."""
        ...

    def predict(self, adata) -> pd.DataFrame:
        """Probability of each cell type (cell x type). Raises OptionError for a model that is not a classifier."""
        ...

    def gene_rows(self, adata) -> Int[NDArray[Any], " gene"]:
        """Row of each gene of `adata` in the module's gene embeddings, -1 for unknown genes."""
        ...

    def save(self, folder: Any, overwrite: bool = False) -> None:
        """Write the model for `load`."""
        ...


Capability = TypeVar("Capability")


def part_with(module: Any, capability: type[Capability]) -> Capability | None:
    """The module, or the autoencoder it contains, if it has this capability."""
    if isinstance(module, capability):
        return module
    inside = module.vae if isinstance(module, HoldsVAE) else None
    return inside if isinstance(inside, capability) else None
