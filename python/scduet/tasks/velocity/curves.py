"""The curve of one gene that is switched on and off again, and the times at which cells are nearest to it.

    du/dt = alpha - beta u,  ds/dt = beta u - gamma s       from u = s = 0; alpha = 0 after the switch

The rules by which cells get their times are those of scVelo (Bergen et al. 2020, Nat Biotechnol 38:1408).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree

Cells = Float[np.ndarray, " cell"]
Pair = tuple[Any, Any]  # unspliced and spliced values: of cells, or of one point of a curve
OFF, ON, NOT_YET, FULLY_ON = range(4)  # states of a cell in a gene, in the order of `distances`
T_MAX = 20.0  # time that cells span in a gene; the unit of its rates follows
TINY = 1e-6  # a point never gets nearer than this to the end of a curve
JUMP = 3.0  # times the 99.5th percentile of the steps between cells: longer steps are cut out
FEWEST_POINTS, MOST_POINTS = 200, 500  # of a curve, where cells get the time of the nearest point


@dataclass(frozen=True)
class Curve:
    """Rates of a gene, the time of its switch; u is in units of unspliced counts / scaling. Values may be arrays."""

    alpha: Any
    beta: Any
    gamma: Any
    switch: Any
    scaling: Any

    def peak(self) -> Pair:
        """u and s at the switch."""
        return self.rising(self.switch)

    def rising(self, t: Any) -> Pair:
        return _solution(t, 0.0, 0.0, self.alpha, self.beta, self.gamma)

    def falling(self, t: Any) -> Pair:
        """u and s a time `t` after the switch."""
        return _solution(t, *self.peak(), 0.0, self.beta, self.gamma)

    def at(self, t: Any) -> Pair:
        """u and s at a time since the gene was switched on."""
        before = t < self.switch
        up, down = self.rising(np.minimum(t, self.switch)), self.falling(np.maximum(t - self.switch, 0))
        return np.where(before, up[0], down[0]), np.where(before, up[1], down[1])


@dataclass(frozen=True)
class Times:
    """Time of each cell in a gene, and whether transcription is taken to be on (not yet on included)."""

    t: Cells
    on: Bool[np.ndarray, " cell"]


@dataclass(frozen=True)
class Gene:
    """Moments of a gene, what they are divided by to compare unspliced with spliced, and who are neighbors."""

    u: Cells
    s: Cells
    sd_u: float
    sd_s: float
    average: sp.csr_matrix

    def times(self, curve: Curve, nearest: bool) -> Times:
        """When cells are where they are. nearest: the nearest point's time where the inverse is of u alone."""
        up, down = self.elapsed(curve, nearest)
        state = np.argmin(self.distances(curve, up, down), 0)
        t = np.choose(state, [curve.switch + down, up, 0.0, curve.switch])  # type: ignore[arg-type]
        return Times(t, (state == ON) | (state == NOT_YET))

    def elapsed(self, curve: Curve, nearest: bool) -> tuple[Cells, Cells]:
        """Times on the rising curve, and since the switch on the falling one, of all cells, without long jumps."""
        up, down = (self._nearest if nearest and curve.beta < curve.gamma else self._inverse)(curve)
        on = np.argmin(self.smooth([self._gap(curve, curve.falling(down)), self._gap(curve, curve.rising(up))]), 0) == 1
        return _without_jumps(up, down, on)

    def distances(self, curve: Curve, up: Cells, down: Cells) -> Float[np.ndarray, "state cell"]:
        """Squared distances to the curve in each state, means over the neighbors of a cell."""
        full = curve.alpha / curve.beta, curve.alpha / curve.gamma
        places = curve.falling(down), curve.rising(up), (0.0, 0.0), full
        return self.smooth([self._gap(curve, place) for place in places])

    def error(self, curve: Curve) -> Cells:
        """Distance of each cell, by itself, from the curve, in standard deviations."""
        alone = replace(self, average=sp.identity(len(self.u), format="csr"))
        return np.sqrt(alone.distances(curve, *alone.elapsed(curve, nearest=True)).min(0))

    def smooth(self, values: list[Cells]) -> Float[np.ndarray, "state cell"]:
        return (self.average @ np.stack(values, 1)).T

    def gaps(self, curve: Curve, place: Pair) -> Pair:
        """Distances of u and s from a place, in standard deviations."""
        return (place[0] - self.u / curve.scaling) * curve.scaling / self.sd_u, (place[1] - self.s) / self.sd_s

    def _gap(self, curve: Curve, place: Pair) -> Cells:
        u, s = self.gaps(curve, place)
        return u * u + s * s

    def _inverse(self, curve: Curve) -> tuple[Cells, Cells]:
        here = self.u / curve.scaling, self.s
        up = elapsed(here, (0.0, 0.0), curve.alpha, curve.beta, curve.gamma).clip(0, curve.switch)
        down = elapsed(here, curve.peak(), 0.0, curve.beta, curve.gamma)
        return up, down.clip(0, down[self.s > 0].max())

    def _nearest(self, curve: Curve) -> tuple[Cells, Cells]:
        u = self.u / curve.scaling
        end = _log_share(u[self.s > 0].min() / curve.peak()[0]) / -curve.beta
        n = int(np.clip(len(u) // 5, FEWEST_POINTS, MOST_POINTS))
        up, down = np.linspace(0, curve.switch, n), np.linspace(0, end, n)[1:]
        here = np.stack([u, self.s], 1)
        places = (np.stack(curve.rising(up), 1), up), (np.stack(curve.falling(down), 1), down)
        rising, falling = (t[cKDTree(points).query(here)[1]] for points, t in places)
        return rising, falling


def elapsed(here: Pair, start: Pair, alpha: float, beta: float, gamma: float) -> Any:
    """Time from `start` to `here`: of u where it is the slower part, else of a sum of both that decays alone."""
    (u, s), (u0, s0) = here, start
    if gamma >= beta:
        end = alpha / beta
        return _log_share((u - end) / (u0 - end)) / -beta
    share = beta / (gamma - beta)
    end = alpha / gamma - share * alpha / beta
    return _log_share((s - share * u - end) / (s0 - share * u0 - end)) / -gamma


def _solution(t: Any, u0: Any, s0: Any, alpha: Any, beta: Any, gamma: Any) -> Pair:
    eu, es = np.exp(-beta * t), np.exp(-gamma * t)
    gap = gamma - beta
    share = (alpha - u0 * beta) * np.divide(1.0, gap, out=np.zeros_like(gap), where=gap != 0)
    return u0 * eu + alpha / beta * (1 - eu), s0 * es + alpha / gamma * (1 - es) + share * (es - eu)


def _log_share(share: Any) -> Any:
    return np.log(np.clip(share, TINY, 1 - TINY))


def _without_jumps(up: Cells, down: Cells, on: Bool[np.ndarray, " cell"]) -> tuple[Cells, Cells]:
    parts = [(values, rows) for values, rows in ((up, on), (down, ~on)) if rows.any()]
    steps = [np.diff(np.sort(values[rows]), prepend=0) for values, rows in parts]
    longest = JUMP * np.percentile(np.concatenate(steps), 99.5)
    for (values, rows), step in zip(parts, steps, strict=True):
        if (step > longest).any():
            ordered = np.sort(values[rows])
            before = np.cumsum(np.where(step > longest, step, 0))
            values[rows] -= before[np.searchsorted(ordered, values[rows], "right") - 1]
    return up, down
