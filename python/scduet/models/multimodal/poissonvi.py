"""PoissonVI: scVI for counts of fragments in peaks (Martens et al. 2024, Nature Methods 21:28).

    z     ~ Normal(0, I)
    l     = total of the cell's fragments        or the size factor that came with the data
    share = softmax(W · body(z, batch, ...) + b)    expected share of each peak; b is the region factor, a logit
    x     ~ Poisson(l * share)

Since the rates of a cell sum to its total, this is the likelihood of a multinomial, up to a constant of the cell.
A scVI with LeakyReLU, layer normalization and the sizes of PeakVI. The counts have to be of fragments: a matrix of
reads counts both ends of each, which `reads_to_fragments` turns into fragments.
"""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Player, Reference, Step
from scduet.data.loader_source import spread_rows
from scduet.data.sources import Cells
from scduet.errors import DataError
from scduet.models.multimodal import peakvi
from scduet.models.rna import scvi
from scduet.models.rna.scvi import SCVI
from scduet.nn.distributions import Distribution
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

SCANNED = 1000  # cells whose counts are looked at to tell fragments from reads
SAME = {"gene_likelihood": "poisson", "use_batch_norm": "none", "use_layer_norm": "both"}  # of scVI, in every PoissonVI


@dataclass(frozen=True)
class Config:
    n_hidden: int | None = None
    """Width of the hidden layers; None for the square root of the number of peaks."""
    n_latent: int | None = None
    """Dimensions of the latent space; None for the square root of n_hidden."""
    n_layers: int = 2
    """Hidden layers of the encoder and of the decoder."""
    dropout_rate: float = 0.1
    """Share of hidden units that the encoder drops in training."""
    latent_distribution: Literal["normal", "ln"] = "normal"
    """Prior of the latent space: normal, or logistic-normal."""
    encode_covariates: bool = False
    """Show the batch and the covariates to the encoder too."""
    deeply_inject_covariates: bool = True
    """Show categorical covariates to every hidden layer, not only to the first."""

    def __post_init__(self) -> None:
        check_network(self)


def check_fragments(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """Raise DataError for counts that are 0 and 1, or that look like reads; measures nothing.

    A fragment has two ends, so that among reads 2 is more frequent than 1 (Martens et al. 2024). Looks at cells spread
    over the data, or at the first that a loader gives.
    """
    values = spread_rows(cells.counts, SCANNED).data
    n_ones, n_twos, largest = (values == 1).sum(), (values == 2).sum(), values.max(initial=0)
    if 0 < largest <= 1:
        remedy = "use 'peakvi', which asks only which peaks are open, or give the counts of fragments"
        raise DataError("'poissonvi' needs counts of fragments, and these are 0 and 1", remedy)
    if n_twos > n_ones:
        remedy = "run scduet.reads_to_fragments(adata), then pass layer='fragments'"
        raise DataError(f"these look like reads, not fragments: 2 ({n_twos} times) is more frequent than 1", remedy)
    return {}


class PoissonVI(nn.Module):
    Config = Config
    players = (Player(optimizer="adamw"),)
    expects: Expects = "counts"
    modalities = ("peaks",)
    accessibility_unit = "share"
    recipes = peakvi.RECIPES
    measure = staticmethod(check_fragments)

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        given = {name: getattr(config, name) for name in vars(config) if name not in ("n_hidden", "n_latent")}
        n_hidden, self.n_latent = peakvi.sizes(config, reference.n_genes)
        inner = scvi.Config(n_hidden=n_hidden, n_latent=self.n_latent, **SAME, **given)
        self.scvi = SCVI(reference, inner, activation="leaky_relu", sparse=True)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        return self.scvi(cells, step)

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        return self.scvi.cell_terms(cells)

    def embed(self, cells: CellBatch) -> State:
        return self.scvi.embed(cells)

    @property
    def vae(self) -> SCVI:
        return self.scvi

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> dict[str, Distribution]:
        """Fragments in cells in the states z, as if measured in `batch` and with `log_library`."""
        return {"peaks": self.scvi.decode(z, cells, batch, log_library)["rna"]}

    def normalized_expression(
        self,
        z: State,
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell peak"]:
        """Expected share of each peak among the fragments of a cell."""
        return self.scvi.normalized_expression(z, cells, batch, out=out)

    def accessibility(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, region_factors: bool = False
    ) -> Float[Tensor, "cell peak"]:
        """The shares; without the region factors, those of peaks that are all seen equally well."""
        if region_factors:
            return self.normalized_expression(z, cells, batch)
        share: nn.Linear = self.scvi.share  # type: ignore[assignment]
        hidden = self.scvi._hidden(z, cells, cells.batch if batch is None else batch)  # pyright: ignore[reportPrivateUsage]
        return self.scvi._linked(F.linear(hidden, share.weight))  # pyright: ignore[reportPrivateUsage]

    def cell_factors(self, cells: CellBatch) -> CellValue:
        """The number of fragments of each cell, or its size factor."""
        return self.scvi.log_library(cells).exp()

    def region_factors(self) -> Float[Tensor, " peak"]:
        """The logit that each peak adds to its share."""
        return self.scvi.share.bias  # type: ignore[return-value]
