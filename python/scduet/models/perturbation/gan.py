"""A conditional Wasserstein GAN with gradient penalty (cscGAN: Marouf et al. 2020, Nat Commun 11:166).

    share(z, y)  = relu(generator(z, y)) / its sum        z ~ Normal(0, I), y the type of the cell
    fake         = log1p(10,000 * share)                  real cells are log-normalized alike
    critic(x, y) = w . phi(x) + v_y . phi(x)              phi: the hidden layers of the critic

The critic minimizes E critic(fake) - E critic(real) + penalty_weight * E (|gradient of critic(mix)| - 1)², where each
mix lies at random between a real and a generated cell of the same type; the generator, with a step after five of the
critic, minimizes -E critic(fake). The type enters the generator as a scale and an offset of each batch norm. The
embedding of a cell is the last hidden layer of the critic, as in Ghahramani, Watt and Luscombe 2018 (bioRxiv 262501).

As published but for three things: real and generated cells are compared after log1p, since ten genes would rule the
critic otherwise; the mix is within a type; and w . phi(x) is added, the projection of Miyato and Koyama 2018.
"""

from __future__ import annotations

from scduet._torch import torch

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Player, Reference, SparseRows, Step
from scduet.data.sources import Cells
from scduet.errors import OptionError, ScduetWarning
from scduet.nn.layers import MLP, normalized, to_dense
from scduet.options import check_network
from scduet.shapes import CellCode

TOTAL = 1e4  # counts per cell after normalization
BETAS = (0.5, 0.9)  # of Adam, for both players
STEPS = 3_000  # of the generator, in the recipe


@dataclass(frozen=True)
class Config:
    n_hidden: int = 256
    """Width of the hidden layers of the generator and of the critic."""
    n_layers: int = 2
    """Hidden layers of each."""
    n_noise: int = 64
    """Dimensions of the noise that the generator starts from."""
    penalty_weight: float = 10.0
    """Weight of the gradient penalty."""

    def __post_init__(self) -> None:
        check_network(self)
        if self.n_noise < 1:
            raise OptionError(f"n_noise={self.n_noise!r}", "it is at least 1")
        if self.penalty_weight <= 0:
            raise OptionError(f"penalty_weight={self.penalty_weight!r}", "it is above 0; 10 is the published value")


def recipe(n_cells: int, max_epochs: int | None) -> dict[str, object]:
    """3,000 steps of the generator: a GAN needs many, and no loss tells when to stop. All cells are trained on."""
    batch_size = 64
    epochs = -(-STEPS * 6 // max(n_cells // batch_size, 1))
    return {
        "lr": 1e-3,
        "batch_size": batch_size,
        "max_epochs": max_epochs or max(epochs, 10),
        "adam_eps": 1e-8,
        "weight_decay": 0.0,
        "train_size": 1.0,
        "validate_every": 0,
    }


def warn_of_batches(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """Measures nothing."""
    if reference.n_batches > 1:
        message = "the GAN does not read the batch: its cells are of all batches together"
        warnings.warn(f"{message}; to decode as a batch use 'scvi'", ScduetWarning, stacklevel=4)
    return {}


class Generator(nn.Module):
    """Shares of the counts of a cell, of noise and the level of a category."""

    def __init__(self, n_noise: int, n_hidden: int, n_layers: int, n_genes: int, n_levels: int):
        super().__init__()
        sizes = (n_noise, *[n_hidden] * n_layers)
        self.linear = nn.ModuleList(nn.Linear(a, n_hidden, bias=False) for a in sizes[:-1])
        self.norm = nn.ModuleList(nn.BatchNorm1d(n_hidden, affine=False) for _ in sizes[1:])
        self.scale = nn.ParameterList(torch.ones(n_levels, n_hidden) for _ in sizes[1:])
        self.offset = nn.ParameterList(torch.zeros(n_levels, n_hidden) for _ in sizes[1:])
        self.out = nn.Linear(n_hidden, n_genes)

    def forward(self, noise: Float[Tensor, "cell noise"], level: CellCode) -> Float[Tensor, "cell gene"]:
        x = noise
        for linear, norm, scale, offset in zip(self.linear, self.norm, self.scale, self.offset, strict=True):
            x = F.relu(normalized(linear(x), norm) * scale[level] + offset[level])
        x = F.relu(self.out(x))
        return x / (x.sum(1, keepdim=True) + 1e-8)


class Critic(nn.Module):
    """How real a cell of a level looks: higher is more so. Its layers are differentiable twice."""

    def __init__(self, n_genes: int, n_hidden: int, n_layers: int, n_levels: int):
        super().__init__()
        self.body = MLP(n_genes, n_hidden, n_layers, batch_norm=False)
        self.score = nn.Linear(n_hidden, 1, bias=False)  # a constant would cancel in every loss
        self.of_level = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_levels, n_hidden)))

    def forward(self, x: Float[Tensor, "cell gene"], level: CellCode) -> Float[Tensor, " cell"]:
        hidden = self.body(x)
        return self.score(hidden)[:, 0] + (self.of_level[level] * hidden).sum(1)


