"""Models of scvi-tools, version 0.8 to 1.5: what their files hold, as the parts of a model of ours."""

from __future__ import annotations

from scduet._torch import torch

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from scduet.checkpoints import scvi_files as files
from scduet.checkpoints import scvi_gimvi as gimvi
from scduet.checkpoints import scvi_multivi as multivi
from scduet.checkpoints import scvi_spatial as spatial
from scduet.checkpoints import scvi_totalvi as totalvi
from scduet.checkpoints import scvi_velovi as velovi
from scduet.checkpoints.scvi_names import VAE, from_scvi_tools
from scduet.checkpoints.scvi_tables import MULTIVI, TOTALVI, VELOVI
from scduet.contract import Reference, has_cells
from scduet.data.checks import mark_of_number
from scduet.data.levels import kind_of, text
from scduet.data.schema import Fields, Schema
from scduet.errors import FormatError, OptionError, some
from scduet.models import find
from scduet.nn.random import own_random_numbers
from scduet.options import build

MODELS = {  # theirs: ours
    **dict(SCVI="scvi", SCANVI="scanvi", LinearSCVI="ldvae", AUTOZI="autozi", TOTALVI="totalvi"),
    **dict(PEAKVI="peakvi", POISSONVI="poissonvi", MULTIVI="multivi", VELOVI="velovi"),
    **dict(CondSCVI="condscvi", DestVI="destvi"),
    **dict(RNAStereoscope="stereoscope_cells", SpatialStereoscope="stereoscope", GIMVI="gimvi"),
}
NAMES = {
    "gimvi": gimvi.GIMVI,
    "totalvi": TOTALVI,
    "multivi": MULTIVI,
    "velovi": VELOVI,
    **spatial.NAMES,
}  # of weights, where not VAE's
NO_MATTER = {  # arguments that do not change the model
    *("use_cuda", "use_gpu", "datamodule", "registry", "adata", "pretrained_model", "unlabeled_category", "labels_key"),
    *("extra_payload_autotune", "data_and_attributes"),
}
LINEAR_CLASSIFIER = (
    "classifier.classifier.0.",
    "classifier.classifier.1.",
)  # where theirs has it, where our table does
UNUSED = ("y_prior", "pyro_param_store")
recognize = files.recognize


@dataclass(frozen=True)
class Foreign:
    """What a folder of scvi-tools holds, as the parts of a model of ours."""

    name: str
    module: nn.Module
    schema: Schema
    reference: Reference
    config: Any
    history: list[dict[str, float]]
    train_rows: list[int] | None = None  # of the cells it was trained on
    held_out: list[int] | None = None
    holds: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # argument -> what is known of a model it is on


def read(path: Path) -> Foreign:
    """The model in a folder, or in a model.pt.

    Raises FormatError, saying what is wrong, for files that are damaged, forged, or of a model of another kind.
    """
    weights, names, attributes = files.content(path)
    if gimvi.GENES.keys() == (names.keys() if isinstance(names, dict) else ()):
        return _of_two_data_sets(path, weights, names, attributes)
    known = _registry(attributes)
    name = MODELS.get(str(known.get("model_name")))
    if name is None:
        kind = known.get("model_name")
        raise FormatError(f"{path} holds a {kind} of scvi-tools", f"those that can be read are {some(MODELS, 9)}")
    given = _flat(attributes.get("init_params_", {}))
    given |= totalvi.options(given, known, weights) if name == "totalvi" else {}
    given |= multivi.options(known, weights, path) if name == "multivi" else {}
    theirs = dict(given)
    given |= spatial.options(name, given, weights) if name in spatial.NAMES else {}
    config = _config(name, given, path)
    features = multivi.features(names, known, weights) if name == "multivi" else {}
    genes = features.get("rna") or _genes(names, known, path / "model.pt" if path.is_dir() else path)
    schema = _schema(name, known, genes, weights)
    reference = _reference(schema, known, weights)
    if name == "totalvi":
        schema, reference = totalvi.with_proteins(schema, reference, known)
    if name == "velovi":
        schema, reference = velovi.with_layers(schema, reference, known, weights)
    if features:
        schema, reference = multivi.with_modalities(schema, reference, known, features, weights)
    holds = {}
    if name in spatial.NAMES:
        schema, reference, holds = spatial.described(name, theirs, known, schema, reference)
    with own_random_numbers():
        module = find(name)(reference, config, **holds)
    read_weights = spatial.read_weights if name in spatial.NAMES else from_scvi_tools
    module.load_state_dict(read_weights(_renamed(name, config, weights), module, NAMES.get(name, VAE)))
    for held in holds.values():
        spatial.complete(held, module)
    rows, held_out = (_places(attributes.get(f"{which}_indices_")) for which in ("train", "validation"))
    history = _history(attributes.get("history_"))
    if has_cells(type(module), config):  # whose names are not in the file
        schema = replace(schema, cells=mark_of_number(reference.n_cells))
    return Foreign(name, module.eval(), schema, reference, config, history, rows, held_out, holds)


