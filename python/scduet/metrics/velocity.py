"""RNA velocity: consistency between neighbors, direction across cell-type boundaries, fit against shuffled cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from scduet.metrics.core.inputs import Undefined, codes, points
from scduet.metrics.core.neighbors import Neighbors, nearest_neighbors


def velocity_confidence(
    velocity: ArrayLike, x: ArrayLike | None = None, n_neighbors: int = 30, neighbors: Neighbors | None = None
) -> float:
    """Mean over cells of the mean Pearson correlation of a cell's velocity with those of its nearest neighbors.

    Range [-1, 1], higher is better. Consistent does not mean correct: a constant field scores 1. `velocity`: (cell,
    gene); `x`: the space to look for neighbors in. A cell with a constant velocity counts 0. Source: scVelo (Bergen et
    al. 2020).
    """
    if neighbors is None:
        if x is None:
            raise ValueError("give x, the space to look for neighbors in, or neighbors")
        neighbors = nearest_neighbors(points(x), n_neighbors)
    return float(coherence(points(velocity, "velocity"), neighbors.first(n_neighbors)).mean())


def coherence(velocity: Float[np.ndarray, "cell gene"], neighbors: Neighbors) -> Float[np.ndarray, " query"]:
    """Of each cell, what `velocity_confidence` is the mean of."""
    unit = _unit(velocity - velocity.mean(1, keepdims=True))
    return np.array([_mean_product(unit, q, near) for q, near in _rows(neighbors)])


def cross_boundary_direction(
    velocity: ArrayLike,
    x: ArrayLike,
    labels: ArrayLike,
    transitions: Sequence[tuple[object, object]],
    n_neighbors: int = 30,
    neighbors: Neighbors | None = None,
) -> float:
    """Cosine between the velocity of cells of type a and the direction to neighbors of type b, for known a to b.

    Mean over the neighbors, over the cells that have some, then over transitions. Range [-1, 1], higher is better.
    `velocity` and `x`: the same space (cell, dim). Source: CBDir, VeloAE (Qiao and Huang 2021).

    Raises:
        Undefined: no cell of a transition has a neighbor across.
        ValueError: a label of `transitions` that no cell has, or velocity and x of different shape.
    """
    velocity, x = points(velocity, "velocity"), points(x, "x")
    names = np.asarray(labels).astype(str)
    if velocity.shape != x.shape or len(codes(labels)) != len(x):
        raise ValueError(
            f"velocity {velocity.shape}, x {x.shape} and {len(names)} labels must have the same cells and space"
        )
    absent = {str(name) for pair in transitions for name in pair} - set(names)
    if absent:
        raise ValueError(f"transitions name {sorted(absent)}, which no cell has")
    neighbors = (neighbors or nearest_neighbors(x, n_neighbors)).first(n_neighbors)
    scores = [_across(velocity, x, names == str(a), names == str(b), neighbors) for a, b in transitions]
    scores = [score for score in scores if score is not None]
    if not scores:
        raise Undefined("no cell has a neighbor across any of the transitions")
    return float(np.mean(scores))


def permutation_score(
    errors: Float[np.ndarray, "cell gene"],
    shuffled: Float[np.ndarray, "cell gene"],
    labels: ArrayLike,
    max_cells: int = 200,
) -> tuple[Float[np.ndarray, "gene label"], list[str]]:
    """How much better a model fits real cells than cells whose values were shuffled, by gene and cell type.

    errors, shuffled: absolute errors of the fit. The t statistic (of equal variances) of shuffled against real, over
    the first `max_cells` of a type; near 0: within this type there is nothing but noise to fit. NaN for types of fewer
    than 3 cells. Returns it with the names of the types, sorted. Source: veloVI (Gayoso, Weiler et al. 2024).
    """
    names = np.asarray(labels).astype(str)
    types, found = sorted(set(names)), []
    for name in types:
        rows = np.flatnonzero(names == name)[:max_cells]
        real, other, n = errors[rows], shuffled[rows], len(rows)
        if n < 3:
            found.append(np.full(errors.shape[1], np.nan))
            continue
        spread = np.sqrt((real.var(0, ddof=1) + other.var(0, ddof=1)) / n)
        gap = other.mean(0) - real.mean(0)
        found.append(np.divide(gap, spread, out=np.zeros_like(gap), where=spread > 0))
    return np.stack(found, 1), types


def directional_cosines(
    draws: Float[np.ndarray, "draw cell gene"],
) -> Float[np.ndarray, "draw cell"]:
    """Cosine of each draw of a cell's velocity with the mean over draws, over centered genes. Source: veloVI."""
    mean = draws.mean(0)
    unit = _unit(mean - mean.mean(1, keepdims=True))
    return np.stack([(_unit(one - one.mean(1, keepdims=True)) * unit).sum(1) for one in draws]).clip(-1, 1)


def _across(
    velocity: np.ndarray, x: np.ndarray, start: np.ndarray, end: np.ndarray, neighbors: Neighbors
) -> float | None:
    unit, cells = _unit(velocity), []
    for q, near in _rows(neighbors):
        near = near[end[near]] if start[q] else near[:0]
        if len(near):
            cells.append(float((_unit(x[near] - x[q]) @ unit[q]).mean()))
    return float(np.mean(cells)) if cells else None


def _mean_product(unit: Float[np.ndarray, "cell gene"], query: int, near: np.ndarray) -> float:
    return float((unit[near] @ unit[query]).mean()) if len(near) else 0.0


def _rows(neighbors: Neighbors):
    for query, near in zip(neighbors.queries, neighbors.index, strict=True):
        yield query, near[near >= 0]


def _unit(x: Float[np.ndarray, "cell dim"]) -> Float[np.ndarray, "cell dim"]:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1)
