"""What scvi-tools' files of MultiVI have beside those of its other models: peaks, proteins, and two ways to keep them.

Since 1.4 the data are a MuData. Before, they were an AnnData whose X holds genes, then peaks, with proteins in obsm; of
such a file `peaks_key` is the place of X, and features are told apart by their names.
"""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from scduet.checkpoints.scvi_totalvi import place_of, registry_of, version
from scduet.contract import Reference
from scduet.data.schema import Schema
from scduet.errors import FormatError, ScduetWarning
from scduet.models.multimodal.multivi import Fields, MultiVI

Registry = Mapping[str, Any]
Names = dict[str, tuple[str, ...]]  # names of features by our name of the modality
FIRST = (0, 18)  # version since which the model is that of today
SIZES = {  # weights that have an entry for each feature
    "rna": "z_decoder_expression.px_scale_decoder.0.bias",
    "peaks": "z_decoder_accessibility.output.0.bias",
    "protein": "z_decoder_pro.py_background_decoder.fc_layers.Layer 0.0.bias",
}
FIELDS = {"rna": "X", "peaks": "atac", "protein": "proteins"}  # of their registry
LAYERS = {"rna": "rna_layer", "peaks": "atac_layer", "protein": "protein_layer"}  # arguments of their setup_mudata
USUAL = {"rna": "rna", "peaks": "atac", "protein": "protein"}  # modalities of a MuData, for data that were none
OURS_ALONE = ("adversarial_mixing", "override_missing_proteins", "as_in_scvi_tools")  # options


def options(registry: Registry, weights: Mapping[str, Tensor], path: Any) -> dict[str, Any]:
    """Options that are not theirs, and None for theirs that are not ours.

    Raises FormatError for what cannot be read here.
    """
    if version(registry)[:2] < FIRST or "mod_weights" not in weights:
        raise FormatError(f"{path} holds a MULTIVI of before scvi-tools 0.18", "that is another model: train it again")
    lacking = [name for name, n in _sizes(weights).items() if not n and name != "protein"]
    if lacking:
        raise FormatError(f"{path} holds a MULTIVI without {lacking[0]}", "use scvi, totalvi or peakvi for such data")
    if registry["field_registries"].get("size_factor", {}).get("data_registry"):
        raise FormatError(f"{path} holds a MULTIVI with size factors of genes and peaks", "train it without them")
    return {"as_in_scvi_tools": True, "adversarial_mixing": False, "n_genes": None, "n_regions": None}


def features(names: Any, registry: Registry, weights: Mapping[str, Tensor]) -> Names:
    """Names of the genes, peaks and proteins."""
    fields, sizes = registry["field_registries"], _sizes(weights)
    if isinstance(names, Mapping):
        modalities = {name: fields[FIELDS[name]]["data_registry"]["mod_key"] for name, n in sizes.items() if n}
        return {name: tuple(map(str, names[modality])) for name, modality in modalities.items()}
    flat, n = tuple(map(str, names)), sizes["rna"]
    found = {"rna": flat[:n], "peaks": flat[n : n + sizes["peaks"]]}
    if sizes["protein"]:
        found["protein"] = tuple(map(str, fields["proteins"]["state_registry"]["column_names"]))
    return found


def with_modalities(
    schema: Schema, reference: Reference, registry: Registry, names: Names, weights: Mapping[str, Tensor]
) -> tuple[Schema, Reference]:
    """The schema and the reference with the peaks, and the proteins if there are any."""
    registered = registry["field_registries"]
    places = {name: place_of(registered[FIELDS[name]]) for name in names if FIELDS[name] in registered}
    main = places["rna"] if places["rna"].startswith("mod/") else schema.fields.layer
    places = {f"{name}_key": places.get(name, places["rna"]) for name in names if name != "rna"}
    found = Fields(**{**vars(schema.fields), "layer": main, **places})
    inner = {name: of for name, of in names.items() if name != "rna"}
    arrays: dict[str, np.ndarray] = {}
    if "protein" in names:
        arrays["protein_detected"] = np.ones((reference.n_batches, len(names["protein"])))
        arrays |= {f"protein_background_{name}": np.ones(reference.n_batches) for name in ("mean", "sd")}
    axes, weight = dict.fromkeys(arrays, "batch"), weights["mod_weights"]
    sizes = {name: len(of) for name, of in inner.items()}
    single = {name: values.astype(np.float32) for name, values in arrays.items()}
    n_cells = len(weight) if weight.ndim == 2 else reference.n_cells
    return (
        replace(schema, fields=found, inputs=MultiVI.inputs, features=inner),
        replace(reference, n_extra=sizes, arrays=single, axes=axes, n_cells=n_cells),
    )


