"""The proteins' side of totalVI: from the state of a cell to a mixture of background and foreground counts.

Of each protein in each cell:
    log b ~ Normal(mean, sd)        the background of a protein in a cell, a latent variable
    f     = 1 + relu(gain)          foreground over background
    y     ~ p NB(e b, q) + (1 - p) NB(e b f, q),   p = sigmoid(mixing logits), e: efficiency of the batch
"""

from __future__ import annotations

from scduet._torch import torch

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Reference
from scduet.errors import OptionError
from scduet.nn.distributions import NegativeBinomialMixture
from scduet.nn.layers import MLP, Codes, CovariateLinear
from scduet.shapes import CellCode, State

EMPIRICAL = 10  # with more proteins than this the prior of the background starts from the data
START = 3.0  # of the prior's mean, where it does not
PUSH = 1e-3  # weight of what pushes a protein towards background
SMALLEST = 1e-8
LARGEST_LOG = 30.0  # of a background: above, a first draw may be infinite where a covariate is not standardized


class Branch(nn.Module):
    """Hidden layers of the state, and linear heads that see these, the state and the covariates."""

    mean: CovariateLinear  # the heads, of which a branch has some
    spread: CovariateLinear
    gain: CovariateLinear
    logits: CovariateLinear
    dropout_logits: CovariateLinear
    share: CovariateLinear

    def __init__(self, body: MLP, n_hidden: int, n_state: int, levels: Sequence[int], **heads: int):
        super().__init__()
        self.body = body
        for name, n_out in heads.items():
            self.add_module(name, CovariateLinear(n_hidden + n_state, n_out, levels))

    def forward(self, state: Float[Tensor, "cell state"], codes: Codes) -> Float[Tensor, "cell hidden"]:
        """What the heads see."""
        return torch.cat([self.body(state, codes), state], -1)


@dataclass(frozen=True)
class Proteins:
    """Proteins of cells in some states, (cell, protein) each, around a draw of their background."""

    log_mean: Tensor  # posterior of the logarithm of the background
    log_sd: Tensor
    background: Tensor  # the draw
    foreground: Tensor
    logits: Tensor  # of showing no more than background

    def normalized(
        self, include_protein_background: bool, sample_protein_mixing: bool, scale_protein: bool
    ) -> Float[Tensor, "cell protein"]:
        """Expected counts at full efficiency, of the foreground, and of the background too if that is asked for.

        sample_protein_mixing: draw whether a protein is background. scale_protein: the proteins of a cell sum to 1.
        """
        p = self.logits.sigmoid()
        p = torch.bernoulli(p) if sample_protein_mixing else p
        found = self.foreground * (1 - p)
        found = found + self.background * p if include_protein_background else found
        return F.normalize(found, p=1, dim=-1) if scale_protein else found


