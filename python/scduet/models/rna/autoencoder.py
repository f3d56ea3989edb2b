"""An autoencoder of counts whose options are the usual flavors: plain, stacked, sparse, denoising, variational, ...

    z     = encoder(log(1 + x)), a point, or z ~ Normal(encoder(log(1 + x))) if `variational`
    share = softmax(decoder(z, batch, covariates))
    x     ~ NB(l * share, r), ZINB or Poisson         l = total of the cell, as in scVI

Training minimizes -log p(x | z), a mean over cells, plus

    prior="normal"       kl_weight * KL(q(z|x) || Normal(0, I))                                   variational
    prior="mmd"          kl_weight * 1000 * MMD²(z, Normal(0, I)), Gaussian kernel of variance d   InfoVAE, WAE
    prior="adversarial"  kl_weight * 10 * -log critic(z), the critic a second player, with R1      AAE
    total_correlation    kl_weight * weight * (log q(z) - sum_d log q(z_d))                        beta-TCVAE
    sparsity             weight * |z|₁

kl_weight is 1 after its warm-up, or the training option max_kl_weight: 4 gives a beta-VAE. The weights 1000 and 10 suit
a likelihood that is a sum over genes. `corruption` changes what the encoder reads in training; the target stays whole.

Sources: Kingma & Welling 2014; Higgins et al. 2017 (beta-VAE); Zhao et al. 2019 (InfoVAE); Makhzani et al. 2015 (AAE);
Chen et al. 2018 (beta-TCVAE); Vincent et al. 2008 (denoising). Thinning is the corruption that fits counts: a thinned
Poisson count is the count of a shallower experiment.
"""

from __future__ import annotations

from scduet._torch import torch

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Player, Reference, SparseRows, Step
from scduet.errors import OptionError
from scduet.models.rna import scvi
from scduet.models.rna.scvi import SCVI
from scduet.nn.distributions import Distribution
from scduet.nn.kernels.gaussians import VARIANCE_FLOOR
from scduet.nn.layers import MLP, Codes, kl_to_normal, rsample
from scduet.options import check_network
from scduet.shapes import CellCode, CellValue, State

MMD_WEIGHT, ADVERSARIAL_WEIGHT = 1000.0, 10.0
N_CRITIC = 64  # hidden units of the critic
R1 = 1.0  # weight of its gradient penalty (Mescheder et al. 2018)


@dataclass(frozen=True)
class Config:
    layers: tuple[int, ...] = (128,)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    n_latent: int = 10
    """Dimensions of the latent space."""
    variational: bool = True
    """Whether a cell has a distribution of states rather than one."""
    prior: Literal["normal", "mmd", "adversarial", "none"] = "normal"
    """How states are held to Normal(0, I): by the KL divergence (if variational), MMD or a critic."""
    total_correlation: float = 0.0
    """Extra weight of the dependence between latent dimensions (beta-TCVAE), which disentangles them."""
    sparsity: float = 0.0
    """Weight of the sum of absolute states (L1). The decoder is then not batch-normalized, which would undo it."""
    corruption: Literal["none", "thin", "mask", "noise"] = "none"
    """What is done to the encoder's input in training: binomial thinning, genes set to 0, or noise on log counts."""
    corruption_rate: float = 0.3
    """Share of the molecules or genes that is removed, or the standard deviation of the noise."""
    gene_likelihood: Literal["nb", "zinb", "poisson"] = "nb"
    """Distribution of the counts."""
    dropout_rate: float = 0.0
    """Share of hidden units that the encoder drops in training."""
    use_batch_norm: Literal["encoder", "decoder", "none", "both"] = "both"
    """Where batch normalization is used."""
    use_layer_norm: Literal["encoder", "decoder", "none", "both"] = "none"
    """Where layer normalization is used."""

    def __post_init__(self) -> None:
        check_network(self)
        if not self.layers or min(self.layers) < 1:
            raise OptionError(f"layers={self.layers!r}", "layers are one or more whole numbers from 1 up")
        for name in ("total_correlation", "sparsity", "corruption_rate"):
            if not getattr(self, name) >= 0:
                raise OptionError(f"{name}={getattr(self, name)!r}", "it cannot be below 0")
        if self.corruption in ("thin", "mask") and self.corruption_rate >= 1:
            raise OptionError(f"corruption_rate={self.corruption_rate!r}", "it is a share below 1")
        if self.total_correlation and not self.variational:
            raise OptionError("total_correlation needs distributions of states", "set variational=True")


