"""scvi-tools' models of spots and of their references: their weights under our names and back, and what files hold.

Theirs keep the bias of each cell type apart from the last layer of the decoder; here it is the table of a covariate.
Files of models of spots hold what these need of the reference: here it becomes a reference without an encoder.
"""

from __future__ import annotations

from scduet._torch import torch

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor, nn

from scduet.checkpoints.scvi_names import Names, from_scvi_tools, to_scvi_tools
from scduet.contract import Reference
from scduet.data.levels import text
from scduet.data.schema import Schema
from scduet.errors import FormatError
from scduet.models import find
from scduet.models.spatial import condscvi, destvi, stereoscope_cells
from scduet.nn.random import own_random_numbers

CONDSCVI = Names(
    stacks={"encoder.body": "z_encoder.encoder", "decoder": "decoder", "fine_body": "linear_mapping"},
    linear={
        "encoder.mean": "z_encoder.mean_encoder",
        "encoder.log_variance": "z_encoder.var_encoder",
        "share": "px_decoder",
        "batch_embedding": "_embeddings_dict.batch",
        "fine": "classifier.classifier.0",
    },
    may_be_unused=("pyro_param_store",),
    same={
        "log_dispersion": "px_r",
        "prior_mean": "prior_means",
        "prior_log_sd": "prior_log_std",
        "prior_logits": "prior_logits",
        "label_weight": "ct_weight",
    },
)
BIAS, HEAD, STATES = "per_ct_bias", "px_decoder", "gamma"
DESTVI = Names(
    stacks={
        "encoder.body": "z_encoder.encoder",
        "decoder": "decoder",
        "state_body": "gamma_encoder.0",
        "proportion_body": "V_encoder.0",
    },
    linear={
        "encoder.mean": "z_encoder.mean_encoder",
        "encoder.log_variance": "z_encoder.var_encoder",
        "share": "px_decoder",
        "batch_embedding": "_embeddings_dict.batch",
        "state_head": "gamma_encoder.1",
        "proportion_head": "V_encoder.1",
    },
    turned={"free_proportions": "V"},
    may_be_unused=("V", "gamma", "pyro_param_store"),  # of the networks, or the free parameters in their stead
    same={
        "log_dispersion": "px_r",
        "free_states": STATES,
        "platform": "beta",
        "extra_logits": "eta",
        "component_mean": "mean_vprior",
        "component_variance": "var_vprior",
        "component_weight": "mp_vprior",
    },
)
STEREOSCOPE_CELLS = Names(
    same={"rate": "W", "logit": "px_o"},
    may_be_unused=("ct_weight", "pyro_param_store"),
    unused=lambda theirs, _: {"ct_weight": torch.ones(theirs["W"].shape[1])},  # of types, all alike
)
STEREOSCOPE = Names(
    turned={"amount": "V"},
    same={"rate": "W", "logit": "px_o", "noise": "eta", "platform": "beta"},
    may_be_unused=("pyro_param_store",),
)
NAMES = {"condscvi": CONDSCVI, "destvi": DESTVI, "stereoscope_cells": STEREOSCOPE_CELLS, "stereoscope": STEREOSCOPE}


def read_weights(theirs: Mapping[str, Tensor], module: nn.Module, names: Names) -> dict[str, Tensor]:
    """A state dict for `module`. Raises FormatError where a weight is missing, left over or of another shape."""
    found = dict(theirs)
    if STATES in found:  # (latent, label, spot)
        found[STATES] = found[STATES].permute(2, 1, 0).contiguous()
    if BIAS in found:
        bias = found.pop(BIAS)
        if len(bias) > 1:
            found[f"{HEAD}.weight"] = torch.cat([found[f"{HEAD}.weight"], bias.t()], 1)
        else:  # the bias of the only type is one of the layer
            found[f"{HEAD}.bias"] = found[f"{HEAD}.bias"] + bias[0]
    return from_scvi_tools(found, module, names)


def written_weights(module: Any, names: Names) -> dict[str, Tensor]:
    """The state dict of scvi-tools' module; the weights that it never uses are zero."""
    found = to_scvi_tools(module, names)
    if f"{HEAD}.weight" not in found:  # of Stereoscope
        return found
    width = module.share.weight.shape[1]
    weight = found[f"{HEAD}.weight"]
    found[f"{HEAD}.weight"] = weight[:, :width].contiguous()
    if STATES in found:
        found[STATES] = found[STATES].permute(2, 1, 0).contiguous()
    if names is DESTVI:  # where networks give these, theirs are never used
        n, kinds = module.reference.n_cells, module.n_labels
        found.setdefault("V", weight.new_zeros(kinds + module.config.add_celltypes, n))
        found.setdefault(STATES, weight.new_zeros(module.n_latent, kinds, n))
    bias = weight[:, width:].t().contiguous()
    found[BIAS] = bias if len(bias) else weight.new_zeros(1, len(weight))
    return found


