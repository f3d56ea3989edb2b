"""The networks of `predict_perturbation`: scGen, and models of counts that decode a cell under another condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from jaxtyping import Float

from scduet.api import Model, fit
from scduet.errors import DataError, OptionError, some
from scduet.events import Listener
from scduet.tasks.perturbation.arithmetic import decoded, predict_by_arithmetic
from scduet.tasks.perturbation.interface import CONTROL
from scduet.tasks.posterior.sampling import posterior_predictive_sample

N_SAMPLES = 20  # draws of each cell, whose log-normalized values are averaged
Expression = Float[np.ndarray, "cell gene"]


@dataclass(frozen=True)
class Arithmetic:
    """A scGen, and the cells that tell the shift of a perturbation."""

    model: Model
    cells: AnnData
    weights: str = "equal"

    def predict_perturbed(self, control: AnnData, context: str, perturbation: str) -> Expression:
        """The control cells shifted by the mean difference, in other contexts, between perturbed and control cells."""
        if perturbation == CONTROL:
            return decoded(self.model, self.model.embed(control))
        keys = "perturbation", CONTROL, perturbation, "context"
        return predict_by_arithmetic(self.model, self.cells, control, *keys, weights=self.weights, clip=False)[0]


@dataclass(frozen=True)
class Conditional:
    """A model of counts whose batches are the perturbations."""

    model: Model

    def predict_perturbed(self, control: AnnData, context: str, perturbation: str) -> Expression:
        """Mean log-normalized values of counts drawn for the control cells, decoded as perturbed ones."""
        known = self.model.schema.levels["perturbation"]
        if perturbation not in known:
            raise DataError(f"no cell with {perturbation!r} was trained on", f"the model knows {some(known, 9)}")
        options = {"n_samples": N_SAMPLES, "transform_batch": perturbation}
        drawn = posterior_predictive_sample(self.model, control, **options)
        factor = _scale(control)[:, None]
        logged = np.stack([np.log1p(factor * counts.toarray()) for counts in drawn])
        return logged.mean(0, dtype=np.float32)


def train_scgen(
    cells: AnnData, *, seed: int, callback: Listener | None, weights: str = "equal", **options: Any
) -> Arithmetic:
    """A scGen of the cells. weights: of contexts, see `scduet.shift`; options: of `fit`."""
    own = {"layer": "lognormal", "genes": tuple(cells.var_names), "seed": seed}
    return Arithmetic(fit(cells, "scgen", callback=callback, **{**own, **options}), cells, weights)


def train_trvae(cells: AnnData, *, seed: int, callback: Listener | None, **options: Any) -> Conditional:
    """A trVAE with the perturbation as its condition; options: of `fit`."""
    return _conditional("trvae", cells, seed, callback, options)


def train_cvae(cells: AnnData, *, seed: int, callback: Listener | None, **options: Any) -> Conditional:
    """A conditional VAE: a scVI with the perturbation as its batch; options: of `fit`."""
    return _conditional("scvi", cells, seed, callback, {"gene_likelihood": "nb", **options})


def _conditional(
    name: str, cells: AnnData, seed: int, callback: Listener | None, options: dict[str, Any]
) -> Conditional:
    if not cells.uns["counts"]:
        raise DataError(f"{name!r} is a model of counts, and X holds none", "pass layer= with counts, or use 'scgen'")
    if cells.obs["perturbation"].nunique() < 2:
        raise OptionError(f"{name!r} needs control and perturbed cells", "hold out fewer of them")
    several = cells.obs["batch"].nunique() > 1
    own = {"batch_key": "perturbation", "categorical_covariate_keys": ("batch",) if several else ()}
    own |= {"genes": tuple(cells.var_names), "seed": seed}
    return Conditional(fit(cells, name, callback=callback, **{**own, **options}))


def _scale(cells: AnnData) -> Float[np.ndarray, " cell"]:
    """What multiplies the counts of each cell to 10,000 per cell, over the genes that the total was taken of."""
    counts = np.asarray(cells.X.sum(1), np.float64).ravel()
    scaled = np.asarray(cells.layers["lognormal"].expm1().sum(1), np.float64).ravel()
    return (scaled / np.maximum(counts, 1)).astype(np.float32)