class Stack(nn.Module):
    """Hidden layers of different widths."""

    def __init__(self, widths: tuple[int, ...], **options):
        super().__init__()
        self.blocks = nn.ModuleList(MLP(n_in, n_out, 1, **options) for n_in, n_out in pairwise(widths))

    def forward(self, x: Float[Tensor, "cell in"] | SparseRows, codes: Codes = ()) -> Float[Tensor, "cell hidden"]:
        for block in self.blocks:
            x = block(x, codes)
        return x  # type: ignore[return-value]


class Encoder(nn.Module):
    """Mean and variance of the state of each cell; variance 0 where states are points."""

    def __init__(self, body: Stack, n_hidden: int, n_latent: int, variational: bool):
        super().__init__()
        self.body, self.mean = body, nn.Linear(n_hidden, n_latent)
        self.log_variance = nn.Linear(n_hidden, n_latent) if variational else None

    def forward(self, x: Float[Tensor, "cell in"] | SparseRows, codes: Codes = ()) -> tuple[State, State]:
        hidden = self.body(x, codes)
        mean = self.mean(hidden)
        if self.log_variance is None:
            return mean, torch.zeros_like(mean)
        return mean, self.log_variance(hidden).exp() + VARIANCE_FLOOR


class Critic(nn.Module):
    """Logits that a state is a draw from the prior. Without batch normalization, which would tell minibatches apart."""

    def __init__(self, n_latent: int):
        super().__init__()
        self.body, self.logit = MLP(n_latent, N_CRITIC, 1, batch_norm=False), nn.Linear(N_CRITIC, 1)

    def forward(self, z: State) -> CellValue:
        return self.logit(self.body(z))

    def error(self, z: State) -> Float[Tensor, ""]:
        """Its own loss, beside as many draws; in training with the R1 penalty, without which the two players cycle."""
        draws = torch.randn_like(z).requires_grad_(torch.is_grad_enabled())
        found = self(draws)
        error = F.softplus(self(z)).mean() + F.softplus(-found).mean()
        if not torch.is_grad_enabled():
            return error
        (slope,) = torch.autograd.grad(found.sum(), draws, create_graph=True)
        return error + R1 / 2 * slope.square().sum(1).mean()


