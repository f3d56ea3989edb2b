"""scGen: a variational autoencoder for arithmetic with conditions (Lotfollahi et al. 2019, Nat Methods 16:715).

    x     log-normalized expression
    z     ~ Normal(0, I)                        state of the cell
    x     ~ Normal(decoder(z), 1)

    q(z | x) = Normal(encoder(x))

Training minimizes 1/2 |x - decoder(z)|² + 1/2 kl_weight * KL(q(z|x) || p(z)), a mean over cells, with a kl_weight so
small that this is nearly a plain autoencoder. The model knows no conditions: they are differences between cells, which
`scduet.scgen` and `scduet.predict_perturbation` add to other cells. Sizes, constants and layers are those of scgen 2.
"""

from __future__ import annotations

from scduet._torch import torch

import warnings
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from scduet.contract import CellBatch, Expects, Loss, Reference, SparseRows, Step
from scduet.data.checks import look_like_counts
from scduet.data.loader_source import spread_rows
from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.nn.distributions import Distribution, Normal
from scduet.nn.layers import MLP, GaussianEncoder, kl_to_normal, rsample, to_dense
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

TOTAL = 1e4  # that counts are normalized to
LOOKED_AT = 1000  # cells that tell whether the values are counts


@dataclass(frozen=True)
class Config:
    n_hidden: int = 800
    """Width of the hidden layers."""
    n_latent: int = 100
    """Dimensions of the latent space."""
    n_layers: int = 2
    """Hidden layers of the encoder and of the decoder."""
    dropout_rate: float = 0.2
    """Share of hidden units that are dropped in training."""
    kl_weight: float = 5e-5
    """Weight of the KL term against the squared error."""

    def __post_init__(self) -> None:
        check_network(self)
        if self.kl_weight < 0:
            raise OptionError(f"kl_weight={self.kl_weight!r}", "it cannot be below 0")


def find_counts(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """Whether the values are counts, which the model log-normalizes itself: `is_counts`, 1 or 0."""
    found = look_like_counts(spread_rows(cells.counts, LOOKED_AT))
    if found:
        message = "scGen takes these counts log-normalized, to 10,000 per cell over the genes of the model"
        warnings.warn(f"{message}; to use other totals, pass log-normalized values", ScduetWarning, stacklevel=4)
    return {"is_counts": np.array([found], np.float32)}


def recipe(n_cells: int, max_epochs: int | None) -> dict[str, object]:
    """As many steps as 100 passes over 20,000 cells take, but no more than 100 and no fewer than 10 passes."""
    epochs = max(min(round(20_000 / n_cells * 100), 100), 10)
    return {"lr": 1e-3, "batch_size": 64, "max_epochs": max_epochs or epochs}


class SCGEN(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "lognormal"
    measure = staticmethod(find_counts)
    modalities = ("rna",)
    recipes = {"auto": recipe, "scvi-tools": {"kl_warmup_epochs": 0}}
    is_counts: Float[Tensor, " 1"]

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        self.register_buffer("is_counts", torch.tensor(reference.arrays["is_counts"]).reshape(-1))
        self.encoder = GaussianEncoder(self._mlp(reference.n_genes), config.n_hidden, config.n_latent)
        self.decoder = self._mlp(config.n_latent)
        self.mean = nn.Linear(config.n_hidden, reference.n_genes)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        x = self.lognormal(cells)
        mean, variance = self.encoder(x)
        error = 0.5 * (to_dense(x, x.data) - self._decoded(rsample(mean, variance))).square().sum(-1).mean()
        kl = kl_to_normal(mean, variance).mean()
        total = error + 0.5 * self.config.kl_weight * step.kl_weight * kl
        return Loss(total, {"reconstruction": error, "kl": kl}, len(cells))

    def lognormal(self, cells: CellBatch) -> SparseRows:
        """The log-normalized values of the cells. Raises DataError where counts are mixed up with such values."""
        counts, values = bool(self.is_counts), cells.x.data
        if not self.training and len(values) and counts != bool((values == values.round()).all()):
            kinds = ("counts", "log-normalized values") if counts else ("log-normalized values", "counts")
            raise DataError(f"the model was trained on {kinds[0]}, and these cells hold {kinds[1]}", f"pass {kinds[0]}")
        if not counts:
            return cells.x
        total = cells.x.sum().clamp(min=1)
        return replace(cells.x, data=(TOTAL * values / total[cells.x.row]).log1p())

    def embed(self, cells: CellBatch) -> State:
        """Posterior mean of z."""
        return self.posterior(cells)[0]

    def posterior(self, cells: CellBatch) -> tuple[State, State]:
        """Mean and variance of q(z | x)."""
        return self.encoder(self.lognormal(cells))

    def transform_latent(self, z: State) -> State:
        """The state, of a draw from q(z | x): the draw itself."""
        return z

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> dict[str, Distribution]:
        """Distribution of log-normalized expression in the states z; batch and library play no part."""
        mean = self._decoded(z)
        return {"rna": Normal(mean, mean, torch.ones_like(mean[:1]))}

    def normalized_expression(
        self,
        z: State,
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell gene"]:
        """Expected log-normalized expression in the states z; slightly negative where a gene is off."""
        mean = self._decoded(z)
        return mean if out is None else out.copy_(mean)

    def genes(self) -> Float[Tensor, "gene hidden"]:
        """A vector for each gene: its weights in the last layer."""
        return self.mean.weight

    def _decoded(self, z: State) -> Float[Tensor, "cell gene"]:
        return self.mean(self.decoder(z))

    def _mlp(self, n_in: int) -> MLP:
        c = self.config
        return MLP(n_in, c.n_hidden, c.n_layers, dropout=c.dropout_rate, activation="leaky_relu")
