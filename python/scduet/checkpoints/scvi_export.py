"""Writes the model.pt of scvi-tools 1.4, so that what was trained here can be used there."""

from __future__ import annotations

from scduet._torch import torch

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from scduet.checkpoints import scvi_gimvi as gimvi
from scduet.checkpoints import scvi_multivi as multivi
from scduet.checkpoints import scvi_spatial as spatial
from scduet.checkpoints import scvi_totalvi as totalvi
from scduet.checkpoints import scvi_velovi as velovi
from scduet.checkpoints.scvi_files import ONE_FILE
from scduet.checkpoints.scvi_names import VAE, to_scvi_tools
from scduet.checkpoints.scvi_tools import LINEAR_CLASSIFIER, MODELS, NAMES
from scduet.data.schema import Schema
from scduet.errors import FormatError, some
from scduet.io.atomic import place_whole

VERSION = "1.4.2"  # of the layout
SHARED = ("n_hidden", "n_latent", "n_layers", "dropout_rate", "dispersion")
NON_KWARGS = {  # arguments that their constructors name, in that order; the rest go through **kwargs, see KWARGS
    "scvi": (*SHARED, "gene_likelihood", "use_observed_lib_size", "latent_distribution"),
    "scanvi": (*SHARED, "gene_likelihood", "use_observed_lib_size", "linear_classifier"),
    "ldvae": (*SHARED, "gene_likelihood", "use_observed_lib_size", "latent_distribution"),
    "autozi": (
        *(*SHARED, "latent_distribution", "alpha_prior", "beta_prior"),
        *("minimal_dropout", "zero_inflation", "use_observed_lib_size"),
    ),
    "peakvi": (
        *("n_hidden", "n_latent", "n_layers_encoder", "n_layers_decoder", "dropout_rate", "model_depth"),
        *("region_factors", "use_batch_norm", "use_layer_norm"),
        *("latent_distribution", "deeply_inject_covariates", "encode_covariates"),
    ),
    "condscvi": ("n_hidden", "n_latent", "n_layers", "weight_obs", "dropout_rate"),
    "stereoscope_cells": (),
    "destvi": (
        *("cell_type_mapping", "decoder_state_dict", "px_decoder_state_dict", "px_r", "per_ct_bias"),
        *("n_hidden", "n_latent", "n_layers", "dropout_decoder"),
    ),
    "stereoscope": ("sc_params", "cell_type_mapping", "prior_weight"),
    "poissonvi": ("n_hidden", "n_latent", "n_layers", "dropout_rate", "latent_distribution"),
    "gimvi": ("generative_distributions", "model_library_size", "n_latent"),
    "velovi": ("n_hidden", "n_latent", "n_layers", "dropout_rate", "gamma_init_data", "linear_decoder"),
    "totalvi": (
        *("n_latent", "gene_dispersion", "protein_dispersion", "gene_likelihood", "latent_distribution"),
        *("empirical_protein_background_prior", "override_missing_proteins"),
    ),
    "multivi": (
        *("n_genes", "n_regions", "modality_weights", "modality_penalty", "n_hidden", "n_latent"),
        *("n_layers_encoder", "n_layers_decoder", "dropout_rate"),
        *("region_factors", "gene_likelihood", "dispersion", "use_batch_norm", "use_layer_norm", "latent_distribution"),
        *("deeply_inject_covariates", "encode_covariates", "fully_paired", "protein_dispersion"),
    ),
}
KWARGS = {"scvi": "kwargs", "condscvi": "module_kwargs", "destvi": "module_kwargs"}
OF_TRAINING = ("classification_ratio", "n_samples_per_label")  # options that there belong to train()
COVARIATES = ("categorical_covariate_keys", "continuous_covariate_keys")
SETUP = {  # arguments of their setup_anndata, in that order
    "scvi": ("layer", "batch_key", "labels_key", "size_factor_key", *COVARIATES),
    "scanvi": ("labels_key", "unlabeled_category", "layer", "batch_key", "size_factor_key", *COVARIATES),
    "ldvae": ("batch_key", "labels_key", "layer"),
    "autozi": ("batch_key", "labels_key", "layer"),
    "poissonvi": ("layer", "batch_key", "labels_key", "size_factor_key", *COVARIATES),
    "peakvi": ("batch_key", "labels_key", *COVARIATES, "layer"),
    "condscvi": ("batch_key", "labels_key", "fine_labels_key", "layer", "unlabeled_category", "size_factor_key"),
    "totalvi": ("batch_key", "panel_key", "layer", "size_factor_key", *COVARIATES),
    "multivi": ("batch_key", *COVARIATES),
    "velovi": (),
    "stereoscope_cells": ("labels_key", "layer"),
    "destvi": ("layer", "smoothed_layer", "batch_key"),
    "stereoscope": ("layer",),
    "gimvi": ("batch_key", "labels_key", "layer"),
}