def _of_two_data_sets(
    path: Path, weights: Mapping[str, Tensor], genes: Mapping[str, tuple[str, ...]], attributes: Mapping[str, Any]
) -> Foreign:
    """A gimVI."""
    given = _flat(attributes.get("init_params_", {}))
    config = _config("gimvi", {**given, **gimvi.options(given)}, path)
    schema, reference = gimvi.described(genes, _registries(attributes), weights)
    with own_random_numbers():
        module = find("gimvi")(reference, config)
    module.load_state_dict(gimvi.read_weights(weights, module, genes))
    return Foreign("gimvi", module.eval(), schema, reference, config, _history(attributes.get("history_")))


def registry(path: Path) -> dict[str, Any]:
    """What a model there knows of its data: `setup_args`, `field_registries`, `model_name`."""
    attributes = files.content(path)[2]
    return _registries(attributes)[0] if "registries_" in attributes else _registry(attributes)


def _genes(names: Any, registry: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Names of the main matrix, among those of a MuData's modalities."""
    main = registry["field_registries"].get("X", {}).get("data_registry", {}).get("mod_key")
    if isinstance(names, dict) and main not in names:
        message = f"{path} is a model of the modalities {some(names)}, and does not say which is the main one"
        raise FormatError(message, "save the model again with scvi-tools")
    return tuple(map(str, names[main] if isinstance(names, dict) else names))


def _registry(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The registry; of models before 0.15 it is made from their setup dictionary."""
    if "registry_" in attributes:
        return attributes["registry_"]
    if "scvi_setup_dict_" not in attributes:
        raise FormatError("the model file has no registry", "save it again with scvi-tools 0.8 or later")
    setup, init = attributes["scvi_setup_dict_"], _flat(attributes.get("init_params_", {}))
    groups = {"batch_indices": "batch", "labels": "labels"}
    places = {groups[k]: v["attr_key"] for k, v in setup["data_registry"].items() if k in groups}
    fields = {name: {"state_registry": _categories(setup["categorical_mappings"][key])} for name, key in places.items()}
    extra = setup.get("extra_categoricals") or {"mappings": {}, "keys": []}
    fields["extra_categorical_covs"] = {"state_registry": {"mappings": extra["mappings"], "field_keys": extra["keys"]}}
    continuous = setup.get("extra_continuous_keys")
    fields["extra_continuous_covs"] = {"state_registry": {"columns": [] if continuous is None else continuous}}
    counts = setup["data_registry"]["X"]
    arguments = {"layer": counts["attr_key"] if counts["attr_name"] == "layers" else None}
    arguments["unlabeled_category"] = init.get("unlabeled_category", attributes.get("unlabeled_category_"))
    name = "SCANVI" if arguments["unlabeled_category"] is not None else _guessed(attributes)
    return {"model_name": name, "setup_args": arguments, "field_registries": fields}


def _registries(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of a model of two data sets."""
    if "registries_" in attributes:
        return attributes["registries_"]
    return [_registry({"scvi_setup_dict_": one}) for one in attributes[files.OLD_REGISTRIES]]


def _categories(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {"original_key": mapping["original_key"], "categorical_mapping": mapping["mapping"]}


def _guessed(attributes: Mapping[str, Any]) -> str:
    """The class of a model from before 0.15, which does not say it."""
    options = _flat(attributes.get("init_params_", {}))
    for option, name in (("zero_inflation", "AUTOZI"), ("model_depth", "PEAKVI"), ("n_regions", "MULTIVI")):
        if option in options:
            return name
    return "LinearSCVI" if options.get("use_observed_lib_size") is False and "bias" in options else "SCVI"


def _flat(init: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the constructor, which are nested in one of several ways."""
    flat: dict[str, Any] = {}
    for name, value in init.items():
        nested = name in ("kwargs", "non_kwargs", "model_kwargs", "module_kwargs") and isinstance(value, dict)
        flat |= _flat(value) if nested else {name: value}
    return flat


def _config(name: str, given: Mapping[str, Any], path: Path) -> Any:
    config = find(name).Config  # pyright: ignore[reportAttributeAccessIssue]
    known = {f.name for f in dataclasses.fields(config)}
    strange = {k: v for k, v in given.items() if k not in known | NO_MATTER and v not in (None, {}, [], ())}
    if strange:
        raise FormatError(f"{path} was made with options that cannot be read: {strange}", "train it again without them")
    try:
        return build(config, {k: v for k, v in given.items() if k in known and v is not None})
    except OptionError as error:
        raise FormatError(f"{path} was made with options that cannot be read: {error.message}", error.hint) from error


def _schema(name: str, registry: Mapping[str, Any], genes: tuple[str, ...], weights: Mapping[str, Tensor]) -> Schema:
    fields, arguments = registry["field_registries"], registry.get("setup_args", {})
    own: dict[str, list[Any]] = {}
    batch, labels = (_key(fields.get(kind, {}), f"_scvi_{kind}") for kind in ("batch", "labels"))
    if batch is not None:
        own[batch] = list(fields["batch"]["state_registry"]["categorical_mapping"])
    unlabeled = Fields.unlabeled_category
    if labels is not None:
        state = fields["labels"]["state_registry"]
        own[labels] = list(state["categorical_mapping"])
        unlabeled = text(state.get("unlabeled_category", arguments.get("unlabeled_category", unlabeled)))
        if name == "scanvi":
            own[labels] = [v for v in own[labels] if text(v) != unlabeled][: weights["y_prior"].shape[-1]]
    extra = fields.get("extra_categorical_covs", {}).get("state_registry") or {"mappings": {}, "field_keys": []}
    categorical = tuple(map(str, extra["field_keys"]))
    own |= {key: list(extra["mappings"][key]) for key in categorical}
    continuous = fields.get("extra_continuous_covs", {}).get("state_registry") or {"columns": []}
    return Schema(
        Fields(
            layer=arguments.get("layer"),
            batch_key=batch,
            labels_key=labels,
            unlabeled_category=unlabeled,
            categorical_covariate_keys=categorical,
            continuous_covariate_keys=tuple(map(str, continuous["columns"])),
            size_factor_key=arguments.get("size_factor_key"),
        ),
        genes,
        {key: tuple(map(text, values)) for key, values in own.items()},
        kinds={key: kind for key, values in own.items() if (kind := kind_of(values)) != "text"},
    )


def _key(registry: Mapping[str, Any], default: str) -> str | None:
    """The column of obs, None where the user named none."""
    key = registry.get("state_registry", {}).get("original_key")
    return None if key is None or key == default else str(key)


def _reference(schema: Schema, registry: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Reference:
    f, n = schema.fields, {key: len(levels) for key, levels in schema.levels.items()}
    n_batches = 1 if f.batch_key is None else n[f.batch_key]
    means = weights.get("library_log_means", torch.zeros(1, n_batches))
    variances = weights.get("library_log_vars", torch.ones(1, n_batches))
    return Reference(
        n_genes=len(schema.genes),
        n_batches=n_batches,
        n_labels=0 if f.labels_key is None else n[f.labels_key],
        n_categories=tuple(n[key] for key in f.categorical_covariate_keys),
        n_continuous=len(f.continuous_covariate_keys),
        size_factor=f.size_factor_key is not None,
        n_cells=int(registry["field_registries"].get("X", {}).get("summary_stats", {}).get("n_cells", 0)),
        arrays={"library_log_mean": means.numpy().ravel(), "library_log_variance": variances.numpy().ravel()},
        axes={"library_log_mean": "batch", "library_log_variance": "batch"},
    )


def _renamed(name: str, config: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prior = weights.get("y_prior")
    if prior is not None and not torch.allclose(prior, torch.full_like(prior, 1 / prior.numel())):
        remedy = "only scANVI with a uniform prior can be read: train it again without y_prior"
        raise FormatError("y_prior, the prior of this scANVI over cell types, is not uniform", remedy)
    linear = name == "scanvi" and config.linear_classifier
    used = {key: value for key, value in weights.items() if key not in UNUSED}
    return {key.replace(*LINEAR_CLASSIFIER) if linear else key: value for key, value in used.items()}


def _history(frames: Any) -> list[dict[str, float]]:
    """One row an epoch, from data frames that stayed unread pandas pickles; empty where they are of another form."""
    rows: dict[int, dict[str, float]] = {}
    for name, frame in (frames or {}).items():
        for epoch, value in _series(frame):
            rows.setdefault(epoch, {"epoch": epoch})[_renamed_term(str(name))] = value
    return [rows[epoch] for epoch in sorted(rows)]


def _places(found: Any) -> list[int] | None:
    return [int(place) for place in found] if isinstance(found, np.ndarray) and len(found) else None


def _renamed_term(name: str) -> str:
    terms = {"train_loss_epoch": "loss_train", "train_loss": "loss_train", "validation_loss": "loss_validation"}
    return terms.get(name, name.replace("reconstruction_loss_", "reconstruction_").replace("kl_local_", "kl_"))


def _series(frame: Any) -> list[tuple[int, float]]:
    """Epoch and value of each row of a pickled data frame with one column."""
    try:
        blocks, axes = frame.state["_mgr"].args
        values, epochs = np.asarray(blocks[0].args[0]).ravel(), np.asarray(axes[1].args[1]["data"]).ravel()
        return [(int(epoch), float(value)) for epoch, value in zip(epochs, values, strict=True) if value == value]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return []
