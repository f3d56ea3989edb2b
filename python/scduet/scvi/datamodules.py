"""Data modules of scvi-tools, and annbatch, as loaders of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scduet.data.cell_loader import CellLoader
from scduet.data.levels import coded
from scduet.errors import DataError, OptionError, some


def fields_of(registry: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields for the registry of a data module."""
    told, state = registry["setup_args"], registry["field_registries"]
    given = {name: told.get(name) for name in ("batch_key", "labels_key")}
    if given["batch_key"] is not None and len(_levels(registry, "batch")) < 2:
        given["batch_key"] = None
    if "unlabeled_category" in state.get("labels", {}).get("state_registry", {}):
        given["unlabeled_category"] = str(state["labels"]["state_registry"]["unlabeled_category"])
    given |= {name: tuple(told.get(name) or ()) for name in COVARIATES}
    return {name: value for name, value in given.items() if value}


COVARIATES = ("categorical_covariate_keys", "continuous_covariate_keys")
REFUSED = ("sample_key", "layer", "use_class_sampler", "class_sampler_key", "class_weights")


def loader_of(registry: Mapping[str, Any], batches: Callable, validation: Callable | None = None) -> CellLoader:
    """The minibatches that the function `batches` gives, as a loader. Their codes become names by the registry."""
    genes = [str(name) for name in registry["field_registries"]["X"]["state_registry"]["column_names"]]
    keys = {key: _levels(registry, kind) for kind in ("batch", "labels") if (key := _key(registry, kind)) is not None}
    told = registry["setup_args"].get("categorical_covariate_keys") or ()
    mapping = (
        registry["field_registries"].get("extra_categorical_covs", {}).get("state_registry", {}).get("mapping", {})
    )
    levels = {**keys, **{key: list(mapping[key]) for key in told}}
    held = None if validation is None else _Named(validation, registry)
    return CellLoader(_Named(batches, registry), genes, levels, validation=held)


def of_module(module: Any) -> CellLoader:
    """The cells of a data module. Raises OptionError for what is none."""
    if not (hasattr(module, "registry") and hasattr(module, "train_dataloader")):
        raise OptionError(
            f"datamodule= cannot be a {type(module).__name__}", "it needs registry and train_dataloader()"
        )
    turn = getattr(module, "on_before_batch_transfer", None)
    ready = {
        name: _Turned(getattr(module, f"{name}_dataloader"), turn)
        for name in ("train", "val")
        if hasattr(module, f"{name}_dataloader")
    }
    validation = ready.get("val")
    holds = validation is not None and next(iter(validation()), None) is not None
    return loader_of(module.registry, ready["train"], validation if holds else None)


class _Turned:
    """The minibatches of a data module, after the turn that Lightning would have it give them."""

    def __init__(self, batches: Callable, turn: Callable | None):
        self.batches, self.turn = batches, turn

    def __call__(self) -> Iterator[Any]:
        for item in self.batches() or ():
            yield item if self.turn is None else self.turn(item, 0)


