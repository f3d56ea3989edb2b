"""The dynamical model: a curve for each gene, and on it a time for each cell (Bergen et al. 2020, Nat Biotechnol).

    u, s at time t of the gene ~ Normal(curve(t), sd²)      see `curves`

Expectation and maximization take turns: cells get the time at which they are nearest to the curve, means over their
neighbors; rates, switch and scaling are moved by a few steps of downhill simplex, each tried with new times. Start,
order of the steps and their number are scVelo's, as few steps from a good start are part of the method: more steps fit
better and end elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Int
from scipy.optimize import minimize
from scipy.stats import gaussian_kde, norm

from scduet.tasks.velocity.curves import OFF, ON, T_MAX, Cells, Curve, Gene, Times, elapsed

FEWEST = 3  # cells with both kinds of a gene
FAR = 1e-6  # likelihood below which a cell is not on the curve, and stands still
LEAST_LIKELIHOOD, LEAST_TIMED = 1e-3, 0.1  # of genes worth a velocity, and of those that time a cell
SIMPLEX = {"method": "Nelder-Mead", "options": {"maxiter": 2}}
BINS = 30  # of the density that tells whether a gene has two states


@dataclass(frozen=True)
class Fitted:
    """The curve of a gene, and what follows from it for each cell."""

    gene: Gene
    curve: Curve
    likelihood: float
    time: Cells  # 0 to about 20, a mean over the neighbors of a cell
    velocity: Cells  # ds/dt, no faster down than a cell has of the gene
    s: Cells  # expected at that time
    u: Cells


def fit_gene(u: Cells, s: Cells, average: sp.csr_matrix) -> Fitted | None:
    """Fit the moments of a gene; None where hardly any cell has both kinds. average: see `averaging`."""
    u, s = u.astype(np.float64), s.astype(np.float64)
    used = _used(u, s)
    if used.sum() < FEWEST:
        return None
    search = _Search(u, s, used, average)
    search.run()
    curve, gene = search.curve, search.gene
    up, down = gene.elapsed(curve, nearest=True)
    time = average @ search.times.t
    unit = T_MAX / _span(time, curve.switch)
    at, moves = _smoothed_times(gene, curve, up, down)
    u_at, s_at = curve.at(at)
    velocity = np.where(moves, curve.beta * u_at - curve.gamma * s_at, 0) / unit
    scaled = Curve(curve.alpha / unit, curve.beta / unit, curve.gamma / unit, curve.switch * unit, curve.scaling)
    u_fit, s_fit = curve.at(time)
    velocity = np.maximum(velocity, -s)
    return Fitted(gene, scaled, search.likelihood(), time * unit, velocity, s_fit, u_fit * curve.scaling)


def worth_a_velocity(fits: Mapping[int, Fitted | None]) -> Int[np.ndarray, " gene"]:
    """Places of the genes that have a likelihood, and a scaling of unspliced counts like others."""
    scaling = {gene: fit.curve.scaling for gene, fit in fits.items() if fit and fit.likelihood > LEAST_LIKELIHOOD}
    if not scaling:
        return np.zeros(0, int)
    low, high = np.percentile([fit.curve.scaling for fit in fits.values() if fit], [10, 90])
    low, high = min(low, 0.03), max(high, 3)
    return np.array([gene for gene, value in scaling.items() if low < value < high], int)


def timed(fits: Sequence[Fitted]) -> Sequence[Fitted]:
    """The genes that fit well enough to tell the time of a cell; all if none does."""
    return [fit for fit in fits if fit.likelihood >= LEAST_TIMED] or fits


class _Search:
    """The best curve of a gene so far, and the steps to a better one."""

    def __init__(self, u: Cells, s: Cells, used: Bool[np.ndarray, " cell"], average: sp.csr_matrix):
        sd_u, sd_s = (float(values[used].std()) for values in (u, s))
        if sd_u == 0 or sd_s == 0:
            sd_u = sd_s = 1.0
        self.gene, self.used = Gene(u, s, sd_u, sd_s, average), used
        self.nearest = False
        self.steady_ratio: float | None = None  # gamma / beta at the start, from which curves may not go far
        self.curve = _start(u, s, used, sd_u / sd_s)
        self.times = self.gene.times(self.curve, False)
        self.loss = self.error(self.curve, self.times) * used.sum()
        for sight in (0.5, 0.1):
            for scaling in self.curve.scaling * (1 + np.linspace(-1, 1, 4) * sight):
                self.propose(beta=self.curve.beta / self.curve.scaling * scaling, scaling=scaling)
        self.steady_ratio = self.curve.gamma / self.curve.beta

    def run(self) -> None:
        for alpha in self.curve.alpha * (1 + np.linspace(-1, 1, 5) / 10):
            self.propose(alpha=alpha)
        self.descend("switch", "alpha")
        self.descend("switch", "beta", "scaling")
        self.descend("alpha", "gamma", tol=1e-2)
        self.descend("switch")
        self.descend("switch", "alpha", "beta", "gamma", tol=1e-2)
        self.nearest = True
        self.propose(move_switch=False)
        self.descend("switch", "alpha", "beta", "gamma", tol=1e-2, times=self.times)
        self.propose()

    def descend(self, *names: str, tol: float | None = None, times: Times | None = None) -> None:
        """A few steps of downhill simplex in these parameters; with new times at each, unless they are given."""

        def error(values: np.ndarray) -> float:
            curve = replace(self.curve, **dict(zip(names, values, strict=True)))
            return self.error(curve, times or self.gene.times(curve, self.nearest))

        found = minimize(error, [getattr(self.curve, name) for name in names], tol=tol, **SIMPLEX)
        self.propose(**dict(zip(names, found.x, strict=True)))

    def propose(self, move_switch: bool = True, **values: float) -> None:
        """Take a curve if it is better. The switch may then move to the latest of the cells before it."""
        curve, times, loss = self._tried(replace(self.curve, **values))
        better, before = loss < self.loss, self.times.on
        if move_switch and before.any():
            if not better:
                curve, times, loss = self._tried(self.curve)
            last = times.t[before].max()
            if 0 < last < curve.switch:
                last += times.t.max() * (times.t == curve.switch).mean()
                other, other_times, other_loss = self._tried(replace(curve, switch=last))
                as_high = curve.peak()[0] * 0.99 < other.peak()[0]
                if other_loss * 0.99 <= min(loss, self.loss) or as_high:
                    curve, times, loss, better = other, other_times, other_loss, True
        if better:
            self.curve, self.times, self.loss = curve, times, loss

    def _tried(self, curve: Curve) -> tuple[Curve, Times, float]:
        times = self.gene.times(curve, self.nearest)
        return curve, times, self.error(curve, times) * self.used.sum()

    def error(self, curve: Curve, times: Times) -> float:
        """Mean squared distance of the cells used, in standard deviations."""
        distance, _ = self._distances(curve, times)
        return float(distance[self.used].mean())

    def likelihood(self) -> float:
        """Of the cells with much of the gene: what remains by chance of the distances at their own spread."""
        u, s, used = self.gene.u, self.gene.s, self.used
        upper = used & (u > u[used].max() / 3) & (s > s[used].max() / 3)
        distance, sign = (values[upper] for values in self._distances(self.curve, self.times))
        if not len(distance):
            return 0.0
        spread = distance.mean() - (sign * np.sqrt(distance)).mean() ** 2 or 1.0
        n = max(len(distance) - 0.01 * len(u), 2)
        return float(np.exp(-0.5 / n * distance.sum() / spread) / np.sqrt(2 * np.pi * spread))

    def _distances(self, curve: Curve, times: Times) -> tuple[Cells, Cells]:
        """Squared distances from the curve, and whether a cell has less than expected."""
        u, s = self.gene.gaps(curve, curve.at(times.t))
        far = 0.0 if self.steady_ratio is None else curve.gamma / curve.beta - self.steady_ratio
        return u * u + s * s + (far * self.gene.s / self.gene.sd_s) ** 2, np.sign(s)


def _used(u: Cells, s: Cells) -> Bool[np.ndarray, " cell"]:
    """Cells with both kinds, without the few with most."""
    used = (u > 0) & (s > 0)
    if used.sum() >= FEWEST:
        used &= (u <= np.percentile(u[used], 99)) & (s <= np.percentile(s[used], 99))
    return used


def _start(u: Cells, s: Cells, used: Bool[np.ndarray, " cell"], scaling: float) -> Curve:
    """A curve through the cells with most of both, or through a second mode of the cells."""
    u, s = u[used] / scaling, s[used]
    top_u, top_s = u >= np.percentile(u, 98), s >= np.percentile(s, 98)
    gamma = (u[top_s] * s[top_s]).sum() / (s[top_s] ** 2).sum() + 1e-6
    if gamma < 0.05 / scaling:
        gamma *= 1.2
    elif gamma > 1.5 / scaling:
        gamma /= 1.2
    u_end, s_end = u[top_u | top_s].mean(), s[top_s].mean()
    alpha, beta = u_end, 1.0
    (u_p, u_mode), (s_p, _) = _second_mode(u), _second_mode(s)
    if max(u_p, s_p) < 1e-3:
        u_end = (u_end + u_mode) / 2
        alpha = gamma * s_end
        beta = alpha / u_end
    return Curve(alpha, beta, gamma, elapsed((u_end, s_end), (0.0, 0.0), alpha, beta, gamma), scaling)


def _second_mode(x: Cells) -> tuple[float, float]:
    """Where the density of `x` has a mode above its middle, and the p value of its being one."""
    low, high = x.min(), np.percentile(x, 99.9)
    grid = np.linspace(low, high if high <= low else x.max(), BINS)
    try:
        density = gaussian_kde(x)(grid)
    except (ValueError, np.linalg.LinAlgError):  # all cells alike
        return 1.0, 0.0
    middle = BINS // 2 - 2
    middle += int(density[middle : middle + 4].argmin())
    upper, values = density[middle:], grid[middle:]
    peak = int(upper.argmax())
    statistic = (upper[peak] - upper.mean()) / max(density.std() / np.sqrt(BINS), 1)
    return float(norm.sf(statistic)), (values[peak] + values[min(peak + 1, len(values) - 1)]) / 2


def _span(time: Cells, switch: float) -> float:
    """Time on both sides of the switch, as if no cell stood still."""
    span = (time * (time < switch)).max() + ((time - switch) * (time > switch)).max()
    moving = 1 - ((time == switch) | (time == 0)).mean()
    return span / (moving or 1) or 1.0


def _smoothed_times(gene: Gene, curve: Curve, up: Cells, down: Cells) -> tuple[Cells, Bool[np.ndarray, " cell"]]:
    """The likeliest time of each cell, a mean over its neighbors, and whether it is on the move."""
    gaps = [gene.gaps(curve, place) for place in (curve.falling(down), curve.rising(up))]
    alone = np.array([u * u + s * s for u, s in gaps])
    state = alone.argmin(0)
    distance, sign = alone.min(0), np.sign(np.choose(state, [s for _, s in gaps]))
    spread = distance.mean() - (sign * np.sqrt(distance)).mean() ** 2
    distances = gene.distances(curve, up, down)
    nearest = np.argmin(distances, 0)
    likelihood = np.exp(-0.5 * distances.min(0) / spread) / (2 * np.pi * np.sqrt(spread))
    nearest[likelihood < FAR] = len(distances)
    time = np.where(nearest == ON, up, 0) + np.where(nearest == OFF, down + curve.switch, 0)
    return gene.average @ time, nearest <= ON
