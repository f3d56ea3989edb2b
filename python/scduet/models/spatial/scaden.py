"""Scaden: three networks that learn to read the composition of bulk samples from simulated ones (Menden et al. 2020).

    mixture  = sum of `cells_per_mixture` single cells, drawn with replacement from the minibatch
    shares   ~ uniform numbers over their sum; in half of the mixtures some types are left out
    x        = log2(1 + counts scaled to a common total), then scaled to 0...1 within the sample
    output   = mean of three softmax(MLP(x)), of different widths and dropout

Training minimizes the squared error of each network in the shares, of the cells or of the RNA of the mixture. Each
step draws new mixtures from single cells with labels; the trained model embeds samples. Unlike the original it scales
samples to a common total before the logarithm, so that depth does not matter, and trains for 1,000 steps at a decaying
rate in place of 5,000 on mixtures made in advance.
"""

from __future__ import annotations

from scduet._torch import torch

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.errors import OptionError
from scduet.options import check_network

Widths = tuple[int, ...]
Dropouts = tuple[float, ...]

NETWORKS: tuple[tuple[Widths, Dropouts], ...] = (  # as published
    ((256, 128, 64, 32), (0, 0, 0, 0)),
    ((512, 256, 128, 64), (0, 0.3, 0.2, 0.1)),
    ((1024, 512, 256, 128), (0, 0.6, 0.3, 0.1)),
)
TOTAL = 1e5  # that samples are scaled to: about that of 100 cells on a few hundred genes
N_STEPS, N_CELLS = 1000, 512  # of training; in a minibatch, so that it holds several cells of each type
WHOLE = 0.5  # share of the mixtures that no type is left out of


@dataclass(frozen=True)
class Config:
    per: Literal["cell", "rna"] = "cell"
    """What the proportions are shares of: the cells, or their RNA."""
    cells_per_mixture: int = 100
    """Single cells in each simulated mixture."""
    n_mixtures: int = 128
    """Mixtures that are simulated in each step."""

    def __post_init__(self) -> None:
        check_network(self)
        if self.cells_per_mixture < 1:
            raise OptionError(f"cells_per_mixture={self.cells_per_mixture!r}", "it is a whole number from 1 up")


def recipe(n_cells: int, max_epochs: int | None) -> dict[str, object]:
    """About 1,000 steps, whatever the number of cells."""
    epochs = max_epochs or max(1, round(N_STEPS / math.ceil(n_cells / N_CELLS)))
    return {"max_epochs": epochs, "batch_size": N_CELLS, "lr": 1e-3, "adam_eps": 1e-7, "train_size": 1.0}


class Scaden(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    strata = "label"
    modalities = ("rna",)
    recipes = {"auto": recipe}

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        if reference.n_labels < 2:
            raise OptionError("'scaden' learns the shares of cell types", "pass labels_key=, with two types or more")
        if reference.n_batches > 1 or reference.n_categories or reference.n_continuous or reference.size_factor:
            raise OptionError("'scaden' corrects for no covariates", "leave batch_key and covariates out")
        self.reference, self.config, self.n_labels = reference, config, reference.n_labels
        self.networks = nn.ModuleList(_network(reference.n_genes, *shape, n_out=self.n_labels) for shape in NETWORKS)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        """Squared error of the networks, summed over them, in mixtures of the labeled cells of the minibatch."""
        x, truth = self.mixtures(cells, step.generator)
        errors = [(network(scaled(x)).softmax(-1) - truth).square().mean() for network in self.networks]
        total = torch.stack(errors).sum()
        return Loss(total, {"squared_error": total / len(errors)}, len(cells))

    def mixtures(
        self, cells: CellBatch, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "mixture gene"], Float[Tensor, "mixture label"]]:
        """Counts of simulated mixtures, and their true shares."""
        n, draws = self.config.n_mixtures, self.config.cells_per_mixture
        assert cells.label is not None
        x, one = cells.x.dense(), F.one_hot(cells.label.clamp(min=0), self.n_labels).to(torch.float32)
        one = one * (cells.label >= 0)[:, None]
        share = _compositions(one.sum(0) > 0, n, generator)
        weight = share @ (one / one.sum(0).clamp(min=1)).t()  # of each cell
        drawn = torch.multinomial(weight, draws, replacement=True, generator=generator)
        times = torch.zeros_like(weight).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=weight.dtype))
        amount = one * x.sum(1, keepdim=True) if self.config.per == "rna" else one
        truth = times @ amount
        return times @ x, truth / truth.sum(1, keepdim=True).clamp(min=1e-9)

    def embed(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """Proportions of the labels in each sample, which sum to 1."""
        return self.members(cells).mean(1)

    def members(self, cells: CellBatch) -> Float[Tensor, "cell network label"]:
        """Those of each network."""
        x = scaled(cells.x.dense())
        return torch.stack([network(x).softmax(-1) for network in self.networks], 1)


def scaled(x: Float[Tensor, "sample gene"]) -> Float[Tensor, "sample gene"]:
    """Logs of counts at a common total, from 0 (the lowest gene of the sample) to 1 (the highest)."""
    level = (x * (TOTAL / x.sum(1, keepdim=True).clamp(min=1e-9))).log1p()
    low, high = level.amin(1, keepdim=True), level.amax(1, keepdim=True)
    return (level - low) / (high - low).clamp(min=1e-9)


def _compositions(present: Tensor, n: int, generator: torch.Generator | None) -> Float[Tensor, "mixture label"]:
    """Shares of the types that are present; half of the mixtures lack each type with a probability of one half."""
    size = n, len(present)
    level = torch.rand(size, generator=generator, device=present.device)
    chance = torch.rand(size, generator=generator, device=present.device)
    chance[: round(n * WHOLE)] = 1
    chance.masked_fill_(~present, -1)
    kept = (chance > 0.5) | (chance == chance.amax(1, keepdim=True))  # always one of them
    level = level.clamp(min=1e-6) * kept
    return level / level.sum(1, keepdim=True)


def _network(n_in: int, widths: Widths, dropouts: Dropouts, n_out: int) -> nn.Sequential:
    """Linear, ReLU and dropout, the logits last. Initial weights are those of Keras, which the original uses."""
    layers: list[nn.Module] = []
    for width, dropout in zip(widths, dropouts, strict=True):
        layers += [nn.Linear(n_in, width), nn.ReLU(), nn.Dropout(dropout)]
        n_in = width
    network = nn.Sequential(*layers, nn.Linear(n_in, n_out))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network