def write(
    folder: Path,
    name: str,
    module: nn.Module,
    schema: Schema,
    history: list[dict[str, float]],
    overwrite: bool = False,
    holds: Mapping[str, Any] | None = None,
) -> None:
    """Write `folder`/model.pt for scvi-tools. holds: the model that it stands on.

    Raises FormatError where the folder exists already, or scvi-tools has no such model.
    """
    if name not in SETUP:
        raise FormatError(f"{name!r} cannot be written for scvi-tools", f"export one of {some(SETUP, 9)}")
    if name == "condscvi" and schema.features:
        remedy = "train it without fine_labels_key"
        raise FormatError("the CondSCVI of scvi-tools takes 'unlabeled' for a fine type, this one does not", remedy)
    strange = {key for key in schema.levels if key not in _setup(name, schema)["keys"]}
    if strange:
        raise FormatError(f"the {name!r} of scvi-tools takes no covariates: {some(strange)}", "use scvi")
    key = schema.fields.labels_key
    if name == "scanvi" and any(not isinstance(level, str) for level in _levels(schema, str(key))):
        remedy = f"make obs[{key!r}] text and train again"
        raise FormatError(f"the SCANVI of scvi-tools needs labels of text, {key!r} has others", remedy)
    if (folder / ONE_FILE).exists() and not overwrite:
        raise FormatError(f"{folder / ONE_FILE} exists", "choose another folder, or pass overwrite=True")
    attributes = _attributes(name, module, schema, history, holds or {})
    parts = None
    if name == "totalvi":
        parts = totalvi.write_proteins(attributes["registry_"], schema, module)
    elif name == "multivi":
        parts = multivi.write_modalities(attributes["registry_"], schema, module)
    content: dict[str, Any] = {"model_state_dict": _weights(name, module), "attr_dict": attributes}
    if name == "gimvi":
        reference: Any = module.reference
        content |= gimvi.write_two(attributes, [registry(name, *own) for own in gimvi.parted(schema, reference)])
    else:
        names = {k: np.array(v, object) for k, v in parts.items()} if parts else np.array(schema.genes, object)
        content["var_names"] = names
    folder.mkdir(parents=True, exist_ok=True)
    place_whole(folder / ONE_FILE, lambda new: torch.save(content, new))


def weights_by_their_names(name: str, module: Any) -> dict[str, Tensor]:
    """The weights of `module` under their names and in their shapes."""
    if name == "gimvi":
        return gimvi.written_weights(module)
    written = spatial.written_weights if name in spatial.NAMES else to_scvi_tools
    return written(module, NAMES.get(name, VAE))


def _weights(name: str, module: Any) -> dict[str, Any]:
    weights = weights_by_their_names(name, module)
    if name == "scanvi":
        n = module.reference.n_labels
        weights["y_prior"] = torch.full((1, n), 1 / n)
        if module.config.linear_classifier:
            here, there = LINEAR_CLASSIFIER[1], LINEAR_CLASSIFIER[0]
            weights = {key.replace(here, there): value for key, value in weights.items()}
    if name == "ldvae":
        weights = _linear_decoder(weights)
    contiguous = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    if name == "gimvi":  # of which pyro's store is an unexpected key there
        return contiguous
    return {**contiguous, "pyro_param_store": {"params": {}, "constraints": {}}}


