"""veloVI: RNA velocity as the time derivative of a variational autoencoder (Gayoso, Weiler et al. 2024, Nat Methods).

    z          ~ Normal(0, I)                                 state of the cell
    pi         ~ Dirichlet(softplus(decoder(z)))              of each gene: induction, on, repression, off; prior 0.25
    rho, tau   = sigmoid(decoder(z))                          elapsed share of induction and of repression
    u, s       ~ mixture over pi of Normal(curve, sigma²)     sigma / 10 in the off state
    induction    t = switch rho           u = alpha/beta (1 - e^-beta t),  s likewise by gamma
    on           u = alpha/beta, s = alpha/gamma              off: u = s = 0
    repression   t = (T - switch) tau     from u, s at the switch, without transcription

u and s are smoothed unspliced and spliced counts, each gene scaled to 0 to 1. Every gene has a rate of transcription,
splicing and degradation (alpha, beta, gamma) and a time of its switch. Training minimizes, a mean over cells,
-log p(u, s | z) + kl_weight * KL(q(z) || p(z)) + KL(Dirichlet), and adds 0.2 (1 - kl_weight) times the squared
distance of the curve at the switch from the u and s of the cells with most u. Options and initial weights are those of
scvi-tools 1.4, whose model_steady_states is not here: it does nothing.
"""

from __future__ import annotations

from scduet._torch import torch

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Input, Loss, Player, Reference, Step
from scduet.data import schema
from scduet.data.sources import Cells, gathered
from scduet.errors import ScduetWarning
from scduet.models.velocity.kinetics import (
    CONCENTRATION,
    T_MAX,
    Genes,
    Kinetics,
    Rates,
    Values,
    expected,
    induction,
    likeliest,
    log_mixture,
    log_shares,
    numbers,
    repression,
)
from scduet.nn import dirichlet
from scduet.nn.kernels.jit import usable
from scduet.nn.kernels.kinetics import Cost
from scduet.nn.layers import MLP, GaussianEncoder, kl_to_normal, rsample
from scduet.options import check_network
from scduet.shapes import State

STATES = ("induction", "induction_steady", "repression", "repression_steady")
PENALTY = 0.2  # weight of the distance at the switch
TOP = 0.99  # quantile of u above which cells tell u and s at the switch

COMMON = {"lr": 1e-2, "weight_decay": 1e-2, "adam_eps": 0.01, "batch_size": 256, "clip_gradient": 10.0}
COMMON |= {"train_size": 0.9, "early_stopping": True, "early_stopping_patience": 45, "lr_schedule": "constant"}
AS_PUBLISHED = {**COMMON, "max_epochs": 500, "kl_warmup_epochs": 400, "validate_every": 1}
RECIPES = {"auto": AS_PUBLISHED, "scvi-tools": AS_PUBLISHED}


@dataclass(frozen=True)
class Fields(schema.Fields):
    layer: str | None = "Ms"
    """Layer, or place such as X, of the smoothed spliced values, each gene scaled to 0 to 1."""
    unspliced: str = "Mu"
    """Layer, or place, of the smoothed unspliced values, each gene scaled to 0 to 1."""


@dataclass(frozen=True)
class Config:
    n_hidden: int = 256
    """Width of the hidden layers."""
    n_latent: int = 10
    """Dimensions of the latent space."""
    n_layers: int = 1
    """Hidden layers of the encoder and of the decoder."""
    dropout_rate: float = 0.1
    """Share of hidden units that the encoder drops in training."""
    use_batch_norm: Literal["both", "encoder", "decoder", "none"] = "both"
    """Where batch normalization is used."""
    use_layer_norm: Literal["both", "encoder", "decoder", "none"] = "both"
    """Where layer normalization is used."""
    latent_distribution: Literal["normal", "ln"] = "normal"
    """Prior of the latent space: normal, or logistic-normal."""
    log_variational: bool = False
    """Show the encoder log(0.01 + x) instead of x."""
    gamma_init_data: bool = False
    """Start the rates of degradation at the ratio of unspliced to spliced at the switch."""
    linear_decoder: bool = False
    """Make the times linear in the state of the cell."""
    time_dep_transcription_rate: bool = False
    """Let the rate of transcription change during induction."""

    def __post_init__(self) -> None:
        check_network(self)


