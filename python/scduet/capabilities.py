"""What a module may be able to do beside training and embedding; analyses ask for these."""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Beta

from scduet.contract import CellBatch


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