def _linear_decoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their linear decoder always has a head for dropout, like that for the shares, and none for dispersion."""
    share, dropout = "decoder.factor_regressor.", "decoder.px_dropout_decoder."
    unused = {key.replace(share, dropout): torch.zeros_like(w) for key, w in weights.items() if key.startswith(share)}
    of_mlp = [f"{head}.{leaf}" for head in ("decoder.px_r_decoder", dropout[:-1]) for leaf in ("weight", "bias")]
    return unused | {key: value for key, value in weights.items() if key not in of_mlp}


def _attributes(
    name: str, module: Any, schema: Schema, history: list[dict[str, float]], holds: Mapping[str, Any]
) -> dict[str, Any]:
    none = np.array([], dtype=np.int64)
    attributes = {
        "history_": _frames(history),
        "init_params_": _init(name, module, holds),
        "is_trained_": True,
        "registry_": registry(name, schema, module.reference),
        "train_indices_": none,
        "validation_indices_": none,
        "test_indices_": none,
    }
    if name == "scanvi":
        attributes |= {"unlabeled_category_": schema.fields.unlabeled_category, "labels_": none}
        attributes |= {"semisupervised_history_": None, "unsupervised_history_": None}
    return attributes


def _init(name: str, module: Any, holds: Mapping[str, Any]) -> dict[str, Any]:
    given = dataclasses.asdict(module.config)
    if name == "totalvi":
        given = totalvi.init(module.config)
    elif name == "multivi":
        given = multivi.init(module.config, module.reference)
    elif name == "gimvi":
        given = gimvi.init(given)
    elif name in spatial.NAMES:
        given = spatial.init(name, module, holds, given)
    given = {k: v for k, v in given.items() if k not in OF_TRAINING}
    named = {key: given.pop(key) for key in NON_KWARGS[name] if key in given}
    return {"kwargs": {KWARGS.get(name, "model_kwargs"): given}, "non_kwargs": named}


def _setup(name: str, schema: Schema) -> dict[str, Any]:
    """Arguments of setup_anndata, and the columns of obs that they name."""
    arguments = {key: getattr(schema.fields, key) for key in SETUP[name]}
    arguments = {key: (list(value) or None) if isinstance(value, tuple) else value for key, value in arguments.items()}
    keys = [
        arguments.get("batch_key"),
        arguments.get("labels_key"),
        *(arguments.get("categorical_covariate_keys") or ()),
    ]
    return {"arguments": arguments, "keys": keys}


def registry(name: str, schema: Schema, reference: Any) -> dict[str, Any]:
    """What the model knows of its data, as their files have it."""
    f, theirs = schema.fields, {ours: cls for cls, ours in MODELS.items()}[name]
    place = {"attr_name": "X", "attr_key": None} if f.layer is None else {"attr_name": "layers", "attr_key": f.layer}
    sizes = {"n_vars": len(schema.genes), "n_cells": reference.n_cells}
    counts = {"n_obs": reference.n_cells, "n_vars": len(schema.genes), "column_names": np.array(schema.genes, object)}
    fields: dict[str, Any] = {
        "X": {"data_registry": place, "state_registry": counts, "summary_stats": sizes},
        "batch": _category("batch", f.batch_key, schema),
        "labels": _category("labels", f.labels_key, schema),
    }
    if name == "scanvi":
        state = fields["labels"]["state_registry"]
        state["categorical_mapping"] = np.append(state["categorical_mapping"], np.array([f.unlabeled_category], object))
        state["unlabeled_category"] = f.unlabeled_category
        fields["labels"]["summary_stats"] = {"n_labels": len(state["categorical_mapping"])}
    if name in ("scvi", "scanvi", "totalvi", "peakvi", "poissonvi", "multivi"):
        fields |= _covariates(schema)
    if name == "condscvi":
        fields["size_factor"] = {"data_registry": {}, "state_registry": {}, "summary_stats": {}}
    arguments = _setup(name, schema)["arguments"] | ({"use_minified": False} if name == "scanvi" else {})
    head = {
        "scvi_version": VERSION,
        "model_name": theirs,
        "setup_args": arguments,
        "setup_method_name": "setup_anndata",
    }
    if name.startswith("stereoscope"):
        del fields["batch"]
    if name in ("destvi", "stereoscope"):
        del fields["labels"]
        where = {"attr_name": "obs", "attr_key": "_indices"}
        fields["ind_x"] = {"data_registry": where, "state_registry": {}, "summary_stats": {}}
    if name == "destvi":
        smoothed, arguments["smoothed_layer"] = spatial.smoothed(schema, counts)
        fields |= smoothed
    if name == "velovi":
        fields, head["setup_args"] = velovi.fields_of(schema, reference)
    return head | {"field_registries": fields}


def _category(kind: str, key: str | None, schema: Schema) -> dict[str, Any]:
    levels = np.array([0]) if key is None else _levels(schema, key)
    return {
        "data_registry": {"attr_name": "obs", "attr_key": f"_scvi_{kind}"},
        "state_registry": {"categorical_mapping": levels, "original_key": key or f"_scvi_{kind}"},
        "summary_stats": {f"n_{kind}": len(levels)},
    }


def _levels(schema: Schema, key: str) -> np.ndarray:
    """The levels as the user's column has them: scvi-tools tells 3 from "3"."""
    return np.array(list(schema.values(key)), dtype=object)


def _covariates(schema: Schema) -> dict[str, Any]:
    """The fields that are empty where they are not used."""
    f = schema.fields
    empty = {"data_registry": {}, "state_registry": {}, "summary_stats": {}}
    mappings = {key: _levels(schema, key) for key in f.categorical_covariate_keys}
    sizes = [len(levels) for levels in mappings.values()]
    states = {
        "extra_categorical_covs": {"mappings": mappings, "field_keys": list(mappings), "n_cats_per_key": sizes},
        "extra_continuous_covs": {"columns": np.array(f.continuous_covariate_keys, dtype=object)},
    }
    used = {"extra_categorical_covs": len(mappings), "extra_continuous_covs": len(f.continuous_covariate_keys)}
    fields = {
        name: {
            "data_registry": {"attr_name": "obsm", "attr_key": f"_scvi_{name}"},
            "state_registry": states[name],
            "summary_stats": {f"n_{name}": n},
        }
        if n
        else empty
        for name, n in used.items()
    }
    key = f.size_factor_key
    factor = {"data_registry": {"attr_name": "obs", "attr_key": "_scvi_size_factor"}, "summary_stats": {}}
    fields["size_factor"] = empty if key is None else factor | {"state_registry": {"original_key": key}}
    return fields


def _frames(history: list[dict[str, float]]) -> dict[str, pd.DataFrame]:
    """Their history: a data frame a term."""
    table = pd.DataFrame(history).set_index("epoch") if history else pd.DataFrame()
    return {str(name): table[[name]] for name in table}
