"""What all models of the façade share: set-up, training, files and query mapping."""

from __future__ import annotations

from scduet._torch import torch

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad

from scduet import api
from scduet.api import Model
from scduet.checkpoints import scvi_tools
from scduet.data.samplers import split
from scduet.errors import FormatError, OptionError
from scduet.io import native
from scduet.io.atomic import place_whole
from scduet.models import MODELS
from scduet.scvi import settings
from scduet.scvi.analyses import Analyses
from scduet.scvi.setup import noted, untrained
from scduet.scvi.training import history_of, training_config
from scduet.tasks.workflows import map_query

FILE = "adata.h5ad"
MAX_MISSING = 0.999  # of the genes of a query: as there, only a query without any is refused


class ScviModel(Analyses):
    """What the four models share: set-up, training, files and query mapping."""

    _name: ClassVar[str]  # ours

    def __init__(self, adata: AnnData, options: dict[str, Any]):
        options = {key: value for key, value in options.items() if value is not None}
        fields = noted(adata, type(self).__name__, self._name)
        self._hold(untrained(adata, self._name, fields, options), adata, is_trained=False)

    def _hold(self, model: Model, adata: AnnData | None, is_trained: bool) -> None:
        self._model, self.adata, self.is_trained_ = model, adata, is_trained  # type: ignore[assignment]
        self._reference: Model | None = None  # what a query was mapped onto
        self.train_indices = self.validation_indices = np.array([], dtype=np.int64)

    @classmethod
    def _holding(cls, model: Model, adata: AnnData | None, is_trained: bool = True):
        made = cls.__new__(cls)
        made._hold(model, adata, is_trained)
        return made

    def train(
        self,
        max_epochs=None,
        accelerator="auto",
        devices="auto",
        train_size=None,
        validation_size=None,
        shuffle_set_split=True,
        load_sparse_tensor=False,
        batch_size=None,
        early_stopping=False,
        datasplitter_kwargs=None,
        plan_config=None,
        plan_kwargs=None,
        datamodule=None,
        trainer_config=None,
        **trainer_kwargs,
    ) -> None:
        """Train; the model holds the result."""
        given = dict(max_epochs=max_epochs, accelerator=accelerator, train_size=train_size, batch_size=batch_size)
        given |= dict(early_stopping=early_stopping, **(trainer_config or {}), **trainer_kwargs)
        if settings.num_threads is not None:
            torch.set_num_threads(settings.num_threads)
        training = training_config(given, {**(plan_config or {}), **(plan_kwargs or {})})
        if self._reference is not None:
            self._model = map_query.train_new_rows(self._reference, self._model, training)
        else:
            self._model = api.train(self._model, self._model.cells or self._model.encode(self.adata), training)
        used = self._model.training
        self.train_indices, self.validation_indices = split(self.adata.n_obs, used.train_size or 1.0, used.seed)
        self.is_trained_ = True

    def save(self, dir_path, prefix=None, overwrite=False, save_anndata=False, **_) -> None:
        """Write a folder of ours (safetensors and JSON); `export_scvi_tools` writes one that scvi-tools reads."""
        folder = _folder(dir_path, prefix)
        if overwrite and native.is_ours(folder):
            (folder / FILE).unlink(missing_ok=True)
        self._model.save(folder, overwrite)
        if save_anndata:
            place_whole(folder / FILE, self.adata.write_h5ad)

    def export_scvi_tools(self, dir_path, overwrite=False) -> None:
        self._model.export_scvi_tools(dir_path, overwrite)

    @classmethod
    def load(cls, dir_path, adata=None, accelerator="auto", device="auto", prefix=None, **_):
        """Read a folder of ours or of scvi-tools; nothing in it is run."""
        folder = _folder(dir_path, prefix)
        model = _loaded(folder if native.is_ours(folder) else _foreign(Path(dir_path), prefix))
        if model.name != cls._name:
            raise FormatError(f"{dir_path} holds a {model.name!r}, not a {cls.__name__}", "load it with its own class")
        if adata is None:
            adata = next(
                (read_h5ad(p) for p in (folder / FILE, Path(dir_path) / f"{prefix or ''}{FILE}") if p.exists()), None
            )
        return cls._holding(model, adata or None)

    @classmethod
    def convert_legacy_save(cls, dir_path, output_dir_path, overwrite=False, prefix=None, **_) -> None:
        """Write a model from before 0.15 as a folder that scvi-tools 1.4, and we, load."""
        target = Path(output_dir_path)
        if target.exists() and not overwrite:
            raise FormatError(f"{target} exists", "choose another folder, or pass overwrite=True")
        legacy = Path(dir_path) / f"{prefix or ''}{scvi_tools.THREE_FILES[0]}"
        _loaded(legacy).export_scvi_tools(target, overwrite)
        if prefix:
            (target / scvi_tools.ONE_FILE).replace(target / f"{prefix}{scvi_tools.ONE_FILE}")

    @staticmethod
    def load_registry(dir_path, prefix=None) -> dict[str, Any]:
        """What a saved model knows of its data."""
        folder = _folder(dir_path, prefix)
        if not native.is_ours(folder):
            return scvi_tools.registry(_foreign(Path(dir_path), prefix))
        return _registry(_loaded(folder))

    @classmethod
    def prepare_query_anndata(cls, adata, reference_model, return_reference_var_names=False, inplace=True):
        """Give `adata` the genes of the model, in its order; missing ones are zero."""
        model = _model_of(reference_model)
        if return_reference_var_names:
            return pd.Index(model.genes)
        prepared = map_query.prepare_query(adata, model, max_missing=MAX_MISSING)
        prepared.uns, prepared.obsm = dict(adata.uns), dict(adata.obsm)  # type: ignore[assignment]
        if not inplace:
            return prepared
        adata._init_as_actual(prepared)
        return None

    @classmethod
    def load_query_data(cls, adata, reference_model, inplace_subset_query_vars=False, **freezing):
        """Map a query onto a trained model; `train` then learns its new batches. All known weights stay frozen."""
        if freezing.get("unfrozen"):
            raise OptionError("unfrozen=True would move the reference", "train a new model on both data sets")
        model = _model_of(reference_model)
        mapped = map_query.map_query(adata.copy(), model, train=False, max_missing=MAX_MISSING)
        made = cls._holding(mapped, adata, is_trained=False)
        made._reference = model
        return made

    @property
    def history(self) -> dict[str, pd.DataFrame]:
        return history_of(self._model)

    @property
    def is_trained(self) -> bool:
        return self.is_trained_

    @is_trained.setter
    def is_trained(self, value: bool) -> None:
        self.is_trained_ = value

    @property
    def module(self):
        return self._model.module

    @property
    def device(self):
        return self._model.device

    def to_device(self, device) -> None:
        self._model.module.to(device)

    @property
    def summary_string(self) -> str:
        shown = ", ".join(f"{name}: {value}" for name, value in vars(self._model.config).items())
        return f"{type(self).__name__} model with the following parameters: \n{shown}."

    @property
    def summary_stats(self) -> dict[str, int]:
        sizes = self._model.reference
        return {
            "n_vars": sizes.n_genes,
            "n_cells": sizes.n_cells,
            "n_batch": sizes.n_batches,
            "n_labels": sizes.n_labels,
        }

    @property
    def registry(self) -> dict[str, Any]:
        return _registry(self._model)

    def get_var_names(self, legacy_mudata_format=False) -> pd.Index:
        return pd.Index(self._model.genes)

    def view_anndata_setup(self, adata=None, hide_state_registries=False) -> None:
        """Print what was registered."""
        for name, value in vars(self._model.schema.fields).items():
            print(f"{name}: {value if name != 'genes' else f'{len(self._model.genes)} genes'}")
        for key, levels in self._model.schema.levels.items() if not hide_state_registries else ():
            print(f"{key}: {', '.join(levels[:20])}{' ...' if len(levels) > 20 else ''}")

    def __repr__(self) -> str:
        return f"{self.summary_string}\nTraining status: {'Trained' if self.is_trained_ else 'Not Trained'}"


def _registry(model: Model) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in scvi_tools.MODELS.items()}
    return {"model_name": names[model.name], "setup_args": vars(model.schema.fields)}


def _model_of(reference) -> Model:
    return reference._model if isinstance(reference, ScviModel) else _loaded(reference)


def _loaded(folder) -> Model:
    model: Any = api.load(folder)
    if model.name not in MODELS:
        raise FormatError(f"{folder} holds a published transformer", "load it with scduet.load")
    return model


def _folder(dir_path, prefix: str | None) -> Path:
    return Path(dir_path) / prefix if prefix else Path(dir_path)


def _foreign(folder: Path, prefix: str | None) -> Path:
    """A folder of scvi-tools, or the one of its files that has the prefix."""
    named = folder / f"{prefix or ''}model.pt"
    return named if named.is_file() and prefix else folder