class Autoencoder(nn.Module):
    Config = Config
    players: tuple[str | Player, ...] = ("model",)
    expects: Expects = "counts"
    modalities = ("rna",)

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        *_, last = config.layers
        self.scvi = SCVI(
            reference,
            scvi.Config(config.layers[0], config.n_latent, gene_likelihood=config.gene_likelihood),
            decoder=self._stack("decoder", (config.n_latent + reference.n_continuous, *config.layers[::-1])),
            head=lambda: nn.Linear(config.layers[0], reference.n_genes),
        )
        body = self._stack("encoder", (reference.n_genes, *config.layers), dropout=config.dropout_rate)
        self.scvi.encoder = Encoder(body, last, config.n_latent, config.variational)  # type: ignore[assignment]
        if config.prior == "adversarial":
            self.players = ("model", Player("critic", betas=(0.5, 0.999)))
            self.critic = Critic(config.n_latent)

    def _stack(self, side: Literal["encoder", "decoder"], widths: tuple[int, ...], **options) -> Stack:
        if side == "decoder":
            options["levels"] = (self.reference.n_batches, *self.reference.n_categories)
        norms = {"batch_norm": self.config.use_batch_norm, "layer_norm": self.config.use_layer_norm}
        used = {norm: use in (side, "both") for norm, use in norms.items()}
        if side == "decoder" and self.config.sparsity:  # else states shrink for nothing: only their scale is lost
            used["batch_norm"] = False
        return Stack(widths, **used, **options)

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        return list((self.critic if player == "critic" else self.scvi).parameters())

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        config = self.config
        mean, variance = self.scvi.encoder(self.read(cells))
        z = rsample(mean, variance) if config.variational else mean
        if step.player == "critic":
            error = self.critic.error(z.detach())
            return Loss(error, {"critic": error}, len(cells))
        terms = {"reconstruction": -self.log_likelihood(z, cells, self.log_library(cells)).mean()}
        held: dict[str, tuple[float, Tensor]] = {}  # weight and value of each term that the warm-up multiplies
        if config.prior == "normal" and config.variational:
            held["kl"] = 1.0, kl_to_normal(mean, variance).mean()
        elif config.prior == "mmd":
            held["mmd"] = MMD_WEIGHT, mmd_from_normal(z)
        elif config.prior == "adversarial":
            held["adversarial"] = ADVERSARIAL_WEIGHT, F.softplus(-self.critic(z)).mean()
        if config.total_correlation:
            held["total_correlation"] = config.total_correlation, total_correlation(z, mean, variance)
        total = terms["reconstruction"] + step.kl_weight * sum(weight * value for weight, value in held.values())
        if config.sparsity:
            terms["sparsity"] = z.abs().sum(1).mean()
            total = total + config.sparsity * terms["sparsity"]
        return Loss(total, terms | {name: value for name, (_, value) in held.items()}, len(cells))

    def read(self, cells: CellBatch) -> SparseRows | Float[Tensor, "cell gene"]:
        """log(1 + counts); in training of the corrupted counts."""
        x, rate = cells.x, self.config.corruption_rate
        kind = self.config.corruption if self.training else "none"
        if kind == "noise":
            logs = x.dense(x.data.log1p())
            return (logs + rate * torch.randn_like(logs)).clamp(min=0)
        if kind == "none":
            return replace(x, data=x.data.log1p())
        kept = torch.full_like(x.data, 1 - rate)
        counts = torch.binomial(x.data, kept) if kind == "thin" else x.data * torch.bernoulli(kept)
        return replace(x, data=(counts / (1 - rate)).log1p())

    def embed(self, cells: CellBatch) -> State:
        """The state of each cell, or the mean of its distribution."""
        return self.scvi.embed(cells)

    @property
    def vae(self) -> SCVI | None:
        """What analyses of distributions of states use."""
        return self.scvi if self.config.variational else None

    def log_library(self, cells: CellBatch) -> CellValue:
        return self.scvi.log_library(cells)

    def log_likelihood(self, z: State, cells: CellBatch, log_library: CellValue) -> Float[Tensor, " cell"]:
        return self.scvi.log_likelihood(z, cells, log_library)

    def decode(
        self, z: State, cells: CellBatch, batch: CellCode | None = None, log_library: CellValue | None = None
    ) -> dict[str, Distribution]:
        return self.scvi.decode(z, cells, batch, log_library)

    def normalized_expression(
        self,
        z: State,
        cells: CellBatch,
        batch: CellCode | None = None,
        modality: str | None = None,
        out: Tensor | None = None,
    ) -> Float[Tensor, "cell gene"]:
        return self.scvi.normalized_expression(z, cells, batch, modality, out)

    def genes(self) -> Float[Tensor, "gene hidden"]:
        return self.scvi.genes()


def mmd_from_normal(z: State) -> Float[Tensor, ""]:
    """Squared discrepancy of states from as many draws from Normal(0, I); kernel exp(-distance² / (2 * dimensions))."""
    prior = torch.randn_like(z)

    def likeness(a: Tensor, b: Tensor) -> Tensor:
        squared = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        return (squared.clamp(min=0) / (-2 * z.shape[1])).exp().mean()

    return likeness(z, z) + likeness(prior, prior) - 2 * likeness(z, prior)


def total_correlation(z: State, mean: State, variance: State) -> Float[Tensor, ""]:
    """log q(z) - sum over dimensions of log q(z_d), q the mixture of the minibatch's Gaussians; a mean over cells."""
    n, d = z.shape
    log_q = -0.5 * ((z[:, None] - mean).square() / variance + variance.log() + math.log(2 * math.pi))
    joint, marginals = log_q.sum(2).logsumexp(1), log_q.logsumexp(1).sum(1)
    return (joint - marginals).mean() + (d - 1) * math.log(n)
