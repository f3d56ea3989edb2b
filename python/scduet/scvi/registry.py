"""What a model knows of its data, in the form of scvi-tools' registry and of its manager."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData

from scduet.api import Model
from scduet.checkpoints import scvi_export, scvi_multivi, scvi_totalvi
from scduet.data.locate import locate, locate_main, resolve
from scduet.errors import OptionError, some


class _Keys(NamedTuple):
    X_KEY: str = "X"
    ATAC_X_KEY: str = "atac"
    BATCH_KEY: str = "batch"
    SAMPLE_KEY: str = "sample"
    LABELS_KEY: str = "labels"
    PROTEIN_EXP_KEY: str = "proteins"
    CAT_COVS_KEY: str = "extra_categorical_covs"
    CONT_COVS_KEY: str = "extra_continuous_covs"
    INDICES_KEY: str = "ind_x"
    SIZE_FACTOR_KEY: str = "size_factor"
    MINIFY_TYPE_KEY: str = "minify_type"
    LATENT_QZM_KEY: str = "latent_qzm"
    LATENT_QZV_KEY: str = "latent_qzv"
    OBSERVED_LIB_SIZE: str = "observed_lib_size"


REGISTRY_KEYS = _Keys()


class attrdict(dict):
    """A dictionary whose entries are attributes too: `summary_stats.n_batch`."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"no entry {name!r}; there are {some(self, 20)}")
        return self[name]

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        return attrdict(value) if type(value) is dict else value


def registry_of(model: Model) -> attrdict:
    """The registry as scvi-tools' own files have it: `setup_args`, `field_registries`, `model_name`, ..."""
    found = scvi_export.registry(model.name, model.schema, model.reference)
    if model.name == "multivi":
        scvi_multivi.write_modalities(found, model.schema, model.module)
    if model.name == "totalvi":
        scvi_totalvi.write_proteins(found, model.schema, model.module)
    return attrdict(found)


def summary_stats(model: Model) -> attrdict:
    """Sizes by name, n_vars, n_cells, n_batch, n_labels, and of covariates where there are any."""
    fields = registry_of(model)["field_registries"].values()
    sizes = {name: size for field in fields for name, size in field["summary_stats"].items()}
    return attrdict(sizes | {"n_labels": model.reference.n_labels})


def shown(registry: dict[str, Any], hide_state_registries: bool = False) -> str:
    """The registry as text, a line a field."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in registry["setup_args"].items())
    lines = [f"Setup via `{registry['model_name']}.{registry.get('setup_method_name', 'setup_anndata')}`({arguments})"]
    for name, field in registry["field_registries"].items():
        place = field["data_registry"]
        if place:
            key = f"[{place['attr_key']!r}]" if place["attr_key"] else ""
            modality = f"mod[{place['mod_key']!r}]." if place.get("mod_key") else ""
            lines.append(f"{name}: adata.{modality}{place['attr_name']}{key}")
            levels = field["state_registry"].get("categorical_mapping", ())
            if len(levels) and not hide_state_registries:
                lines.append(f"  {len(levels)} categories: {some(levels, 20)}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Manager:
    """scvi-tools' AnnDataManager: the cells and how a model reads them."""

    model: Model
    adata: AnnData

    @property
    def registry(self) -> attrdict:
        return registry_of(self.model)

    @property
    def summary_stats(self) -> attrdict:
        return summary_stats(self.model)

    @property
    def data_registry(self) -> attrdict:
        """Where each field is: `data_registry.batch.attr_key`."""
        places = {name: field["data_registry"] for name, field in self.registry["field_registries"].items()}
        return attrdict({name: dict(place) for name, place in places.items() if place})

    def get_state_registry(self, registry_key: str) -> attrdict:
        """Levels and sizes of a field: `get_state_registry("batch").categorical_mapping`."""
        return attrdict(_field(self.registry, registry_key)["state_registry"])

    def get_from_registry(self, registry_key: str) -> Any:
        """The data of a field: the matrix, or codes and values (cell, column) as the model reads them."""
        _field(self.registry, registry_key)
        schema = self.model.schema
        if registry_key == REGISTRY_KEYS.X_KEY:
            return locate_main(self.adata, schema.fields.layer).values
        further = {REGISTRY_KEYS.ATAC_X_KEY: "peaks", REGISTRY_KEYS.PROTEIN_EXP_KEY: "protein", "U": "unspliced"}
        if registry_key in further:
            given = schema.inputs[further[registry_key]]
            return locate(self.adata, resolve(self.adata, getattr(schema.fields, given.option), given)).values
        cells = self.model.schema.encode(self.adata)
        label = np.zeros(len(cells), dtype=np.int64) if cells.label is None else cells.label
        known = {
            REGISTRY_KEYS.BATCH_KEY: cells.batch,
            REGISTRY_KEYS.LABELS_KEY: np.where(label < 0, self.model.reference.n_labels, label),
            REGISTRY_KEYS.CAT_COVS_KEY: cells.categorical,
            REGISTRY_KEYS.CONT_COVS_KEY: cells.continuous,
            REGISTRY_KEYS.SIZE_FACTOR_KEY: cells.size_factor,
        }[registry_key]
        if known is None:
            raise KeyError(f"the model reads no {registry_key!r}")
        return known.reshape(len(cells), -1)

    def transfer_fields(self, adata: AnnData, **_) -> Manager:
        """The same fields of other cells. Raises DataError for cells that do not fit the model."""
        self.model.schema.encode(adata)
        return Manager(self.model, adata)

    def view_registry(self, hide_state_registries: bool = False) -> None:
        print(shown(self.registry, hide_state_registries))


