"""DCA, the deep count autoencoder: counts denoised through a bottleneck (Eraslan et al. 2019, Nat Commun 10:390).

    s    = total of the cell / median total           or the size factor that came with the data
    in   = log(1 + x / s), each gene scaled to mean 0 and standard deviation 1 over the cells trained on
    h    = three blocks of Linear, BatchNorm without a factor, ReLU; the state z is what the Linear of the middle gives
    m    = W h + b                                    log of the mean at the median total
    x    ~ NB(s * exp(m), r) or ZINB                  r of each gene, or softplus(Linear(h)) of each gene and cell
    dropout = sigmoid(Linear(h)), or sigmoid(k_g m_g + c_g), a logistic curve of the log mean

Training minimizes -log p(x | h), summed over genes, a mean over cells. There is no prior of the state and no batch:
what differs between batches is reconstructed like all else. Constants are those of the package dca 0.3.4. Unlike there,
the optimizer is Adam, the rate falls along a cosine, and the held-out cells are drawn at random.
"""

from __future__ import annotations

from scduet._torch import torch

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.data.moments import moments
from scduet.data.sources import Cells
from scduet.errors import OptionError, ScduetWarning
from scduet.nn import sparse_likelihoods
from scduet.nn.distributions import Distribution, NegativeBinomial, ZeroInflatedNegativeBinomial
from scduet.nn.heads import Logits, head
from scduet.nn.layers import MLP, to_dense
from scduet.shapes import CellCode, CellValue, State

DISPERSIONS = {"gene": (1e-3, 1e4), "gene-cell": (1e-4, 1e4)}  # between which they are held


