"""Factor analysis of several sets of features of a cell, which share factors and have factors of their own.

    y_m = offset_m(batch) + L_m s + B_m z_m + e_m,    e_m ~ N(0, diag(noise_m)),    s, z_m ~ N(0, I)

Probabilistic canonical correlation analysis with private factors. Of a set that was not measured in a cell nothing is
known. EM as for factor analysis (Ghahramani and Hinton 1996): `Factors.posterior` is the E-step, `maximized` the
M-step. All steps can be differentiated.
"""

from __future__ import annotations

from scduet._torch import torch

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Sets = Sequence[Float[Tensor, "cell feature"]]  # one for each modality; whatever where it was not measured
LEAST_NOISE = 0.01  # share of the variance of a feature that no factor may explain: else it may explain all of one
RIDGE, BATCH_RIDGE = 1e-4, 1.0  # cells' worth of evidence for loadings of 0, and for batches that are alike


@dataclass(frozen=True)
class Layout:
    """How many factors there are, and which of them each modality has."""

    n_shared: int
    n_private: int
    n_modalities: int
    n_batches: int = 1

    @property
    def n_factors(self) -> int:
        return self.n_shared + self.n_private * self.n_modalities

    @property
    def n_fixed(self) -> int:
        """Columns of `fixed`: one for all cells, and one for each of several batches."""
        return 1 + (self.n_batches if self.n_batches > 1 else 0)

    @property
    def n_own(self) -> int:
        """Coefficients of a feature."""
        return self.n_fixed + self.n_shared + self.n_private

    def places(self, modality: int) -> Int[Tensor, " own"]:
        """The factors of a modality: the shared ones and its own."""
        first = self.n_shared + modality * self.n_private
        return torch.tensor([*range(self.n_shared), *range(first, first + self.n_private)])

    def fixed(self, batch: Int[Tensor, " cell"]) -> Float[Tensor, "cell fixed"]:
        every = batch.new_ones(len(batch), 1, dtype=torch.float32)
        return torch.cat([every, F.one_hot(batch, self.n_batches)], 1) if self.n_batches > 1 else every


@dataclass(frozen=True)
class Posterior:
    """The normal posterior of the factors. Cells in which the same modalities were measured share a covariance."""

    mean: Float[Tensor, "cell factor"]
    covariances: Float[Tensor, "pattern factor factor"]
    pattern: Int[Tensor, " cell"]

    @property
    def variance(self) -> Float[Tensor, "cell factor"]:
        return self.covariances.diagonal(dim1=1, dim2=2)[self.pattern]


