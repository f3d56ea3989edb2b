"""What scvi-tools' files of veloVI have instead of counts and batches: two layers of smoothed values."""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from scduet.contract import Reference
from scduet.data.schema import Schema
from scduet.models.velocity.velovi import Fields, VeloVI

SWITCH = ("switch_spliced", "switch_unspliced")
LAYERS = {"X": "spliced_layer", "U": "unspliced_layer"}


def with_layers(
    schema: Schema, reference: Reference, registry: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> tuple[Schema, Reference]:
    """The schema and the reference with both layers."""
    s, u = (registry["field_registries"][key]["data_registry"]["attr_key"] for key in LAYERS)
    fields = Fields(**{**vars(schema.fields), "layer": str(s), "unspliced": f"layers/{u}"})
    arrays = {name: weights[name].numpy() for name in SWITCH}
    return (
        replace(schema, fields=fields, expects="any", inputs=VeloVI.inputs, features={"unspliced": schema.genes}),
        replace(reference, n_extra={"unspliced": len(schema.genes)}, arrays=arrays, axes={}),
    )


def fields_of(schema: Schema, reference: Reference) -> tuple[dict[str, Any], dict[str, str]]:
    """The entries of their registry, and the arguments of their setup_anndata."""
    fields: Any = schema.fields
    arguments = {"spliced_layer": fields.layer, "unspliced_layer": fields.unspliced.removeprefix("layers/")}
    n, genes = reference.n_cells, np.array(schema.genes, object)
    state = {"n_obs": n, "n_vars": len(genes), "column_names": genes}
    entries = {
        key: {
            "data_registry": {"attr_name": "layers", "attr_key": arguments[name]},
            "state_registry": state,
            "summary_stats": {"n_vars": len(genes), "n_cells": n} if key == "X" else {f"n_{key}": len(genes)},
        }
        for key, name in LAYERS.items()
    }
    return entries, arguments
