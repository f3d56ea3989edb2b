"""scvi-tools' SOLO over `scduet.tasks.posterior.solo`."""

from __future__ import annotations

from scduet._torch import torch

import warnings
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from scduet.errors import OptionError
from scduet.nn.random import own_random_numbers
from scduet.scvi.callbacks import listener
from scduet.scvi.model import SCVI
from scduet.scvi.registry import unavailable
from scduet.scvi.setup import seed
from scduet.scvi.training import chosen_rows, training_config
from scduet.tasks.posterior import solo

LABELS = "_solo_doub_sim"  # column of obs with what a row is, as there
KEEP = "write predict() to a file; a SOLO is trained in seconds"


class SOLO:
    """A network that tells the cells of a SCVI from artificial doublets; made by `from_scvi_model`."""

    def __init__(self, data: solo.SoloData, adata: ad.AnnData, classifier: dict[str, Any]):
        self.adata, self.is_trained_, self.history = adata, False, {}
        self._data = data
        with own_random_numbers(seed()):
            torch.manual_seed(seed())
            self.module = solo.SoloClassifier(data.features.shape[1], **classifier)

    @classmethod
    def from_scvi_model(
        cls,
        scvi_model: SCVI,
        adata: ad.AnnData | None = None,
        restrict_to_batch: str | None = None,
        doublet_ratio: int = solo.RATIO,
        **classifier_kwargs,
    ) -> SOLO:
        """Raises OptionError, which is a ValueError, for a model with covariates and for a batch that is not there."""
        unknown = set(classifier_kwargs) - {"n_hidden", "n_layers", "dropout_rate"}
        if unknown:
            raise OptionError(
                f"SOLO has no argument {min(unknown)!r} here", "it takes n_hidden, n_layers, dropout_rate"
            )
        model, cells = scvi_model._model, scvi_model.adata if adata is None else adata
        rows, batch = np.arange(cells.n_obs), 0
        key = model.schema.fields.batch_key
        if restrict_to_batch is not None:
            levels = () if key is None else model.schema.levels[key]
            if str(restrict_to_batch) not in levels:
                raise OptionError(f"no batch {restrict_to_batch!r} to restrict SOLO to", f"the model knows {levels}")
            batch = levels.index(str(restrict_to_batch))
            rows = np.flatnonzero(model.encode(cells).batch == batch)
        elif key is not None:
            message = f"doublets of cells of several {key!r} are taken for the first one: pass restrict_to_batch="
            warnings.warn(message, UserWarning, stacklevel=2)
        data = solo.solo_data(model, rows, cells, doublet_ratio, batch)
        doublets = [str(i) for i in range(len(data.label) - len(rows))]
        obs = pd.DataFrame({LABELS: np.array(solo.CLASSES)[data.label]}, [*cells.obs_names[rows], *doublets])
        return cls(data, ad.AnnData(data.features, obs), classifier_kwargs)

    def train(
        self,
        max_epochs=400,
        lr=1e-3,
        accelerator="auto",
        devices="auto",
        train_size=None,
        validation_size=None,
        shuffle_set_split=True,
        batch_size=128,
        datasplitter_kwargs=None,
        plan_kwargs=None,
        early_stopping=True,
        early_stopping_patience=30,
        **trainer_kwargs,
    ) -> None:
        """Train; early stopping keeps the best weights."""
        given = {**trainer_kwargs, "max_epochs": max_epochs, "batch_size": batch_size, "accelerator": accelerator}
        given |= {"early_stopping": early_stopping, "early_stopping_patience": early_stopping_patience}
        called = given.pop("callbacks", None)
        training = training_config({**given, "train_size": train_size}, {"lr": lr, **(plan_kwargs or {})})
        split = chosen_rows(
            len(self._data.label), training.seed, train_size, validation_size, shuffle_set_split, datasplitter_kwargs
        )
        shown = bool(given.get("enable_progress_bar", True))
        outcome = solo.train_solo(self.module, self._data, training, listener(called, self, _last_losses, shown), split)
        self.history, self.is_trained_ = _losses(outcome.table()), True

    def predict(
        self, soft: bool = True, include_simulated_doublets: bool = False, return_logits: bool = False
    ) -> pd.DataFrame | pd.Series:
        """Probability of "doublet" and "singlet" (cell x class), or with soft=False the more probable one."""
        found = solo.solo_logits(self.module, self._data)
        found = found if return_logits and soft else found.softmax(-1)
        table = pd.DataFrame(found.numpy(), self.adata.obs_names, list(solo.CLASSES))
        if not include_simulated_doublets:
            table = table[(self.adata.obs[LABELS] == "singlet").to_numpy()]
        return table if soft else table.idxmax(axis=1)

    save = unavailable("SOLO.save", KEEP)
    load = unavailable("SOLO.load", KEEP)


def _losses(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Their history of ours."""
    known = {"train_loss": "loss_train", "validation_loss": "loss_validation"}
    return {theirs: table[[ours]].set_axis([theirs], axis=1) for theirs, ours in known.items() if ours in table}


def _last_losses(row) -> dict[str, float]:
    return {name: float(frame.iloc[-1, 0]) for name, frame in _losses(pd.DataFrame([row])).items()}