def init(config: Any, reference: Reference) -> dict[str, Any]:
    """The options of `config` that are arguments of their constructor. Raises FormatError for what 1.4 cannot be."""
    if config.dispersion != "gene" or config.protein_dispersion == "protein-label":
        kinds = f"dispersion={config.dispersion!r} and protein_dispersion={config.protein_dispersion!r}"
        raise FormatError(f"the MULTIVI of scvi-tools 1.4 cannot be used with {kinds}", "use the default of both")
    if reference.size_factor:
        raise FormatError("the MULTIVI of scvi-tools takes size factors of peaks too", "train without size_factor_key")
    if not config.as_in_scvi_tools and "protein" in reference.n_extra:
        remedy = "train one with as_in_scvi_tools=True"
        raise FormatError("the MULTIVI of scvi-tools has another background of proteins than this model", remedy)
    if not config.as_in_scvi_tools:
        text = "scvi-tools will give this model's posterior means, but other variances of cells with several modalities"
        warnings.warn(f"{text}; as_in_scvi_tools=True trains a model that is the same there", ScduetWarning, 6)
    given = {name: value for name, value in vars(config).items() if name not in OURS_ALONE}
    return {**given, "n_genes": reference.n_genes, "n_regions": reference.n_extra["peaks"]}


def write_modalities(registry: dict[str, Any], schema: Schema, module: Any) -> Names:
    """Say in the `registry` that the data are a MuData, as their setup_mudata does; the names of its modalities."""
    f, fields, n_cells = schema.fields, registry["field_registries"], module.reference.n_cells
    names = {"rna": schema.genes} | {name: _named(name, of) for name, of in schema.features.items()}
    places = {name: f.layer if name == "rna" else getattr(f, f"{name}_key") for name in names}
    summaries = {"rna": "n_vars", "peaks": "n_atac", "protein": "n_proteins"}
    found: Names = {}
    for name, of in names.items():
        where = registry_of(_in_mudata(name, places[name]))
        state = {"n_obs": n_cells, "n_vars": len(of), "column_names": np.array(of, object)}
        sizes = {summaries[name]: len(of)} | ({"n_cells": n_cells} if name == "rna" else {})
        fields[FIELDS[name]] = {"data_registry": where, "state_registry": state, "summary_stats": sizes}
        found[where["mod_key"]] = of
    empty = {"data_registry": {}, "state_registry": {}, "summary_stats": {"n_size_factor": 0}}
    indices = {"data_registry": {"attr_name": "obs", "attr_key": "_indices"}, "state_registry": {}, "summary_stats": {}}
    fields |= {"size_factor": empty, "ind_x": indices}
    layers = {LAYERS[name]: fields[FIELDS[name]]["data_registry"]["attr_key"] for name in names}
    modalities = {LAYERS[name]: fields[FIELDS[name]]["data_registry"]["mod_key"] for name in names}
    registry["setup_args"] |= {**dict.fromkeys(LAYERS.values()), **layers, "size_factor_key": None, "idx_layer": None}
    registry["setup_args"]["modalities"] = modalities
    registry["setup_method_name"] = "setup_mudata"
    return found


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: len(weights.get(weight, ())) for name, weight in SIZES.items()}


def _named(name: str, of: tuple[str, ...] | int) -> tuple[str, ...]:
    return tuple(f"{name}_{i}" for i in range(of)) if isinstance(of, int) else of


def _in_mudata(name: str, place: str | None) -> str:
    """Where a matrix is in a MuData that has each in X of a modality, unless it is in a MuData already."""
    if place is None or not place.startswith("mod/"):
        layer = f"/layers/{place}" if name == "rna" and place and "/" not in place and place != "X" else ""
        return f"mod/{USUAL[name]}{layer}"
    return place