def gradient_penalty(
    critic: nn.Module, real: Float[Tensor, "cell gene"], fake: Float[Tensor, "cell gene"], level: CellCode
) -> Float[Tensor, ""]:
    """Mean of (|gradient of the critic| - 1)² at random points between real and generated cells."""
    mix = real + torch.rand(len(real), 1, device=real.device) * (fake - real)
    mix.requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(mix, level).sum(), mix, create_graph=True)
    length = (slope.square().sum(1) + 1e-12).sqrt()  # which has a derivative where the slope is 0, too
    return (length - 1).square().mean()


class GAN(nn.Module):
    Config = Config
    players = (Player("critic", steps=5, betas=BETAS), Player("generator", betas=BETAS))
    expects: Expects = "counts"
    measure = staticmethod(warn_of_batches)
    recipes = {"auto": recipe}

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        n_genes, n_levels = reference.n_genes, reference.n_labels + 1  # the last: cells without a label
        self.generator = Generator(config.n_noise, config.n_hidden, config.n_layers, n_genes, n_levels)
        self.critic = Critic(n_genes, config.n_hidden, config.n_layers, n_levels)

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        return list((self.critic if player == "critic" else self.generator).parameters())

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        with torch.autocast(cells.index.device.type, enabled=False):  # the penalty needs full precision
            return self._critic_loss(cells) if step.player == "critic" else self._generator_loss(cells)

    def embed(self, cells: CellBatch) -> Float[Tensor, "cell hidden"]:
        """The last hidden layer of the critic."""
        return self.critic.body(lognormal(cells.x))

    def shares(self, cells: CellBatch) -> Float[Tensor, "cell gene"]:
        """Share of each gene in the counts of a new cell, of the type of each of these cells."""
        noise = torch.randn(len(cells), self.config.n_noise, device=cells.index.device)
        return self.generator(noise, self._level(cells))

    def _critic_loss(self, cells: CellBatch) -> Loss:
        """On held-out cells without the penalty, as nothing can be differentiated there."""
        real, level = lognormal(cells.x), self._level(cells)
        with torch.no_grad():
            fake = self._made(cells)
        estimate = self.critic(real, level).mean() - self.critic(fake, level).mean()
        if not torch.is_grad_enabled():
            return Loss(-estimate, {"wasserstein": estimate}, len(cells))
        penalty = gradient_penalty(self.critic, real, fake, level)
        total = self.config.penalty_weight * penalty - estimate
        return Loss(total, {"wasserstein": estimate, "penalty": penalty}, len(cells))

    def _generator_loss(self, cells: CellBatch) -> Loss:
        score = self.critic(self._made(cells), self._level(cells)).mean()
        return Loss(-score, {"score": score}, len(cells))

    def _made(self, cells: CellBatch) -> Float[Tensor, "cell gene"]:
        return (TOTAL * self.shares(cells)).log1p()

    def _level(self, cells: CellBatch) -> CellCode:
        label = torch.full_like(cells.batch, -1) if cells.label is None else cells.label
        return label % (self.reference.n_labels + 1)


def lognormal(counts: SparseRows) -> Float[Tensor, "cell gene"]:
    total = counts.sum().clamp(min=1)
    return to_dense(counts, (TOTAL * counts.data / total[counts.row]).log1p())
