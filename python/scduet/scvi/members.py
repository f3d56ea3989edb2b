"""The smaller public members of scvi-tools' models: registry, history, split, device, and what is not here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from anndata import AnnData

from scduet.api import Model
from scduet.data.samplers import split
from scduet.scvi.network import Module
from scduet.scvi.registry import Manager, attrdict, registry_of, shown, summary_stats, unavailable
from scduet.scvi.training import History, Steps, history_of
from scduet.tasks.posterior.latent import is_minified

EXPLAIN = "use differential_expression, or captum and shap on model.module"
MANAGERS = "a model keeps what it knows of its data: pass adata to its methods"


class Members:
    """What can be asked of a model beside its analyses."""

    _model: Model
    _adata: AnnData | None
    _steps: Steps | None
    is_trained_: bool

    @property
    def adata(self) -> AnnData:
        """The cells; others may be set. Raises DataError for cells that do not fit the model."""
        return self._adata  # type: ignore[return-value]

    @adata.setter
    def adata(self, adata: AnnData) -> None:
        cells = None if is_minified(adata) else self._model.schema.encode(adata)
        self._model, self._adata = replace(self._model, cells=cells), adata

    @property
    def history(self) -> History:
        return history_of(self._model.history, self._steps)

    @property
    def train_indices(self) -> np.ndarray:
        """Places of the cells trained on."""
        return self._split()[0]

    @property
    def validation_indices(self) -> np.ndarray:
        """Places of the cells held out."""
        return self._split()[1]

    @property
    def test_indices(self) -> np.ndarray:
        """Places of the cells that are in neither."""
        seen = np.concatenate(self._split())
        n_cells = len(self._model.cells) if self._model.cells is not None else self._model.reference.n_cells
        return np.setdiff1d(np.arange(n_cells if len(seen) else 0), seen)

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        outcome, training = self._model.outcome, self._model.training
        if outcome.train_rows is not None:
            return np.array(outcome.train_rows, np.int64), np.array(outcome.held_out or [], np.int64)
        if not outcome.history:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return split(self._model.reference.n_cells, training.train_size or 1.0, training.seed)

    @property
    def is_trained(self) -> bool:
        return self.is_trained_

    @is_trained.setter
    def is_trained(self, value: bool) -> None:
        self.is_trained_ = value

    @property
    def module(self) -> Module:
        """The network, which also answers to the names that it has in scvi-tools."""
        return Module(self._model.module, self._model.name)

    @property
    def device(self):
        return self._model.device

    def to_device(self, device) -> None:
        """device: of torch, e.g. "cuda:0", or the number of a GPU."""
        self._model.module.to(device)

    @property
    def summary_string(self) -> str:
        options = ", ".join(f"{name}: {value}" for name, value in vars(self._model.config).items())
        return f"{type(self).__name__} model with the following parameters: \n{options}."

    @property
    def summary_stats(self) -> attrdict:
        """Sizes: n_vars, n_cells, n_batch, n_labels, ..."""
        return summary_stats(self._model)

    @property
    def registry(self) -> attrdict:
        return registry_of(self._model)

    registry_ = registry

    @property
    def adata_manager(self) -> Manager:
        return Manager(self._model, self.adata)

    def data_registry(self, registry_key):
        """Data of a field of the model's own cells: the matrix, or codes and values (cell, column)."""
        return self.adata_manager.get_from_registry(registry_key)

    def get_anndata_manager(self, adata, required=False, **_) -> Manager:
        """How the model reads `adata`. Raises DataError for cells that do not fit it."""
        return self.adata_manager.transfer_fields(adata)

    transfer_fields = get_anndata_manager

    def deregister_manager(self, adata=None) -> None:
        """Nothing to do: no manager is registered anywhere."""

    def get_from_registry(self, adata, registry_key):
        """Data of a field of `adata`: the matrix, or codes and values (cell, column)."""
        return self.adata_manager.transfer_fields(adata).get_from_registry(registry_key)

    def get_state_registry(self, registry_key) -> attrdict:
        return self.adata_manager.get_state_registry(registry_key)

    def get_setup_arg(self, setup_arg):
        """An argument of setup_anndata."""
        return self.registry["setup_args"][setup_arg]

    get_normalized_function_name = "get_normalized_expression"

    def get_var_names(self, legacy_mudata_format=False) -> pd.Index:
        return pd.Index(self._model.genes)

    def view_registry(self, hide_state_registries=False) -> None:
        """Print what the model knows of its data."""
        print(shown(self.registry, hide_state_registries))

    def view_anndata_setup(self, adata=None, hide_state_registries=False) -> None:
        """Print what was registered. Raises DataError for an `adata` that does not fit the model."""
        if adata is not None:
            self.get_anndata_manager(adata)
        self.view_registry(hide_state_registries)

    def view_setup_method_args(self) -> None:
        """Print the arguments of setup_anndata."""
        print(self.registry["setup_args"])

    @classmethod
    def view_setup_args(cls, dir_path, prefix=None) -> None:
        """Print the arguments of setup_anndata of a saved model."""
        print(dict(cls.load_registry(dir_path, prefix)["setup_args"]))  # type: ignore[attr-defined]

    @property
    def run_name(self) -> str:
        raise AttributeError("no runs are logged here: name your model yourself")

    run_id = run_name
    register_manager = classmethod(unavailable("register_manager", MANAGERS))
    update_setup_method_args = unavailable("update_setup_method_args", "call setup_anndata again, and make a new model")
    get_importance_weights = unavailable("get_importance_weights", "use differential_expression(weights='importance')")
    get_ranked_features = unavailable("get_ranked_features", EXPLAIN)
    shap_predict = unavailable("shap_predict", EXPLAIN)
    shap_adata_predict = unavailable("shap_adata_predict", EXPLAIN)

    def __repr__(self) -> str:
        return f"{self.summary_string}\nTraining status: {'Trained' if self.is_trained_ else 'Not Trained'}"
