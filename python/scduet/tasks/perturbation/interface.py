"""What a trained model must do to take part in `predict_perturbation`, and the table of those that do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float

from scduet.errors import OptionError
from scduet.events import Listener

CONTROL = "control"  # in obs["perturbation"], whatever the user calls it


class PredictsPerturbed(Protocol):
    """The result of a function of `MODELS`: a model trained on control and perturbed cells."""

    def predict_perturbed(self, control: AnnData, context: str, perturbation: str) -> Float[np.ndarray, "cell gene"]:
        """Log-normalized expression (see `Trains`) of each control cell, had it been perturbed.

        control: control cells of the context, in the layout of the training cells. perturbation: a level of
        obs["perturbation"]; "control" for the reconstruction of the cells, which is subtracted: the task predicts
        control + (prediction - reconstruction), so that each cell keeps what is its own. Raises DataError for a
        context or perturbation that the model cannot predict.
        """
        ...


class Trains(Protocol):
    """A function of `MODELS`, called with named arguments."""

    def __call__(self, cells: AnnData, *, seed: int, callback: Listener | None, **options: Any) -> PredictsPerturbed:
        """Train on `cells`, those that are held out already removed.

        cells: X holds what the user gave (counts or log-normalized values), layers["lognormal"] always log1p of the
        values scaled to 10,000 a cell (float32 CSR). obs["perturbation"]: "control", or the targets sorted and joined
        by "+" ("CEBPA+KLF1"). obs["context"]: the cell type or other context ("all" if there is none). obs["batch"]:
        the batch ("all" if there is none). uns["counts"]: whether X holds counts. options: what the user passed to
        `predict_perturbation` beyond its own arguments.
        """
        ...


MODELS: Mapping[str, str] = {  # name of model= -> "module:function", a `Trains`
    "scgen": "scduet.tasks.perturbation.networks:train_scgen",
    "trvae": "scduet.tasks.perturbation.networks:train_trvae",
    "cvae": "scduet.tasks.perturbation.networks:train_cvae",
    "scgpt": "scduet.tasks.foundation.predict_perturbed:train_scgpt",
    "scgpt, random weights": "scduet.tasks.foundation.predict_perturbed:train_random",
}
BESIDE: Mapping[str, tuple[str, ...]] = {"scgpt": ("scgpt, random weights",)}  # what enters the table with a model
OF_GENES = ("scgpt", "scgpt, random weights")  # predict perturbations of measured genes, and read `transformer`


def with_company(names: Iterable[Any]) -> list[str]:
    """Those of the names that are trained models, each followed by what enters the table with it."""
    known = [name for name in names if isinstance(name, str) and name in MODELS]
    return list(dict.fromkeys(each for name in known for each in (name, *BESIDE.get(name, ()))))


def can_flag(name: str, target: Iterable[str], genes: pd.Index) -> bool:
    """Whether the model can tell this perturbation from none."""
    return name not in OF_GENES or bool(genes.isin(list(target)).any())


def trainer(name: str) -> Trains:
    """The function that trains `name`."""
    if name not in MODELS:
        raise OptionError(f"no model {name!r} predicts perturbations", f"these do: {', '.join(MODELS) or 'none'}")
    module, _, function = MODELS[name].partition(":")
    return getattr(import_module(module), function)