class TimeDecoder(nn.Module):
    """rho and tau of each gene, from the state of the cell."""

    def __init__(self, n_genes: int, config: Config):
        super().__init__()
        self.body = _body(config.n_latent, config, "decoder")
        self.rho = nn.Linear(config.n_hidden, n_genes)
        self.tau = nn.Linear(config.n_hidden, n_genes)

    def forward(self, z: State) -> tuple[Values, Values]:
        hidden = self.body(z)
        return self.rho(hidden).sigmoid(), self.tau(hidden).sigmoid()


class LinearTimeDecoder(nn.Module):
    """rho and 1 - tau as logistic curves of one linear function of the state of the cell."""

    def __init__(self, n_genes: int, config: Config):
        super().__init__()
        self.body = nn.ModuleDict({"linear": nn.ModuleList([nn.Linear(config.n_latent, n_genes, bias=False)])})
        if config.use_batch_norm in ("both", "decoder"):
            self.body["norm"] = nn.ModuleList([nn.BatchNorm1d(n_genes, momentum=0.01, eps=0.001)])
        self.log_slope = nn.Parameter(torch.zeros(n_genes))
        self.intercept = nn.Parameter(torch.zeros(n_genes))

    def forward(self, z: State) -> tuple[Values, Values]:
        line = z
        for part in self.body.values():
            line = part[0](line)  # type: ignore[index]
        return line.sigmoid(), (-(line * self.log_slope.exp() + self.intercept)).sigmoid()

    def loadings(self) -> Float[Tensor, "gene latent"]:
        weight = self.body["linear"][0].weight  # type: ignore[index]
        if "norm" not in self.body:
            return weight
        norm = self.body["norm"][0]  # type: ignore[index]
        return (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None] * weight


class StateDecoder(nn.Module):
    """Concentrations of the Dirichlet of the four states of each gene, from the state of the cell."""

    def __init__(self, n_genes: int, config: Config):
        super().__init__()
        self.body = _body(config.n_latent, config, "decoder")
        self.logits = nn.Linear(config.n_hidden, 4 * n_genes)

    def forward(self, z: State) -> Float[Tensor, "cell gene state"]:
        return F.softplus(self.logits(self.body(z))).unflatten(1, (-1, 4))


