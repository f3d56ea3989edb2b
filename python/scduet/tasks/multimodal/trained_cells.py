"""The cells that a model was trained on, and which of them were held out."""

from __future__ import annotations

import warnings

import numpy as np

from scduet.api import Model
from scduet.data.samplers import split
from scduet.data.sources import Cells
from scduet.errors import DataError, ScduetWarning

FEWEST = 10  # cells to judge by, and to learn from


def encoded(model: Model, adata) -> Cells:
    """The cells as the model reads them, without a warning where they lack a modality."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScduetWarning)
        return model.encode(adata)


def trained_cells(model: Model, reference=None) -> Cells:
    """The cells trained on. Raises DataError where these are not known, or `reference` is not them."""
    if reference is None and model.cells is None:
        raise DataError(
            "this model was loaded and has no cells of its own", "pass reference=, the cells it was trained on"
        )
    cells = model.encode() if reference is None else encoded(model, reference)
    if len(cells) != model.reference.n_cells:
        text = f"the reference has {len(cells)} cells, and the model was trained on {model.reference.n_cells}"
        raise DataError(text, "pass reference= with the cells it was trained on, in their order")
    return cells


def rows_of_training(model: Model, measured: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Of the rows `measured`, those trained on and those held out. Raises DataError where either are too few."""
    training, outcome = model.training, model.outcome
    rows = split(model.reference.n_cells, training.train_size or 1.0, training.seed)
    if outcome.train_rows is not None and outcome.held_out is not None:
        rows = np.array(outcome.train_rows), np.array(outcome.held_out)
    shown, held_out = (np.intersect1d(part, measured) for part in rows)
    if min(len(shown), len(held_out)) < FEWEST:
        text = f"{len(shown)} cells with {what} were trained on, and {len(held_out)} held out to judge by"
        raise DataError(text, f"both must be {FEWEST} or more: see train_size=")
    return shown, held_out