class _Named:
    """Minibatches with names of levels in place of scvi-tools' codes."""

    def __init__(self, batches: Callable, registry: Mapping[str, Any]):
        self.batches, self.registry = batches, registry

    def __call__(self) -> Iterator[Any]:
        for item in self.batches():
            yield item if isinstance(item, tuple) or "obs" in item else self._item(item)

    def _item(self, item: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        obs = {}
        for kind in ("batch", "labels"):
            key = _key(self.registry, kind)
            if key is not None:
                obs[key] = np.asarray(_levels(self.registry, kind), object)[np.asarray(item[kind]).ravel().astype(int)]
        told = self.registry["setup_args"]
        mapping = self.registry["field_registries"].get("extra_categorical_covs", {}).get("state_registry", {})
        for place, key in enumerate(told.get("categorical_covariate_keys") or ()):
            names = np.asarray(mapping["mapping"][key], object)
            obs[key] = names[np.asarray(item["extra_categorical_covs"])[:, place].astype(int)]
        for place, key in enumerate(told.get("continuous_covariate_keys") or ()):
            obs[key] = np.asarray(item["extra_continuous_covs"])[:, place]
        return item["X"], obs


def _key(registry: Mapping[str, Any], kind: str) -> str | None:
    return registry["setup_args"].get("batch_key" if kind == "batch" else "labels_key")


def _levels(registry: Mapping[str, Any], kind: str) -> list[Any]:
    return list(registry["field_registries"][kind]["state_registry"]["categorical_mapping"])


class Annbatch:
    """Cells that annbatch's Loader reads from a collection on disk, or from AnnData: what `setup_annbatch` returns."""

    def __init__(self, parts: list[tuple[Any, Any]], add: Callable[[Any], Any], registry: dict, reading: dict):
        self.add, self.registry, self.reading = add, registry, reading
        self.n_obs = sum(len(obs) for obs, _ in parts)
        self.batch_size, self.held = reading["batch_size"], 0

    def set_split(self, train_size=None, validation_size=None, shuffle_set_split=True, batch_size=None) -> None:
        """The first cells, a share of `validation_size` (else what train_size leaves), are held out."""
        share = validation_size if validation_size is not None else 0.0 if train_size is None else 1 - train_size
        self.held = round(self.n_obs * share)

    def train_dataloader(self) -> Iterable[Any]:
        return self._loader("RandomSampler", slice(self.held, self.n_obs))

    def val_dataloader(self) -> Iterable[Any]:
        return self._loader("SequentialSampler", slice(0, self.held)) if self.held else []

    def inference_dataloader(self) -> Iterable[Any]:
        """All cells, in their order in the collection."""
        return self._loader("SequentialSampler", slice(0, self.n_obs))

    def _loader(self, sampler: str, mask: slice) -> Iterable[Any]:
        from annbatch import Loader, samplers  # pyright: ignore[reportMissingImports]

        return self.add(
            Loader(batch_sampler=getattr(samplers, sampler)(**self.reading, mask=mask), preload_to_gpu=False)
        )


def annbatch_of(name: str, collection_path, paths, adatas, rebuild, columns, reading, writing, unlabeled) -> Annbatch:
    """Cells as annbatch reads them; `paths` of .h5ad files are written to a collection first.

    columns: setup arguments with columns of obs. reading: of its samplers. writing: of its `add_adatas`.
    Raises OptionError without annbatch, or without cells.
    """
    if find_spec("annbatch") is None:
        raise OptionError("setup_annbatch needs the package annbatch", "pip install annbatch (Python 3.12 or later)")
    from anndata.io import read_elem

    if adatas is not None:
        parts = [(adata.obs, adata.var_names) for adata in adatas]
        return Annbatch(
            parts, lambda loader: loader.add_adatas(adatas), _registry(name, parts, columns, unlabeled), reading
        )
    if collection_path is None or (paths is None and rebuild):
        raise OptionError("setup_annbatch has no cells", "pass collection_path= and paths=, rebuild=False, or adatas=")
    import anndata
    import zarr
    from annbatch import DatasetCollection  # pyright: ignore[reportMissingImports]

    if paths is not None and (rebuild or not Path(collection_path).exists()):
        with anndata.settings.override(zarr_write_format=3):
            DatasetCollection(zarr.open_group(str(collection_path), mode="w")).add_adatas(paths, **writing)
    collection = DatasetCollection(str(collection_path), mode="r")
    parts = [(read_elem(group["obs"]), read_elem(group["var"]).index) for group in collection]
    registry = _registry(name, parts, columns, unlabeled)
    return Annbatch(parts, lambda loader: loader.use_collection(collection), registry, reading)


def _registry(name: str, parts: list, columns: Mapping[str, Any], unlabeled: str) -> dict[str, Any]:
    """What scvi-tools' data modules tell of their cells."""
    obs = pd.concat([table for table, _ in parts])
    of_covariates = list(columns.get("categorical_covariate_keys") or ())
    used = [columns["batch_key"], columns["labels_key"], *of_covariates, *(columns["continuous_covariate_keys"] or ())]
    missing = [key for key in used if key is not None and key not in obs]
    if missing:
        raise DataError(f"no column {missing[0]!r} in obs of the cells", f"it has {some(obs.columns, 12)}")

    def levels(key: str | None) -> list[str]:
        return [] if key is None else coded(obs[key], key).names

    labels = [*levels(columns["labels_key"]), *([unlabeled] if unlabeled not in levels(columns["labels_key"]) else [])]
    state = {
        "X": {"column_names": [str(gene) for gene in parts[0][1]], "n_obs": len(obs), "n_vars": len(parts[0][1])},
        "batch": {"categorical_mapping": levels(columns["batch_key"])},
        "labels": {"categorical_mapping": labels, "unlabeled_category": unlabeled},
        "extra_categorical_covs": {"mapping": {key: levels(key) for key in of_covariates}, "field_keys": of_covariates},
    }
    fields = {kind: {"state_registry": told} for kind, told in state.items()}
    return {
        "model_name": name,
        "setup_method_name": "setup_datamodule",
        "setup_args": columns,
        "field_registries": fields,
    }