def _field(registry: dict[str, Any], key: str) -> dict[str, Any]:
    fields = registry["field_registries"]
    if key not in fields:
        raise KeyError(f"no field {key!r}; there are {some(fields, 9)}")
    return fields[key]


def unavailable(name: str, instead: str):
    """A function or method in place of one that is not here: it says what to use."""

    def refuse(*_, **__):
        raise OptionError(f"{name} is not part of scduet.scvi", instead)

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = f"Not here: {instead}."
    return refuse


def instead_of(module: str, known: dict[str, str]):
    """A module's `__getattr__` for names of scvi-tools that are not here, each with what to use."""

    def missing(name: str) -> Any:
        if name in known:
            raise AttributeError(f"{module} has no {name!r}: {known[name]}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return missing


def refuse(method: str, **given) -> None:
    """Raise OptionError for an argument that is not None and has no counterpart; the remedy is in `INSTEAD`."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise OptionError(f"{method}({name}=) has no counterpart here", INSTEAD[name])


def no_more(method: str, given: dict[str, Any]) -> None:
    """Refuse what is left of a method's arguments, but for those about loaders and progress bars."""
    refuse(method, **{name: value for name, value in given.items() if name in INSTEAD})
    strange = sorted(given.keys() - INSTEAD.keys() - NO_EFFECT)
    if strange:
        raise OptionError(f"{method}() has no argument {strange[0]!r}", "see its help")


NO_EFFECT = {"num_workers", "pin_memory", "persistent_workers", "drop_last", "silent", "shuffle"} | {"use_minified"}
INSTEAD = {  # arguments of scvi-tools' methods: what to do here
    "dataloader": "get_latent_representation takes one; here pass adata, also one that is backed by a file",
    "datamodule": "train takes one; here pass adata, also one that is backed by a file",
    "sample_key": "leave it out: no model here reads samples",
    "layer": "write X of these files from that layer",
    **dict.fromkeys(
        ("use_class_sampler", "class_sampler_key", "class_weights"), "leave it out: cells are drawn evenly"
    ),
    "data_loader_kwargs": "pass batch_size",
    "registry": "pass adata: load() keeps what the model knows of its data",
    "adversarial_classifier": "leave it out",
    "ig_interpretability": "use differential_expression, or captum on model.module",
    "ig_args": "use differential_expression, or captum on model.module",
    "adata_sub": "pass the subset itself as adata",
    "unfrozen": "known weights stay as they are: train a new model on both data sets",
    "backup_url": "download the file and load its folder",
}
