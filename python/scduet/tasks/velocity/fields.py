"""Velocities of cells, whatever the model: by regression, by curves of single genes, or by veloVI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scduet.api import Model, fit
from scduet.errors import DataError, some
from scduet.events import Listener, counted
from scduet.models.velocity.kinetics import T_MAX
from scduet.tasks.posterior.latent import seeded
from scduet.tasks.velocity import draws
from scduet.tasks.velocity.dynamical import Fitted, fit_gene, timed, worth_a_velocity
from scduet.tasks.velocity.moments import Dense
from scduet.tasks.velocity.prepare import Moments, scaled_genes
from scduet.tasks.velocity.steady_state import Genes, steady_state, stochastic
from scduet.train.progress import default_listener

FIT_DRAWS = 10  # that expected values are means over
NO_DIRECTION = "unspliced counts do not rise with spliced ones: these data support no velocity"


@dataclass(frozen=True)
class Field:
    """A velocity of each cell, over the genes that have one."""

    x: Dense  # where cells are, in the units of `velocity`
    velocity: Dense
    genes: np.ndarray  # places of these genes among those of the moments
    gamma: Genes  # slope of unspliced on spliced moments in the steady state
    r2: Genes
    permutation: pd.DataFrame  # (gene, type): see `permutation_score`
    root: bool = False  # whether the graph takes signed square roots
    units: Genes | float = 1.0  # velocity * units is in units of the spliced moments
    model: Model | None = None
    time: Dense | None = None  # of the genes that tell the time of a cell
    fit: tuple[Dense, Dense] | None = None  # expected spliced and unspliced moments
    uncertainty: pd.DataFrame | None = None


def by_regression(found: Moments, name: str, labels: np.ndarray, seed: int) -> Field:
    """The steady-state or the stochastic model."""
    ms, mu = found.ms, found.mu
    fitted = steady_state(ms, mu) if name == "steady_state" else stochastic(found.s, found.u, found.average, ms, mu)
    genes = np.flatnonzero(fitted.genes)
    if not len(genes):
        raise DataError("no gene has a steady state", NO_DIRECTION)
    x, velocity, gamma = ms[:, genes], fitted.velocity[:, genes], fitted.gamma[genes]
    draw = np.random.default_rng(seed)
    s, u = (draws.shuffled(values[:, genes], labels, draw) for values in (ms, mu))
    scores, types = draws.permutation_score(np.abs(velocity), np.abs(u - gamma.astype(u.dtype) * s), labels)
    table = pd.DataFrame(scores, index=[found.genes[i] for i in genes], columns=types)
    return Field(x, velocity, genes, gamma, fitted.r2[genes], table, root=name == "stochastic")


def by_dynamics(found: Moments, labels: np.ndarray, seed: int, callback: Listener | None) -> Field:
    """The dynamical model, of genes whose unspliced counts rise with the spliced ones."""
    steady = steady_state(found.ms, found.mu, by_all=True)
    fits = _curves(found, np.flatnonzero(steady.genes), callback or default_listener())
    genes = worth_a_velocity(fits)
    if not len(genes):
        raise DataError("no gene has a curve of induction and repression", NO_DIRECTION)
    fitted = [fit for fit in (fits[gene] for gene in genes) if fit is not None]  # all of them have one
    draw = np.random.default_rng(seed)
    s, u = (draws.shuffled(values[:, genes], labels, draw) for values in (found.ms, found.mu))
    real = np.stack([fit.gene.error(fit.curve) for fit in fitted], 1)
    other = [replace(fit.gene, s=s[:, i], u=u[:, i]).error(fit.curve) for i, fit in enumerate(fitted)]
    scores, types = draws.permutation_score(real, np.stack(other, 1), labels)
    return Field(
        found.ms[:, genes],
        np.stack([fit.velocity for fit in fitted], 1).astype(np.float32),
        genes,
        np.array([fit.curve.scaling * fit.curve.gamma / fit.curve.beta for fit in fitted]),
        steady.r2[genes],
        pd.DataFrame(scores, index=[found.genes[i] for i in genes], columns=types),
        time=np.stack([fit.time for fit in timed(fitted)], 1),
        fit=(np.stack([fit.s for fit in fitted], 1), np.stack([fit.u for fit in fitted], 1)),
    )


def _curves(found: Moments, genes: np.ndarray, listener: Listener) -> dict[int, Fitted | None]:
    """The curve of each of the genes. `listener` is told how many are done."""
    tell, fits = counted(listener, "curves", "gene"), {}
    try:
        for gene in genes:
            fits[gene] = fit_gene(found.mu[:, gene], found.ms[:, gene], found.average)
            if tell is not None:
                tell(len(fits), len(genes), 0.0)
    finally:
        getattr(listener, "close", lambda: None)()
    return fits


def by_velovi(
    found: Moments,
    model: str | Model,
    labels: np.ndarray,
    n_samples: int,
    seed: int,
    callback: Listener | None,
    options: Mapping[str, Any],
) -> Field:
    """A veloVI of the scaled moments, trained unless one is given. Times are scaled by gene, as its authors do."""
    keep, ms, mu, span = scaled_genes(found)
    if isinstance(model, Model):
        genes = pd.Index(found.genes).get_indexer(pd.Index(model.genes))
        if (genes < 0).any():
            lacking = some(np.array(model.genes)[genes < 0])
            raise DataError(f"genes of the model are not among those with counts: {lacking}", "train a new one")
    else:
        genes = np.flatnonzero(keep)
    layers = {"Ms": ms[:, genes], "Mu": mu[:, genes]}
    names = [found.genes[i] for i in genes]
    cells = AnnData(var=pd.DataFrame(index=names), obs=pd.DataFrame(index=found.cells), layers=layers)
    if not isinstance(model, Model):
        model = fit(cells, "velovi", seed=seed, callback=callback, **options)
    encoded = model.encode(cells)
    with seeded(seed):
        time = draws.mean_of(model, encoded, draws.times, n_samples)
        velocity = draws.mean_of(model, encoded, draws.velocities, n_samples) * (time.max(0) / T_MAX)
        expected = draws.mean_of(model, encoded, draws.fits, FIT_DRAWS)
    scores, types = draws.shuffled_fit(model, encoded, labels, FIT_DRAWS, seed)
    fitted = steady_state(found.ms[:, genes], found.mu[:, genes])
    return Field(
        layers["Ms"],
        velocity,
        genes,
        fitted.gamma,
        fitted.r2,
        pd.DataFrame(scores, index=names, columns=types),
        units=span[genes],
        model=model,
        time=time,
        fit=_unscaled(expected, found, genes),
        uncertainty=draws.velocity_uncertainty(model, encoded, n_samples, seed),
    )


def _unscaled(expected: Dense, found: Moments, genes: np.ndarray) -> tuple[Dense, Dense]:
    """Expected spliced and unspliced moments, from values beside each other that were scaled to 0 to 1."""
    made = []
    for values, part in zip(np.split(expected, 2, axis=1), (found.ms, found.mu), strict=True):
        low = part[:, genes].min(0)
        made.append(low + values * (part[:, genes].max(0) - low))
    return made[0], made[1]