@dataclass(frozen=True)
class Config:
    gene_likelihood: Literal["nb", "zinb"] = "nb"
    """Distribution of the counts."""
    dispersion: Literal["gene-cell", "gene"] = "gene-cell"
    """What the dispersion of a gene may depend on."""
    dropout_from: Literal["cell", "mean"] = "cell"
    """Whether "zinb" has a chance of dropout for each gene and cell, or one that follows the gene's mean there."""
    layers: tuple[int, ...] = (64, 32, 64)
    """Widths of the hidden layers; the middle one is the latent space."""
    input_dropout: float = 0.0
    """Share of the input values that are dropped in training."""

    def __post_init__(self) -> None:
        if not self.layers or min(self.layers) < 1:
            raise OptionError(f"layers={self.layers!r}", "layers are one or more whole numbers from 1 up")
        if not 0 <= self.input_dropout < 1:
            raise OptionError(f"input_dropout={self.input_dropout!r}", "it is from 0 up to, not including, 1")

    @property
    def n_latent(self) -> int:
        return self.layers[len(self.layers) // 2]


def gene_moments(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """Median of the totals (or size factors), and mean and standard deviation of each gene's log(1 + x / s)."""
    if reference.n_batches > 1:
        message = "DCA reconstructs batch effects, it does not correct them: to integrate batches use 'scvi'"
        warnings.warn(message, ScduetWarning, stacklevel=4)
    library = cells.total if cells.size_factor is None else cells.size_factor
    median = float(np.median(library))
    mean, deviation = (values[0] for values in moments(cells, library / median))
    deviation[deviation == 0] = 1
    found = {"library_median": np.array([median]), "gene_log_mean": mean, "gene_log_deviation": deviation}
    return {name: values.astype(np.float32) for name, values in found.items()}


class DCA(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    measure = staticmethod(gene_moments)
    modalities = ("rna",)
    recipes = {"auto": {"lr": 3e-3, "adam_eps": 1e-7, "weight_decay": 0.0}}
    library_median: Float[Tensor, " 1"]
    gene_log_mean: Float[Tensor, " gene"]
    gene_log_deviation: Float[Tensor, " gene"]

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config, n_genes = reference, config, reference.n_genes
        for name in ("library_median", "gene_log_mean", "gene_log_deviation"):
            self.register_buffer(name, torch.tensor(reference.arrays[name]).reshape(-1))
        widths = zip((n_genes, *config.layers), config.layers, strict=False)
        self.blocks = nn.ModuleList(_block(n_in, n_out) for n_in, n_out in widths)
        self.mean = _linear(config.layers[-1], n_genes)
        if config.dispersion == "gene-cell":
            self.dispersion_of_cell = _linear(config.layers[-1], n_genes)
        else:
            self.log_dispersion = nn.Parameter(torch.zeros(n_genes))
        if config.gene_likelihood == "zinb" and config.dropout_from == "cell":
            self.dropout_logits = _linear(config.layers[-1], n_genes)
        elif config.gene_likelihood == "zinb":
            self.dropout_slope = nn.Parameter(torch.empty(n_genes).uniform_(-1, 1) * math.sqrt(3 / n_genes))
            self.dropout_shift = nn.Parameter(torch.zeros(n_genes))

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        error = -self.log_likelihood(self.embed(cells), cells, self.log_library(cells)).mean()
        return Loss(error, {"reconstruction": error}, len(cells))

    def embed(self, cells: CellBatch) -> State:
        """The linear output of the middle layer, before normalization and ReLU: DCA's `X_dca`."""
        hidden = F.dropout(self.scaled(cells), self.config.input_dropout, self.training)
        *before, middle = self.blocks[: len(self.blocks) // 2 + 1]
        for block in before:
            hidden = block(hidden)
        return middle.linear[0](hidden)  # type: ignore[operator, index]

    def scaled(self, cells: CellBatch) -> Float[Tensor, "cell gene"]:
        """log(1 + x / s), each gene to mean 0 and standard deviation 1 among the cells trained on."""
        size = self._log_size(self.log_library(cells)).exp()[:, 0]
        values = (cells.x.data / size[cells.x.row]).log1p()
        return (to_dense(cells.x, values) - self.gene_log_mean) / self.gene_log_deviation

    def log_library(self, cells: CellBatch) -> CellValue:
        """log of the total of the cell, or of its size factor."""
        library = cells.covariates.size_factor if self.reference.size_factor else cells.x.sum()
        return library.log()[:, None]  # type: ignore[union-attr]

    def log_likelihood(self, z: State, cells: CellBatch, log_library: CellValue) -> Float[Tensor, " cell"]:
        """log p(x | z), summed over genes."""
        hidden = self._hidden(z)
        mean, dropout = self._logits(hidden)
        inputs = (cells.x, mean, self._log_size(log_library), self._dispersion(hidden).log())
        if dropout is None:
            return sparse_likelihoods.negative_binomial(*inputs, "exp")
        return sparse_likelihoods.zero_inflated_negative_binomial(*inputs, dropout, "exp")

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> dict[str, Distribution]:
        """Distribution of the counts of cells in the states z; `batch` plays no part."""
        hidden, log_library = self._hidden(z), self.log_library(cells) if log_library is None else log_library
        scale = sparse_likelihoods.within_limits(self.mean(hidden)) / self.library_median
        parameters = scale, log_library.exp() * scale, self._dispersion(hidden)
        _, dropout = self._logits(hidden, lazy=False)
        if dropout is None:
            return {"rna": NegativeBinomial(*parameters)}
        return {"rna": ZeroInflatedNegativeBinomial(*parameters, dropout)}  # type: ignore[arg-type]

    def normalized_expression(
        self,
        z: State,
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell gene"]:
        """Expected count of each gene by unit of library, dropout included; the genes of a cell need not sum to 1."""
        ones = torch.zeros(len(z), 1, device=z.device)
        found = self.decode(z, cells, log_library=ones)["rna"].mean
        return found if out is None else out.copy_(found)

    def genes(self) -> Float[Tensor, "gene hidden"]:
        """A vector for each gene: its weights in the layer that gives the log mean."""
        return self.mean.weight

    def _log_size(self, log_library: CellValue) -> CellValue:
        return log_library - self.library_median.log()

    def _hidden(self, z: State) -> Float[Tensor, "cell hidden"]:
        middle, *after = self.blocks[len(self.blocks) // 2 :]
        hidden = middle.units(0, z)  # type: ignore[operator]
        for block in after:
            hidden = block(hidden)
        return hidden

    def _logits(self, hidden: Float[Tensor, "cell hidden"], lazy: bool = True) -> tuple[Logits, Logits | None]:
        """Of the mean and of dropout; lazy: they may be left to be multiplied out."""
        of = head if lazy else lambda layer, x: layer(x)
        if self.config.gene_likelihood == "nb":
            return of(self.mean, hidden), None
        if self.config.dropout_from == "cell":
            return of(self.mean, hidden), of(self.dropout_logits, hidden)
        mean = self.mean(hidden)
        return mean, self.dropout_slope * mean + self.dropout_shift

    def _dispersion(self, hidden: Float[Tensor, "cell hidden"]) -> Float[Tensor, "*#cell gene"]:
        kind = self.config.dispersion
        free = self.log_dispersion.exp() if kind == "gene" else F.softplus(self.dispersion_of_cell(hidden))
        return free.clamp(*DISPERSIONS[kind])


def _linear(n_in: int, n_out: int) -> nn.Linear:
    """Glorot uniform weights, no shift."""
    layer = nn.Linear(n_in, n_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _block(n_in: int, n_out: int) -> MLP:
    """Linear, BatchNorm with a shift but no factor, ReLU."""
    block = MLP(n_in, n_out, 1)
    nn.init.xavier_uniform_(block.linear[0].weight)  # type: ignore[arg-type]
    nn.init.zeros_(block.linear[0].bias)  # type: ignore[arg-type]
    block.norm[0].weight.requires_grad_(False)  # type: ignore[union-attr]
    return block
