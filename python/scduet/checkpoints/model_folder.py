"""A trained model as the manifest and tensors of a folder (see `native`), and back."""

from __future__ import annotations

from scduet._torch import torch

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from scduet._version import __version__
from scduet.contract import Reference
from scduet.data.schema import Fields, Schema, refuse_newer
from scduet.errors import FormatError
from scduet.io import native
from scduet.models import MODELS, OWN, find
from scduet.nn.random import own_random_numbers
from scduet.options import build
from scduet.train.config import TrainConfig
from scduet.train.loop import TrainingResult

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Parts:
    """All that a folder keeps of a model."""

    name: str
    module: nn.Module
    schema: Schema
    reference: Reference
    config: Any
    training: TrainConfig
    outcome: TrainingResult
    holds: Mapping[str, Parts] = field(default_factory=dict)  # trained models that it stands on


def write(folder: Path, parts: Parts, overwrite: bool) -> None:
    """Raises FormatError when the folder exists, unless it is to be overwritten and holds a model and nothing else."""
    manifest, tensors = _told(parts)
    native.write(folder, {"kind": "scduet model", **manifest, "versions": versions()}, tensors, overwrite)


def read(folder: Path) -> Parts:
    """Raises FormatError for a folder that is damaged, of another kind, or written by a newer version."""
    manifest, tensors = native.read(folder)
    return _made(manifest, tensors, folder)


def versions() -> dict[str, str]:
    """What made a model: package versions."""
    found = {"scduet": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return found | {"numpy": np.__version__, "platform": platform.platform()}


def _told(parts: Parts) -> tuple[dict[str, Any], dict[str, Tensor]]:
    reference = {name: value for name, value in vars(parts.reference).items() if name != "arrays"}
    held = {name: _told(one) for name, one in parts.holds.items()}
    cls = type(parts.module)
    manifest = {
        "model": parts.name,
        **({} if parts.name in MODELS else {"class": f"{cls.__module__}:{cls.__qualname__}"}),
        "config": dataclasses.asdict(parts.config),
        "training": dataclasses.asdict(parts.training),
        "schema": parts.schema.to_json(),
        "reference": reference,
        "outcome": dataclasses.asdict(parts.outcome),
        **({"holds": {name: manifest for name, (manifest, _) in held.items()}} if held else {}),
    }
    tensors = {f"reference.{name}": torch.from_numpy(value) for name, value in parts.reference.arrays.items()}
    tensors |= {f"module.{name}": value for name, value in parts.module.state_dict().items()}
    for name, (_, theirs) in held.items():  # the module may have them as parts of its own: a file keeps nothing twice
        tensors |= {f"holds.{name}.{key}": value.clone() for key, value in theirs.items()}
    return manifest, tensors


def _made(manifest: dict, tensors: dict[str, Tensor], folder: Path) -> Parts:
    cls, told = _class_of(manifest, folder), manifest.get("holds", {})
    held = {name: _made(theirs, _part(f"holds.{name}.", tensors), folder) for name, theirs in told.items()}
    arrays = {name: value.numpy() for name, value in _part("reference.", tensors).items()}
    reference, config = _reference(manifest["reference"], arrays), _known(cls.Config, manifest, "config")
    with own_random_numbers():
        module = cls(reference, config, **held)
    try:
        module.load_state_dict(_part("module.", tensors))
    except RuntimeError as error:
        raise FormatError(f"the weights in {folder} do not fit the model: {error}", "was a file replaced?") from error
    schema = Schema.from_json(manifest["schema"], getattr(cls, "Fields", Fields))
    training, outcome = _known(TrainConfig, manifest, "training"), TrainingResult.from_json(manifest["outcome"])
    return Parts(manifest["model"], module.eval(), schema, reference, config, training, outcome, held)


def _class_of(manifest: dict, folder: Path) -> Any:
    """Raises FormatError for a class of the user's own that was not given: a file does not say what code to run."""
    name = manifest["model"]
    if "class" in manifest and name not in OWN:
        remedy = f'pass the class: load(folder, model={name}); in R LoadModel(path, model = "file.py:{name}")'
        raise FormatError(f"{folder} holds a model of your own class {name!r}, which is not known here", remedy)
    return find(name)


def _known(cls: type[Kind], manifest: dict, name: str) -> Kind:
    """The dataclass that an entry of a manifest tells. Raises FormatError for one that a newer version wrote."""
    refuse_newer(manifest[name], {f.name for f in dataclasses.fields(cls)}, name)  # pyright: ignore[reportArgumentType]
    return build(cls, manifest[name])


def _reference(state: dict, arrays: dict[str, np.ndarray]) -> Reference:
    refuse_newer(state, {f.name for f in dataclasses.fields(Reference)} - {"arrays"}, "reference")
    sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in state.items()}
    tables = {
        name: {key: tuple(values) for key, values in table.items()} for name, table in state.get("tables", {}).items()
    }
    before = dict.fromkeys((name for name in arrays if name.startswith("library_log_")), "batch")  # up to 0.1.0
    return Reference(**{"axes": before, **sizes, "tables": tables}, arrays=arrays)


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