PARTS = ("decoder_state_dict", "px_decoder_state_dict", "px_r", "per_ct_bias", "mean_vprior", "var_vprior", "mp_vprior")
SIZES = ("n_hidden", "n_latent", "n_layers", "dropout_decoder")
OF_REFERENCE = (
    *PARTS,
    *SIZES,
    "cell_type_mapping",
    "sc_params",
    "st_adata",
)  # arguments: what is known of the reference
PRIOR = {"mean_vprior": "component_mean", "var_vprior": "component_variance", "mp_vprior": "component_weight"}
OF_MODULE = (  # our options of DestVI that are arguments of their module; the others belong to their loss
    *("dropout_amortization", "augmentation", "n_samples_augmentation", "n_states_per_label", "eps_v", "amortization"),
    *("prior_mode", "add_celltypes", "n_latent_amortization"),
)
SMOOTHED = "x_smoothed"  # their name for the smoothed counts
LABELS = "labels"  # column of the cell types of a reference that files of spots do not name


def options(name: str, given: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options that are not theirs, and None for theirs that are not ours."""
    if name == "condscvi":
        return {"prior": given.get("prior", "normal"), "ct_weight": None, "weight_obs": "ct_weight" in weights}
    ours = {"initialization": "random"} if name.startswith("stereoscope") else {}
    return {**dict.fromkeys(OF_REFERENCE), **ours}


def described(
    name: str, given: Mapping[str, Any], registry: Mapping[str, Any], schema: Schema, reference: Reference
) -> tuple[Schema, Reference, dict[str, Any]]:
    """The schema and the reference with what these models know beside, and what they hold, by argument."""
    if name == "condscvi":
        return *_with_fine_types(schema, reference, registry), {}
    plain = replace(reference, arrays={}, axes={})
    if name == "stereoscope_cells":
        shares = np.zeros((reference.n_labels, reference.n_genes), np.float32)
        return schema, replace(plain, arrays={"label_share": shares}), {}
    held = {"single_cell": _reference_of_spots(name, given, schema)}
    if name == "destvi":
        schema, plain = _with_smoothed(schema, plain, registry)
    return schema, replace(plain, arrays=_components(given) if name == "destvi" else {}), held


def _with_fine_types(schema: Schema, reference: Reference, registry: Mapping[str, Any]) -> tuple[Schema, Reference]:
    """Of a CondSCVI, with the finer types if it has learned any; theirs has "unlabeled" among them."""
    arrays = {"label_weight": np.ones(reference.n_labels, np.float32)}
    state = registry["field_registries"].get("fine_labels", {}).get("state_registry")
    names = tuple(map(text, state["categorical_mapping"])) if state else ()
    key = f"obs/{state['original_key']}" if state else None
    fields = condscvi.Fields(**{**vars(schema.fields), "fine_labels_key": key})
    features = {"fine": names} if names else {}
    sizes = {"fine": len(names)} if names else {}
    return (
        replace(schema, fields=fields, inputs=condscvi.CondSCVI.inputs, features=features),
        replace(reference, arrays=arrays, axes={}, n_extra=sizes),
    )


def _with_smoothed(schema: Schema, reference: Reference, registry: Mapping[str, Any]) -> tuple[Schema, Reference]:
    """Of a DestVI, with the layer of smoothed counts if it has one."""
    key = registry["field_registries"].get(SMOOTHED, {}).get("data_registry", {}).get("attr_key")
    fields = destvi.Fields(**{**vars(schema.fields), "smoothed_layer": None if key is None else f"layers/{key}"})
    genes = {} if key is None else {"smoothed": schema.genes}
    sizes = {name: len(names) for name, names in genes.items()}
    return (
        replace(schema, fields=fields, inputs=destvi.DestVI.inputs, features=genes),
        replace(reference, n_extra=sizes),
    )


def smoothed(schema: Schema, counts: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The entry of the smoothed counts in a registry of DestVI, none without them, and the argument of setup_anndata.

    counts: what is said of the counts. Raises FormatError for smoothed counts that are no layer.
    """
    place = getattr(schema.fields, "smoothed_layer", None)
    if place is None:
        return {}, None
    store, _, key = str(place).rpartition("/")
    if store not in ("", "layers"):
        raise FormatError(f"the smoothed counts are in {place}, for scvi-tools they must be a layer", "train it again")
    where = {"attr_name": "layers", "attr_key": key}
    return {SMOOTHED: {"data_registry": where, "state_registry": counts, "summary_stats": {}}}, key


def _reference_of_spots(name: str, given: Mapping[str, Any], schema: Schema) -> SimpleNamespace:
    """The model that a model of spots is on, as far as its file knows it: name, module, schema, reference, config."""
    types = tuple(map(text, given["cell_type_mapping"]))
    fields = replace(type(schema.fields)(), labels_key=LABELS)
    known = Schema(fields, schema.genes, {LABELS: types})
    n = len(types)
    if name == "stereoscope":
        config, arrays = stereoscope_cells.Config("random"), {"label_share": np.zeros((n, len(schema.genes)))}
        needed = "stereoscope_cells"
    else:
        prior, width = given.get("mean_vprior"), given["n_hidden"]
        if prior is None:
            raise FormatError("this DestVI has no components of the states", "train it with vamp_prior_p=")
        sizes = {"n_layers": given["n_layers"], "dropout_rate": given["dropout_decoder"]}
        config = condscvi.Config(width, given["n_latent"], num_classes_mog=int(prior.shape[1]), **sizes)
        needed, arrays = "condscvi", {"label_weight": np.ones(n)}
        known = replace(known, fields=condscvi.Fields(**vars(fields)), inputs=condscvi.CondSCVI.inputs)
    reference = Reference(len(known.genes), n_labels=n, arrays={k: v.astype(np.float32) for k, v in arrays.items()})
    with own_random_numbers():
        module: Any = find(needed)(reference, config)
    for parameter in module.parameters():
        parameter.requires_grad_(False).fill_(torch.nan)  # the encoder is not known: embedding gives NaN
    return SimpleNamespace(name=needed, module=module.eval(), schema=known, reference=reference, config=config)


def _components(given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The components of the states that a DestVI was made with."""
    return {ours: np.asarray(given[theirs], np.float32) for theirs, ours in PRIOR.items()}


def complete(held: Any, module: Any) -> None:
    """Give the reference what the model of spots holds of it."""
    with torch.no_grad():
        if held.name == "stereoscope_cells":
            held.module.rate.copy_(module.rate)
            held.module.logit.copy_(module.logit)
            return
        held.module.decoder.load_state_dict(module.decoder.state_dict())
        held.module.share.load_state_dict(module.share.state_dict())
        held.module.log_dispersion.copy_(module.log_dispersion)
        held.module.prior_mean.copy_(module.component_mean)
        held.module.prior_log_sd.copy_(0.5 * module.component_variance.log())
        held.module.prior_logits.copy_(module.component_weight.log())


def init(name: str, module: Any, holds: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Their arguments for our options and for what these models know of their reference."""
    if name in ("stereoscope_cells", "stereoscope"):
        del given["initialization"]
    if name == "condscvi" or not holds:
        return given
    held = holds["single_cell"]
    types = np.array(list(held.schema.values(str(held.schema.fields.labels_key))), dtype=object)
    if name == "stereoscope":
        parameters = tuple(weight.detach().cpu().numpy() for weight in (module.rate, module.logit))
        return {**given, "sc_params": parameters, "cell_type_mapping": types}
    weights, sizes = written_weights(module, DESTVI), held.config
    given = {option: value for option, value in given.items() if option in OF_MODULE}
    own = {
        "cell_type_mapping": types,
        **{f"{part}_state_dict": _of_part(weights, part) for part in ("decoder", HEAD)},
        "px_r": held.module.log_dispersion.detach().cpu().clone(),
        BIAS: weights[BIAS].cpu().clone(),
        "n_hidden": sizes.n_hidden,
        "n_latent": sizes.n_latent,
        "n_layers": sizes.n_layers,
        "dropout_decoder": sizes.dropout_rate,
    }
    components = {theirs: getattr(module, ours).cpu().clone() for theirs, ours in PRIOR.items()}
    return {**own, **given, **components}


def _of_part(weights: Mapping[str, Tensor], part: str) -> OrderedDict[str, Tensor]:
    start = f"{part}."
    found = {
        name.removeprefix(start): w.detach().cpu().clone() for name, w in weights.items() if name.startswith(start)
    }
    return OrderedDict(found)
