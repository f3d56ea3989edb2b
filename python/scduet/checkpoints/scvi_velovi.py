"""What scvi-tools' files of veloVI have instead of counts and batches: two layers of smoothed values."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from scduet.checkpoints.scvi_names import Names
from scduet.contract import Reference
from scduet.data.schema import Schema
from scduet.models.velocity.velovi import Fields, VeloVI

SWITCH = ("switch_spliced", "switch_unspliced")
LAYERS = {"X": "spliced_layer", "U": "unspliced_layer"}


def _unused(theirs: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """What options switch off: a changing rate, a linear decoder, or the heads that it stands for."""
    genes, hidden = cast(Any, module).reference.n_genes, cast(Any, module).config.n_hidden
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("alpha_1_unconstr", "lambda_alpha_unconstr"), (genes,))
    shapes |= dict.fromkeys(("decoder.linear_scaling_tau", "decoder.linear_scaling_tau_intercept"), (genes,))
    for part in ("rho", "tau"):
        shapes |= {
            f"decoder.px_{part}_decoder.0.weight": (genes, hidden),
            f"decoder.px_{part}_decoder.0.bias": (genes,),
        }
    return {name: torch.zeros(shape) for name, shape in shapes.items() if name not in theirs}


NAMES = Names(
    stacks={
        "encoder.body": "z_encoder.encoder",
        "time.body": "decoder.rho_first_decoder",
        "states.body": "decoder.pi_first_decoder",
    },
    linear={
        "encoder.mean": "z_encoder.mean_encoder",
        "encoder.log_variance": "z_encoder.var_encoder",
        "time.rho": "decoder.px_rho_decoder.0",
        "time.tau": "decoder.px_tau_decoder.0",
        "states.logits": "decoder.px_pi_decoder",
    },
    turned={},
    may_be_unused=(
        *("decoder.px_rho_decoder.", "decoder.px_tau_decoder.", "decoder.linear_scaling_"),
        *("alpha_1_unconstr", "lambda_alpha_unconstr", "pyro_param_store"),
    ),
    same={
        **{name: f"{name}_unconstr" for name in ("switch_time", "alpha", "alpha_1", "lambda_alpha", "scale")},
        **{name: f"{name}_mean_unconstr" for name in ("gamma", "beta")},
        **{name: name for name in ("switch_spliced", "switch_unspliced")},
        "time.log_slope": "decoder.linear_scaling_tau",
        "time.intercept": "decoder.linear_scaling_tau_intercept",
    },
    unused=_unused,
)


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