def switch_of_genes(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """u and s of each gene at its switch: medians over the 1% of the cells with most u."""
    if reference.n_batches > 1 or reference.n_categories or reference.n_continuous:
        message = "veloVI reads no batch and no covariate: it fits what differs between batches as kinetics"
        warnings.warn(message, ScduetWarning, stacklevel=4)
    s, u = gathered(cells.counts), gathered(cells.extra["unspliced"])
    top = np.argsort(u, axis=0)[int(len(u) * TOP) :]
    medians = {"switch_unspliced": u, "switch_spliced": s}
    return {name: np.median(np.take_along_axis(v, top, 0), 0).astype(np.float32) for name, v in medians.items()}


class VeloVI(nn.Module):
    Config, Fields = Config, Fields
    players = (Player(optimizer="adamw"),)
    expects: Expects = "any"
    inputs = {
        "x": Input("layer", values="any"),
        "unspliced": Input("unspliced", values="any", look_in=("layers", "obsm", "mod"), of_genes=True),
    }
    measure = staticmethod(switch_of_genes)
    recipes = RECIPES
    switch_unspliced: Genes
    switch_spliced: Genes

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config, n = reference, config, reference.n_genes
        u, s = (torch.tensor(reference.arrays[f"switch_{name}"]) for name in ("unspliced", "spliced"))
        self.register_buffer("switch_unspliced", u)
        self.register_buffer("switch_spliced", s)
        self.switch_time = nn.Parameter(7 + 0.5 * torch.randn(n))  # all before softplus
        start = _before_softplus(u / s).clamp(max=10) if config.gamma_init_data else torch.full((n,), -1.0)
        self.gamma = nn.Parameter(start.nan_to_num(-1.0, neginf=-10.0))
        self.beta = nn.Parameter(torch.full((n,), 0.5))
        self.alpha = nn.Parameter(_before_softplus(u).clamp(min=-10.0))
        if config.time_dep_transcription_rate:
            self.alpha_1, self.lambda_alpha = nn.Parameter(torch.zeros(n)), nn.Parameter(torch.zeros(n))
        self.scale = nn.Parameter(torch.full((2 * n, 4), -1.0))  # u, then s; the first column is the variance, as there
        body = _body(2 * n, config, "encoder", config.dropout_rate)
        self.encoder = GaussianEncoder(body, config.n_hidden, config.n_latent, softplus=True)
        self.time = (LinearTimeDecoder if config.linear_decoder else TimeDecoder)(n, config)
        self.states = StateDecoder(n, config)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        terms = {name: values.mean() for name, values in self.cell_terms(cells).items()}
        penalty = self.end_penalty()
        total = terms["reconstruction"] + step.kl_weight * terms["kl"] + terms["kl_states"]
        return Loss(total + PENALTY * (1 - step.kl_weight) * penalty, {**terms, "end_penalty": penalty}, len(cells))

    def cell_terms(self, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        """The terms of each cell's negative evidence lower bound, at a draw of its state and of its genes' states."""
        mean, variance = self.posterior(cells)
        z, kl = self.transform_latent(rsample(mean, variance)), kl_to_normal(mean, variance)
        pi, kl_states = dirichlet.draw(self.states(z), CONCENTRATION)
        return {"reconstruction": self.error(cells, Kinetics(pi, *self.time(z))), "kl": kl, "kl_states": kl_states}

    def embed(self, cells: CellBatch) -> State:
        """Posterior mean of z."""
        return self.transform_latent(self.posterior(cells)[0])

    def posterior(self, cells: CellBatch) -> tuple[State, State]:
        """Mean and variance of q(z | u, s)."""
        both = torch.cat([cells.x, cells.extra["unspliced"]], -1)
        return self.encoder((0.01 + both).log() if self.config.log_variational else both)

    def transform_latent(self, z: State) -> State:
        return z.softmax(-1) if self.config.latent_distribution == "ln" else z

    def draw(self, cells: CellBatch, latent_dim: int | None = None) -> Kinetics:
        """A draw from the posterior of the state of the cells, and of the states of their genes.

        latent_dim: the only dimension that times depend on; the others are 0 there.
        """
        z = self.transform_latent(rsample(*self.posterior(cells)))
        states, _ = dirichlet.draw(self.states(z), CONCENTRATION)
        if latent_dim is not None:
            z = z * (torch.arange(z.shape[1], device=z.device) == latent_dim)
        return Kinetics(states, *self.time(z))

    def rates(self) -> Rates:
        """The rates of each gene, from 0 to 50."""
        gamma, beta, alpha = (F.softplus(raw).clamp(0, 50) for raw in (self.gamma, self.beta, self.alpha))
        if self.config.time_dep_transcription_rate:
            return Rates(gamma, beta, alpha, *(F.softplus(r).clamp(0, 50) for r in (self.alpha_1, self.lambda_alpha)))
        return Rates(gamma, beta, alpha, torch.zeros_like(alpha), torch.zeros_like(alpha))

    def gene_log_likelihood(self, cells: CellBatch, at: Kinetics) -> Values:
        """log p(u, s) of each gene, given the states of the cells."""
        (u, s), (sd_u, sd_s) = self._curves(at, self._limited_switch()), self._sd().chunk(2)
        log_pi = log_shares(at.pi)
        return log_mixture(cells.extra["unspliced"], log_pi, u, sd_u) + log_mixture(cells.x, log_pi, s, sd_s)

    def error(self, cells: CellBatch, at: Kinetics) -> Float[Tensor, " cell"]:
        """-log p(u, s) of each cell, given its states."""
        u, s = cells.extra["unspliced"], cells.x
        if self.config.time_dep_transcription_rate or not usable(u, s, *vars(at).values()):
            return -self.gene_log_likelihood(cells, at).sum(-1)
        of_genes = numbers(self.rates(), self._limited_switch(), self._sd())
        return Cost.apply(u, s, at.pi, at.rho, at.tau, of_genes)  # pyright: ignore[reportReturnType]

    def expression_fit(self, at: Kinetics) -> tuple[Values, Values]:
        """Expected spliced and unspliced values."""
        u, s = self._curves(at, self._limited_switch())
        shares = at.pi / at.pi.sum(-1, keepdim=True)
        return expected(s, shares), expected(u, shares)

    def velocity(self, at: Kinetics, of: str = "spliced", statistic: str = "mean") -> Values:
        """ds/dt, or du/dt, by unit of the model's time: expected over the states, or that of the likeliest state."""
        rates, switch = self.rates(), F.softplus(self.switch_time)
        u, s = self._curves(at, switch)
        if of == "spliced":
            rising, falling = (rates.beta * u[i] - rates.gamma * s[i] for i in (0, 2))
        else:
            change = (-rates.lambda_alpha * switch * at.rho).exp()
            rising = rates.alpha_1 - (rates.alpha_1 - rates.alpha) * change - rates.beta * u[0]
            falling = -rates.beta * u[2]
        return expected((rising, 0.0, falling, 0.0), at.pi if statistic == "mean" else likeliest(at.pi))

    def latent_time(self, at: Kinetics, statistic: str = "mean") -> Values:
        """Time of each gene in each cell, 0 to 20."""
        switch = F.softplus(self.switch_time)
        times = (at.rho * switch, switch, switch + at.tau * (T_MAX - switch), 0.0)
        return expected(times, at.pi if statistic == "mean" else likeliest(at.pi))

    def end_penalty(self) -> Float[Tensor, ""]:
        """Squared distance of the curve at the switch from the cells with most u, summed over genes."""
        u, s = induction(self.rates(), self._limited_switch(), self.config.time_dep_transcription_rate)
        return (u - self.switch_unspliced).square().sum() + (s - self.switch_spliced).square().sum()

    def _sd(self) -> Float[Tensor, " both"]:
        """Standard deviation of u, then of s."""
        return F.softplus(self.scale[:, 0]).sqrt()

    def _limited_switch(self) -> Genes:
        return F.softplus(self.switch_time).clamp(0, T_MAX)

    def _curves(self, at: Kinetics, switch: Genes) -> tuple[tuple, tuple]:
        """u and s in each of the four states: (cell, gene) or (gene)."""
        rates, changing = self.rates(), self.config.time_dep_transcription_rate
        u_up, s_up = induction(rates, switch * at.rho, changing)
        u_down, s_down = repression(rates, induction(rates, switch, changing), (T_MAX - switch) * at.tau)
        last = rates.alpha_1 if changing else rates.alpha
        off = torch.zeros_like(last)
        return (u_up, last / rates.beta, u_down, off), (s_up, last / rates.gamma, s_down, off)


def _body(n_in: int, config: Config, part: str, dropout: float = 0.0) -> MLP:
    batch_norm, layer_norm = (use in ("both", part) for use in (config.use_batch_norm, config.use_layer_norm))
    return MLP(n_in, config.n_hidden, config.n_layers, dropout=dropout, batch_norm=batch_norm, layer_norm=layer_norm)


def _before_softplus(x: Tensor) -> Tensor:
    return torch.where(x > 20, x, x.expm1().log())
