"""Training on the cells of a data module, and on those that annbatch reads."""

from __future__ import annotations

from typing import Any, ClassVar

from scduet import api
from scduet.api import Model
from scduet.errors import OptionError
from scduet.scvi import callbacks, datamodules
from scduet.scvi.registry import refuse
from scduet.scvi.signatures import takes
from scduet.scvi.training import last_row, training_config


class Streaming:
    """What a model made of the registry of a data module does."""

    _name: ClassVar[str]
    _model: Model
    _registered: tuple[dict[str, Any], dict[str, Any]] | None
    is_trained_: bool

    def _train_on(self, datamodule: Any, given: dict[str, Any], plan: dict[str, Any], split: list[Any]) -> None:
        """Train on the cells of a data module, from new weights."""
        if self._registered is None:
            raise OptionError("this model was made of cells", f"make it as {type(self).__name__}(registry=...)")
        if hasattr(datamodule, "set_split"):
            datamodule.set_split(given.pop("train_size", None), *split[:2], given.get("batch_size"))
        if given.get("batch_size") is None and getattr(datamodule, "batch_size", None):
            given["batch_size"] = datamodule.batch_size
        options = {**vars(training_config({**given, "train_size": None}, plan)), "train_size": None}
        shown, registry = bool(given.get("enable_progress_bar", True)), self._registered[0]
        options |= {**datamodules.fields_of(registry), **self._registered[1]}
        options |= {"allow_non_integer": True, "allow_empty_cells": True}
        listener = callbacks.listener(given.pop("callbacks", None), self, last_row, shown)
        loader = datamodules.of_module(datamodule)
        options = {name: value for name, value in options.items() if value is not None}
        self._model = api.fit(None, self._name, loader=loader, callback=listener, **options)
        self.is_trained_ = True
        if isinstance(listener, callbacks.Callbacks):
            listener.ended()

    @classmethod
    @takes(
        "collection_path, paths, batch_key, labels_key, sample_key, unlabeled_category='Unknown', layer,"
        "categorical_covariate_keys, continuous_covariate_keys, rebuild=True, batch_size=4096, chunk_size=256,"
        "preload_nchunks=32, preload_to_gpu=True, dataset_size='20GB', shuffle=False, var_subset, merge, adatas,"
        "use_class_sampler=False, class_sampler_key, class_weights"
    )
    def setup_annbatch(cls, collection_path, paths, adatas, rebuild, unlabeled_category, **given):
        """Cells that annbatch reads, for `train(datamodule=)`; the model is made of its `registry`.

        paths: of .h5ad files, which are written to a collection at `collection_path`; with rebuild=False one that is
        there is used. Cells are read in the main memory (preload_to_gpu is ignored).
        """
        refuse("setup_annbatch", **{name: given.pop(name) for name in datamodules.REFUSED})
        columns = {name: given[name] for name in ("batch_key", "labels_key", *datamodules.COVARIATES)}
        reading = {name: given[name] for name in ("batch_size", "chunk_size", "preload_nchunks")}
        writing = {name: given[name] for name in ("dataset_size", "shuffle", "var_subset", "merge")}
        of = collection_path, paths, adatas, rebuild, columns, reading, writing, unlabeled_category
        return datamodules.annbatch_of(cls.__name__, *of)
