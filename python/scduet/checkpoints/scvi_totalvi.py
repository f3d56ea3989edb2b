"""What scvi-tools' files of totalVI have beside those of its other models: proteins, panels, and three versions."""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from scduet.contract import Reference
from scduet.data.schema import Schema
from scduet.errors import FormatError
from scduet.models.multimodal.totalvi import Fields, TotalVI

Registry = Mapping[str, Any]
CHANGED_INPUT, CHANGED_ACTIVATION = (1, 3, 1), (1, 2, 0)  # versions that changed the encoder's input and the background


def options(given: Mapping[str, Any], registry: Registry, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options that the arguments of the constructor do not tell, or otherwise; their adversary is not in the file."""
    decoder = given.get("extra_decoder_kwargs") or {}
    before = version(registry) < CHANGED_ACTIVATION
    return {
        "encoder_input": "log1p" if version(registry) < CHANGED_INPUT else "normalized",
        "background_activation": decoder.get("activation_function_bg", "exp" if before else "softplus"),
        "protein_efficiency": "log_per_batch_efficiency" in weights,
        "adversarial_classifier": False,
        "extra_decoder_kwargs": {k: v for k, v in decoder.items() if k != "activation_function_bg"},
    }


def with_proteins(schema: Schema, reference: Reference, registry: Registry) -> tuple[Schema, Reference]:
    """The schema and the reference with the proteins, and the panels if there are any."""
    fields = registry["field_registries"]
    state = fields["proteins"]["state_registry"]
    features: dict[str, tuple[str, ...]] = {"protein": tuple(map(str, state["column_names"]))}
    panel = fields.get("panel", {}).get("state_registry")
    if panel:
        features["panel"] = tuple(map(str, panel["categorical_mapping"]))
    place = {"protein_key": place_of(fields["proteins"]), "panel_key": panel and str(panel["original_key"])}
    in_mudata = "mod_key" in fields["X"]["data_registry"]
    layer = place_of(fields["X"]) if in_mudata else schema.fields.layer
    found = Fields(**{**vars(schema.fields), "layer": layer, **place})
    n_panels, n = len(features.get("panel", ())) or reference.n_batches, len(features["protein"])
    mask = state.get("protein_batch_mask")
    rows = [np.ones(n) if mask is None else np.asarray(mask[str(i)], float) for i in range(n_panels)]
    arrays = {
        "protein_detected": np.array(rows, np.float32),
        "protein_background_mean": np.zeros(n_panels, np.float32),
        "protein_background_sd": np.ones(n_panels, np.float32),
        "protein_missing": np.array([mask is not None, False], np.float32),
    }
    axes = {} if panel else {name: "batch" for name in arrays if name != "protein_missing"}
    sizes = {name: len(names) for name, names in features.items()}
    return (
        replace(schema, fields=found, inputs=TotalVI.inputs, features=features),
        replace(reference, n_extra=sizes, arrays={**reference.arrays, **arrays}, axes={**reference.axes, **axes}),
    )


def init(config: Any) -> dict[str, Any]:
    """The options of `config` that are arguments of their constructor. Raises FormatError for what 1.4 cannot be."""
    given = dict(vars(config))
    if given.pop("encoder_input") == "log1p":
        raise FormatError("scvi-tools 1.4 has no totalVI with encoder_input='log1p'", "export one with 'normalized'")
    if "label" in config.gene_dispersion + config.protein_dispersion:
        raise FormatError("the totalVI of scvi-tools has no labels for dispersions", "use another dispersion")
    decoder = {"activation_function_bg": given.pop("background_activation")}
    for ours in ("adversarial_classifier", "pro_recons_weight", "protein_efficiency"):  # of training
        del given[ours]
    return {**given, "extra_decoder_kwargs": decoder}


def write_proteins(registry: dict[str, Any], schema: Schema, module: Any) -> dict[str, tuple[str, ...]] | None:
    """Add proteins and panels to a `registry` of the genes; returns the names in each modality of a MuData."""
    f, fields, names = schema.fields, registry["field_registries"], schema.features["protein"]
    names = tuple(map(str, range(names))) if isinstance(names, int) else names
    in_mudata = "mod" in (str(f.layer).split("/")[0], str(f.protein_key).split("/")[0])  # pyright: ignore[reportAttributeAccessIssue]
    proteins: dict[str, Any] = {"column_names": np.array(names, dtype=object) if in_mudata else list(names)}
    proteins |= {"n_obs": module.reference.n_cells, "n_vars": len(names)} if in_mudata else {}
    detected = module.proteins.protein_detected.cpu().numpy() > 0
    if not detected.all() and not module.config.override_missing_proteins:
        proteins["protein_batch_mask"] = {str(i): row for i, row in enumerate(detected)}
    fields["proteins"] = {
        "data_registry": registry_of(f.protein_key),  # pyright: ignore[reportAttributeAccessIssue]
        "state_registry": proteins,
        "summary_stats": {"n_proteins": len(names)},
    }
    if "panel" in schema.features:
        levels = np.array(schema.features["panel"], dtype=object)
        fields["panel"] = {
            "data_registry": {"attr_name": "obs", "attr_key": "_scvi_panel"},
            "state_registry": {"categorical_mapping": levels, "original_key": f.panel_key.removeprefix("obs/")},  # pyright: ignore[reportAttributeAccessIssue]
            "summary_stats": {"n_panel": len(levels)},
        }
    registry["setup_args"]["protein_expression_obsm_key"] = fields["proteins"]["data_registry"]["attr_key"]
    return _as_mudata(registry, schema, names) if in_mudata else None


def _as_mudata(registry: dict[str, Any], schema: Schema, proteins: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Say in the registry that the data are a MuData, as their setup_mudata does; the names of both modalities."""
    f, fields, arguments = schema.fields, registry["field_registries"], registry["setup_args"]
    fields["X"]["data_registry"] = registry_of(f.layer or "mod/rna")
    where = {name: fields[name]["data_registry"] for name in ("X", "proteins")}
    for name in ("layer", "protein_expression_obsm_key"):
        del arguments[name]
    for name, theirs in (("X", "rna_layer"), ("proteins", "protein_layer")):
        arguments[theirs] = where[name]["attr_key"]
    for name in ("batch", "panel"):
        if name in fields:
            fields[name]["data_registry"]["mod_key"] = where["X"]["mod_key"]
    rna, protein = (where[name]["mod_key"] for name in ("X", "proteins"))
    keys = [name for name in arguments if name.endswith(("_key", "_keys")) or name == "rna_layer"]
    arguments["modalities"] = {"protein_layer": protein, **dict.fromkeys(keys, rna)}
    registry["setup_method_name"] = "setup_mudata"
    return {rna: schema.genes, protein: proteins}


def registry_of(place: str) -> dict[str, Any]:
    """The entry of their registry for a place as users write it."""
    store, _, key = place.partition("/")
    if store == "mod":
        modality, _, inner = key.partition("/")
        attribute, _, name = inner.partition("/")
        return {"attr_name": attribute or "X", "attr_key": name or None, "mod_key": modality}
    return {"attr_name": "obsm", "attr_key": key if store == "obsm" else place}


def version(registry: Registry) -> tuple[int, ...]:
    """That of scvi-tools, which wrote the file."""
    numbers = str(registry.get("scvi_version", "0")).split(".")[:3]
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in numbers)


def place_of(field: Registry) -> str:
    """Where a field of the registry is, as users write it."""
    where = field["data_registry"]
    inside = "" if where["attr_name"] == "X" else f"{where['attr_name']}/{where['attr_key']}"
    if where.get("mod_key") is None:
        return str(where["attr_key"]) if where["attr_name"] == "obsm" else inside or "X"
    return f"mod/{where['mod_key']}/{inside}".rstrip("/")
