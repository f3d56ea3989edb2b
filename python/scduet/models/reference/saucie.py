"""SAUCIE: an autoencoder in two dimensions whose hidden units are the clusters (Amodio et al. 2019).

    x    = 100 principal components of log(1 + 10,000 * share of the cell), scaled to standard deviation 1 overall
    z    = encoder(x)                    512, 256 and 128 leaky ReLU units, then two linear ones, the embedding
    h    = relu(512 units of decoder(z)) behind 128 and 256 leaky ReLU units
    code = h > 0                         cells with the same code are a cluster, unless they are few
    loss = mean square of x - Linear(h)
           + lambda_c * entropy of the share of each unit in sum of a            a = h / max(h): "information dimension"
           + lambda_d * mean over pairs of cells of |x_i - x_j| K(a_i, a_j)      K scaled to 0 to 1 in the minibatch
           + lambda_b * MMD² of the embeddings of the batches, in units of their largest distance

K and the MMD average Gaussian kernels of 19 widths, from 1e-6 to 1e6.

Source: Nat Methods 16:1139, and its formulas; its program was not looked at. There a model aligns one batch to a first
and reconstructs it with a hundredth of the weight; here all batches are alike. Without a regularization the program has
a sigmoid in the encoder and no ReLU before the codes; here the network is always the same.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.data.moments import relative
from scduet.data.samplers import evenly_spaced
from scduet.data.sources import Cells
from scduet.errors import OptionError
from scduet.nn.discrepancy import kernel, mmd_between
from scduet.nn.layers import to_dense
from scduet.options import check_network
from scduet.shapes import State

N_COMPONENTS, TARGET = 100, 1e4  # the latter: the total that cells are scaled to
MOST_CELLS = 20_000  # that components are computed from
BATCH_SIZE, STEPS, TINY = 256, 1000, 1e-9
MEASURED = ("directions", "middle", "scale")


@dataclass(frozen=True)
class Config:
    n_latent: int = 2
    """Dimensions of the embedding."""
    lambda_c: float = 0.1
    """Weight of the entropy of the units: higher, and fewer units make fewer clusters."""
    lambda_d: float = 0.2
    """Weight of distances within a code."""
    lambda_b: float = 0.1
    """Weight of the difference between batches (MMD), where there is batch_key."""

    def __post_init__(self) -> None:
        check_network(self)
        for name in ("lambda_c", "lambda_d", "lambda_b"):
            if not getattr(self, name) >= 0:
                raise OptionError(f"{name}={getattr(self, name)!r}", "it cannot be below 0")


def principal_components(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """Directions of the components (gene, component), the scores of the mean cell, and their standard deviation."""
    from sklearn.decomposition import PCA

    rows = evenly_spaced(len(cells), MOST_CELLS)
    least = min(len(rows), reference.n_genes) - 1
    if least < 2:
        raise OptionError("SAUCIE reads principal components, and there are none", "give three genes and cells or more")
    x = relative(cells, rows, np.maximum(cells.total, 1) / TARGET).log1p()
    pca = PCA(min(N_COMPONENTS, least), svd_solver="arpack", random_state=0)
    scale = pca.fit_transform(x).std()
    found = pca.components_.T, pca.mean_ @ pca.components_.T, np.array([scale])
    return {name: values.astype(np.float32) for name, values in zip(MEASURED, found, strict=True)}


def recipe(n_cells: int, max_epochs: int | None) -> dict[str, object]:
    """A thousand steps, as published."""
    epochs = max_epochs or max(10, -(-STEPS * BATCH_SIZE // n_cells))
    return {"lr": 1e-3, "batch_size": BATCH_SIZE, "max_epochs": epochs, "weight_decay": 0.0, "adam_eps": 1e-8}


class SAUCIE(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    measure = staticmethod(principal_components)
    recipes = {"auto": recipe}

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        for name in MEASURED:
            self.register_buffer(name, torch.from_numpy(reference.arrays[name]), persistent=False)
        n = len(reference.arrays["middle"])
        self.encoder = nn.Sequential(*_leaky(n, 512, 256, 128), nn.Linear(128, config.n_latent))
        self.decoder = nn.Sequential(*_leaky(config.n_latent, 128, 256), nn.Linear(256, 512), nn.ReLU())
        self.output = nn.Linear(512, n)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        config, x = self.config, self._scores(cells)
        units = self.decoder(z := self.encoder(x))
        active = units / units.max().clamp(min=TINY)
        total = F.mse_loss(self.output(units), x)
        terms = {"reconstruction": total}
        for name, weight, term in (
            ("information", config.lambda_c, lambda: entropy_of_units(active)),
            ("distance", config.lambda_d, lambda: distance_within_codes(x, active)),
            ("mmd", config.lambda_b * (self.reference.n_batches > 1), lambda: self._between_batches(z, cells)),
        ):
            if weight:
                terms[name] = term()
                total = total + weight * terms[name]
        return Loss(total, terms, len(cells))

    def embed(self, cells: CellBatch) -> State:
        """The embedding, for a scatter plot."""
        return self.encoder(self._scores(cells))

    def binary_codes(self, cells: CellBatch) -> Bool[Tensor, "cell unit"]:
        """Which units each cell activates."""
        return self.decoder(self.embed(cells)) > 0

    def _scores(self, cells: CellBatch) -> Float[Tensor, "cell component"]:
        share = cells.x.data / cells.x.sum().clamp(min=1)[cells.x.row]
        return (to_dense(cells.x, (TARGET * share).log1p()) @ self.directions - self.middle) / self.scale  # type: ignore[operator]

    def _between_batches(self, z: State, cells: CellBatch) -> Float[Tensor, ""]:
        spread = torch.cdist(z, z).max().clamp(min=TINY)
        return mmd_between(z / spread, cells.batch, self.reference.n_batches)


def _leaky(*widths: int) -> list[nn.Module]:
    return [part for sizes in pairwise(widths) for part in (nn.Linear(*sizes), nn.LeakyReLU(0.2))]


def entropy_of_units(active: Float[Tensor, "cell unit"]) -> Float[Tensor, ""]:
    """Entropy of the units' shares in the activity of a minibatch, in nats: 0 where one unit does everything."""
    share = active.sum(0) / active.sum().clamp(min=TINY)
    return -(share * (share + TINY).log()).sum()


def distance_within_codes(x: Float[Tensor, "cell component"], active: Float[Tensor, "cell unit"]) -> Float[Tensor, ""]:
    """Mean distance of two cells times how alike their units are, 0 to 1."""
    alike = kernel(active, active)
    least = alike.min()
    alike = (alike - least) / (alike.max() - least).clamp(min=TINY)
    return ((torch.cdist(x, x).square() + 1e-3).sqrt() * alike).mean()