class ProteinDecoder(nn.Module):
    """`mixing` also has the logits of the genes' dropout, where there are `n_dropout` genes with one."""

    def __init__(self, reference: Reference, config: Any, branch: Callable[..., Branch], n_dropout: int = 0):
        super().__init__()
        n = reference.n_extra["protein"]
        self.by_panel, self.config = "panel" in reference.n_extra, config
        self.background = branch(mean=n, spread=n)
        self.foreground = branch(gain=n)
        self.mixing = branch(logits=n, **({"dropout_logits": n_dropout} if n_dropout else {}))
        rows = level_rows(config.protein_dispersion, reference)
        self.log_dispersion = nn.Parameter(2 * torch.rand(*rows, n))
        self.register_buffer("protein_detected", torch.tensor(reference.arrays["protein_detected"]))
        mean, sd = (torch.tensor(reference.arrays[f"protein_background_{name}"]) for name in ("mean", "sd"))
        empirical = config.empirical_protein_background_prior
        if not (n > EMPIRICAL if empirical is None else empirical):
            mean, sd = torch.full_like(mean, START), torch.ones_like(sd)
        self.prior_mean = nn.Parameter(mean[:, None].repeat(1, n))
        self.prior_log_sd = nn.Parameter(sd.log()[:, None].repeat(1, n))
        if config.protein_efficiency:
            self.log_efficiency = nn.Parameter(torch.zeros(reference.n_batches, n))

    def forward(self, state: Float[Tensor, "cell state"], codes: Codes, mixing: Tensor | None = None) -> Proteins:
        """The proteins of cells in these states. mixing: what the heads of `mixing` see, where it is known already."""
        hidden, part = self.background(state, codes), self.background
        mean, spread = part.mean(hidden, codes), part.spread(hidden, codes)
        sd = (spread.exp() if self.config.background_activation == "exp" else F.softplus(spread)) + SMALLEST
        background = (mean + sd * torch.randn_like(mean)).clamp(max=LARGEST_LOG).exp()
        gain = F.relu(self.foreground.gain(self.foreground(state, codes), codes))
        mixing = self.mixing(state, codes) if mixing is None else mixing
        return Proteins(mean, sd, background, background * (gain + 1 + SMALLEST), self.mixing.logits(mixing, codes))

    def mixture(self, p: Proteins, cells: CellBatch, batch: CellCode) -> NegativeBinomialMixture:
        """The distribution of counts in `batch`, around the background that was drawn."""
        dispersion = of_level(self.config.protein_dispersion, self.log_dispersion, batch, cells.label).exp()
        if not self.config.protein_efficiency:
            return NegativeBinomialMixture(p.background, p.foreground, dispersion, p.logits)
        efficiency = F.embedding(batch, self.log_efficiency).exp()
        return NegativeBinomialMixture(efficiency * p.background, efficiency * p.foreground, dispersion, p.logits)

    def cell_terms(self, p: Proteins, cells: CellBatch) -> dict[str, Float[Tensor, " cell"]]:
        """-log p(y | z, b), and the divergence of b from its prior with what regularizes efficiency and mixing."""
        (counts, measured), (mean, sd) = self.counts(cells), self._prior(cells)
        log_p = self.mixture(p, cells, cells.batch).log_prob(counts)
        ratio = (p.log_sd / sd).square()
        kl = 0.5 * (ratio + ((p.log_mean - mean) / sd).square() - 1 - ratio.log())
        divergence = (measured * kl).sum(1)
        if self.config.protein_efficiency:
            log_e = self.log_efficiency
            cost = (log_e + 0.5 * log_e.square() + 0.5 * math.log(2 * math.pi)).sum(1)  # log-normal density of e itself
            divergence = divergence + cost[cells.batch] + PUSH * F.softplus(-p.logits).sum(1)
        return {"reconstruction_protein": -(measured * log_p).sum(1), "kl_background": divergence}

    def log_likelihood(self, p: Proteins, cells: CellBatch) -> Float[Tensor, " cell"]:
        """log of p(y | z, b) p(b) / q(b | z): its mean over draws of b is p(y | z)."""
        (counts, measured), (mean, sd), log_b = self.counts(cells), self._prior(cells), p.background.log()
        log_p = self.mixture(p, cells, cells.batch).log_prob(counts)
        prior, posterior = (
            -0.5 * ((log_b - m) / s).square() - s.log() for m, s in ((mean, sd), (p.log_mean, p.log_sd))
        )
        return (measured * (log_p + prior - posterior)).sum(1)

    def counts(self, cells: CellBatch) -> tuple[Float[Tensor, "cell protein"], Bool[Tensor, "cell protein"]]:
        """Counts, zero where there is none, and where they were measured."""
        counts: Tensor = cells.extra["protein"]
        measured = ~counts.isnan()
        if not self.config.override_missing_proteins:
            measured &= self._of_panel(self.protein_detected, cells) > 0  # pyright: ignore[reportArgumentType]
        return counts.nan_to_num(0.0), measured

    def _prior(self, cells: CellBatch) -> tuple[Float[Tensor, "cell protein"], Float[Tensor, "cell protein"]]:
        """Mean and standard deviation of the log background."""
        return self._of_panel(self.prior_mean, cells), self._of_panel(self.prior_log_sd.exp(), cells)

    def _of_panel(self, table: Float[Tensor, "panel protein"], cells: CellBatch) -> Float[Tensor, "cell protein"]:
        """The row of each cell's panel (or batch); the mean of all rows where the panel is not one of those known."""
        if not self.by_panel:
            return F.embedding(cells.batch, table)
        level = cells.extra["panel"].nan_to_num(0.0)
        known = level.sum(1, keepdim=True) > 0
        return torch.where(known, level, 1 / len(table)) @ table


def level_rows(kind: str, reference: Reference) -> tuple[int, ...]:
    """Rows of a table of dispersions: by batch, by label, or none. Raises OptionError where there are no labels."""
    if kind.endswith("label") and reference.n_labels < 1:
        raise OptionError(f"dispersion {kind!r} needs labels", "pass labels_key=")
    return {"batch": (reference.n_batches,), "label": (reference.n_labels,)}.get(kind.partition("-")[2], ())


def of_level(kind: str, table: Tensor, batch: CellCode, label: CellCode | None) -> Float[Tensor, "*#cell feature"]:
    """The row of each cell's batch or label, or the one row of all; the mean of all rows where a label is unknown."""
    by = kind.partition("-")[2]
    if by != "label":
        return F.embedding(batch, table) if by else table
    known = torch.full_like(batch, -1) if label is None else label
    return F.embedding(known % (len(table) + 1), torch.cat([table, table.mean(0, keepdim=True)]))


def draw_as_theirs(z: State) -> None:
    """scvi-tools draws a library size here even where that is observed: so do we, that its seeds give its numbers."""
    torch.randn_like(z[:, :1])