@dataclass(frozen=True)
class Factors:
    """The parameters, one tensor for each modality. coefficient: offsets (see `Layout.fixed`), shared, own loadings."""

    layout: Layout
    coefficient: tuple[Float[Tensor, "feature own"], ...]
    noise: tuple[Float[Tensor, " feature"], ...]

    def loadings(self, modality: int) -> Float[Tensor, "feature factor"]:
        """Of all factors; 0 of those of other modalities."""
        own = self.coefficient[modality][:, self.layout.n_fixed :]
        found = own.new_zeros(len(own), self.layout.n_factors)
        return found.index_copy(1, self.layout.places(modality).to(own.device), own)

    def offset(self, modality: int, batch: Int[Tensor, " cell"]) -> Float[Tensor, "cell feature"]:
        return self.layout.fixed(batch) @ self.coefficient[modality][:, : self.layout.n_fixed].t()

    def expected(
        self, modality: int, z: Float[Tensor, "cell factor"], batch: Int[Tensor, " cell"]
    ) -> Float[Tensor, "cell feature"]:
        """E[y_m | factors]."""
        return self.offset(modality, batch) + z @ self.loadings(modality).t()

    def posterior(self, y: Sets, known: Bool[Tensor, "cell modality"], batch: Int[Tensor, " cell"]) -> Posterior:
        """Exact, by what was measured of each cell."""
        evidence, precision, pattern = self._evidence(self._residuals(y, known, batch), known)
        covariances = torch.linalg.inv(precision)
        mean = (covariances[pattern] @ evidence[:, :, None])[:, :, 0]
        return Posterior(mean, covariances, pattern)

    def shared_by(
        self, modality: int, y: Sets, known: Bool[Tensor, "cell modality"], batch: Int[Tensor, " cell"]
    ) -> Float[Tensor, "cell shared"]:
        """Mean of the shared factors by one modality; NaN where that was not measured."""
        alone = known & (torch.arange(len(y), device=known.device) == modality)
        found = self.posterior(y, alone, batch).mean[:, : self.layout.n_shared]
        return found.where(known[:, modality, None], torch.nan)

    def log_likelihood(
        self, y: Sets, known: Bool[Tensor, "cell modality"], batch: Int[Tensor, " cell"]
    ) -> Float[Tensor, " cell"]:
        """log p(what was measured of a cell), without its factors."""
        residuals = self._residuals(y, known, batch)
        evidence, precision, pattern = self._evidence(residuals, known)
        factor = torch.linalg.cholesky(precision)
        log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        solved = torch.cholesky_solve(evidence[:, :, None], factor[pattern])[:, :, 0]
        total = (evidence * solved).sum(1) - log_det[pattern]
        for i, (residual, noise) in enumerate(zip(residuals, self.noise, strict=True)):
            constant = noise.log().sum() + len(noise) * math.log(2 * math.pi)
            total = total - (residual.square() @ (1 / noise)) - constant * known[:, i]
        return total / 2

    def _residuals(self, y: Sets, known: Tensor, batch: Tensor) -> list[Float[Tensor, "cell feature"]]:
        """What the offsets leave; 0 where nothing was measured."""
        each = enumerate(y)
        return [(values - self.offset(i, batch)).where(known[:, i, None], 0.0) for i, values in each]

    def _evidence(self, residuals: list[Tensor], known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each cell L' noise^-1 y; the precision of each pattern of what was measured; the pattern of each cell."""
        weighted = [self.loadings(i) / noise[:, None] for i, noise in enumerate(self.noise)]
        evidence = torch.stack([r @ w for r, w in zip(residuals, weighted, strict=True)]).sum(0)
        told = torch.stack([w.t() @ self.loadings(i) for i, w in enumerate(weighted)])
        bits = 2 ** torch.arange(known.shape[1], device=known.device)
        pattern = (known * bits).sum(1)
        patterns = torch.arange(2 ** known.shape[1], device=known.device)[:, None] // bits % 2
        eye = torch.eye(self.layout.n_factors, device=told.device, dtype=told.dtype)
        return evidence, eye + torch.einsum("pm,mij->pij", patterns.to(told.dtype), told), pattern


@dataclass(frozen=True)
class Moments:
    """What the M-step reads of some cells: sums over cells, a tensor for each modality. `x`: fixed columns, factors."""

    second: tuple[Float[Tensor, "own own"], ...]  # E[x x']
    cross: tuple[Float[Tensor, "feature own"], ...]  # y E[x']
    square: tuple[Float[Tensor, " feature"], ...]  # y^2
    total: tuple[Float[Tensor, " feature"], ...]  # y
    count: tuple[Float[Tensor, ""], ...]  # cells

    @classmethod
    def of(
        cls, layout: Layout, posterior: Posterior, y: Sets, known: Bool[Tensor, "cell modality"], batch: Tensor
    ) -> Moments:
        second, cross, square, total, count = [], [], [], [], []
        for i, values in enumerate(y):
            there = known[:, i]
            places = layout.places(i).to(values.device)
            x = torch.cat([layout.fixed(batch), posterior.mean[:, places]], 1) * there[:, None]
            values = values.where(there[:, None], 0.0)
            spread = torch.einsum("p,pij->ij", _times(posterior, there), posterior.covariances)[places][:, places]
            second.append(x.t() @ x + F.pad(spread, (layout.n_fixed, 0, layout.n_fixed, 0)))
            cross.append(values.t() @ x)
            square.append(values.square().sum(0))
            total.append(values.sum(0))
            count.append(there.sum().to(values.dtype))
        return cls(tuple(second), tuple(cross), tuple(square), tuple(total), tuple(count))

    def per_cell(self) -> Moments:
        """Means over the cells in which a modality was measured, in place of sums."""
        n = [count.clamp(min=1) for count in self.count]
        means = [tuple(v / k for v, k in zip(values, n, strict=True)) for values in self._sums]
        return Moments(*means, self.count)  # type: ignore[call-arg]

    def toward(self, other: Moments, share: float) -> Moments:
        """The mean of both by weight, that of `other` being `share`; of a modality that one lacks the other alone."""
        pairs = zip(self.count, other.count, strict=True)
        weight = [torch.where(mine > 0, share, 1.0) * (theirs > 0) for mine, theirs in pairs]
        pairs = zip(self._sums, other._sums, strict=True)
        mixed = [tuple(torch.lerp(a, b, w.to(a)) for a, b, w in zip(*both, weight, strict=True)) for both in pairs]
        count = tuple(torch.maximum(a, b) for a, b in zip(self.count, other.count, strict=True))
        return Moments(*mixed, count)  # type: ignore[call-arg]

    @property
    def _sums(self) -> tuple[tuple[Tensor, ...], ...]:
        return self.second, self.cross, self.square, self.total


def _times(posterior: Posterior, there: Tensor) -> Float[Tensor, " pattern"]:
    n = posterior.covariances.new_zeros(len(posterior.covariances))
    return n.index_add(0, posterior.pattern, there.to(n))


def maximized(layout: Layout, moments: Moments) -> Factors:
    """The M-step: regressions of the features on offsets and factors, and what they leave. moments: means per cell."""
    coefficient, noise = [], []
    each = zip(moments.second, moments.cross, moments.square, moments.total, moments.count, strict=True)
    for second, cross, square, total, count in each:
        ridge = second.new_full((layout.n_own,), RIDGE)
        ridge[1 : layout.n_fixed] = BATCH_RIDGE
        beta = torch.linalg.solve(second + (ridge / count.clamp(min=1)).diag(), cross.t()).t()
        left = square - 2 * (beta * cross).sum(1) + ((beta @ second) * beta).sum(1)
        least = LEAST_NOISE * (square - total.square()).clamp(min=LEAST_NOISE)
        coefficient.append(beta)
        noise.append(torch.maximum(left, least))
    return Factors(layout, tuple(coefficient), tuple(noise))


class RunningMoments(nn.Module):
    """Moments over the minibatches so far, the later ones weighing more (Cappé and Moulines 2009)."""

    def __init__(self, layout: Layout, sizes: Sequence[int]):
        super().__init__()
        self.n = len(sizes)
        for i, size in enumerate(sizes):
            shapes = (layout.n_own, layout.n_own), (size, layout.n_own), (size,), (size,), ()
            for name, shape in zip(_NAMES, shapes, strict=True):
                self.register_buffer(f"{name}_{i}", torch.zeros(shape))

    @property
    def moments(self) -> Moments:
        return Moments(*(tuple(self._buffers[f"{name}_{i}"] for i in range(self.n)) for name in _NAMES))  # pyright: ignore

    def toward(self, moments: Moments, share: float) -> Moments:
        """With those of a minibatch, as a function of these."""
        return self.moments.toward(moments, share)

    @torch.no_grad()
    def keep(self, moments: Moments) -> None:
        for name, values in zip(_NAMES, vars(moments).values(), strict=True):
            for i, value in enumerate(values):
                self._buffers[f"{name}_{i}"].copy_(value)  # pyright: ignore[reportOptionalMemberAccess]


_NAMES = tuple(field.name for field in fields(Moments))
