"""Folders of transformers: whole ones, trained here or read from elsewhere, and what fine-tuning changed in one.

model/                    of a fine-tuned transformer
    scduet.json           task, options, levels, history, where the base was read from, sha256 of its weights
    weights.safetensors   the weights that learned: with LoRA, under 2 % of a published transformer
"""

from __future__ import annotations

from scduet._torch import torch

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from scduet.checkpoints.rename import fill
from scduet.errors import FormatError
from scduet.io import native
from scduet.io.native import fingerprint
from scduet.options import build
from scduet.train.config import TrainConfig
from scduet.train.loop import TrainingResult
from scduet.transformers.encoder.performer import PerformerConfig
from scduet.transformers.encoder.trunk import TrunkConfig
from scduet.transformers.families import geneformer, scfoundation, scgpt
from scduet.transformers.objectives.finetune import Annotator, changed_weights
from scduet.transformers.objectives.integration import Integrator
from scduet.transformers.objectives.multiomic import MultiOmic
from scduet.transformers.tokenizers.vocabulary import Vocabulary

KIND, TUNED = "scduet transformer", "scduet fine-tuned transformer"
FAMILIES: dict[str, tuple[type, type]] = {
    "geneformer": (geneformer.Geneformer, geneformer.Config),
    "scgpt": (scgpt.ScGPT, scgpt.Config),
    "scfoundation": (scfoundation.ScFoundation, scfoundation.Config),
}
TASKS: dict[str, Any] = {  # built of encoder, levels, config
    "annotation": Annotator,
    "integration": Integrator,
    "multiomic": MultiOmic,
}
_NESTED = {"trunk": TrunkConfig, "decoder": PerformerConfig}


@dataclass(frozen=True)
class Parts:
    """All that is known of a transformer."""

    name: str
    module: nn.Module = field(repr=False)  # Geneformer, ScGPT or ScFoundation; after fine-tuning what holds it
    licence: str
    origin: str = ""  # folder or address it was read from
    head_weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)  # of training, not used to embed
    outcome: TrainingResult = field(default_factory=TrainingResult, repr=False)  # if trained here
    options: Mapping[str, Any] = field(default_factory=dict)  # of tokens and of `embed`, that suit it
    tuning: Tuning | None = None


@dataclass(frozen=True)
class Tuning:
    """What a transformer was fine-tuned for."""

    task: str  # a key of TASKS
    key: str  # column of obs that it learned
    levels: tuple[str, ...]  # cell types, or batches, in the order of their codes
    config: Any
    training: TrainConfig
    base: Parts = field(repr=False)  # as it was before
    values: str = "text"  # what the levels are to the user: text, or "int", "float", "bool"


def recognize(folder: Path) -> bool:
    return native.is_ours(folder) and native.kind_of(folder) == KIND


def write(model: Parts, folder: Path, overwrite: bool = False) -> None:
    """Raises FormatError when something is there that is not to be replaced."""
    manifest, weights = _whole(model) if model.tuning is None else _changed(model, model.tuning)
    native.write(folder, {**manifest, "outcome": dataclasses.asdict(model.outcome)}, weights, overwrite)


def read(folder: str | Path) -> Parts:
    """The whole transformer in a folder that `write` made. Raises FormatError for one that is damaged."""
    folder = Path(folder)
    manifest, tensors = native.read(folder)
    if manifest["model"] not in FAMILIES:
        raise FormatError(f"{folder} holds a {manifest['model']!r}, which is not known", "update scduet")
    cls, config = FAMILIES[manifest["model"]]
    nested = {name: _NESTED[name](**manifest["config"][name]) for name in _NESTED if name in manifest["config"]}
    vocabulary = Vocabulary(**manifest["vocabulary"])
    with torch.device("meta"):
        module = cls(config(**{**manifest["config"], **nested}), vocabulary)
    fill(module, _part("module.", tensors), folder.name)
    parts = str(folder), _part("head.", tensors), _outcome(manifest), manifest.get("embedding", {})
    return Parts(manifest["model"], module, manifest["licence"], *parts)


def read_tuned(folder: Path, base: Parts) -> Parts:
    """The transformer that was made of `base`. Raises FormatError where it was made of another one."""
    manifest, tensors = native.read(folder)
    if fingerprint(base.module.state_dict()) != manifest["base_sha256"]:
        message = f"{folder} was tuned on another transformer than {base.origin or 'the one given'}"
        raise FormatError(message, f"pass base= with the one it was tuned on, which was at {manifest['base']!r}")
    task, levels = manifest["task"], tuple(manifest["levels"])
    module, config = rebuilt(task, base.module, len(levels), manifest["config"])
    needed = {name: value.shape for name, value in changed_weights(module).items()}
    if needed != {name: value.shape for name, value in tensors.items()}:
        raise FormatError(f"the weights in {folder} do not fit their options", "save or copy the model again")
    module.load_state_dict(tensors, strict=False)
    training, values = build(TrainConfig, manifest["training"]), manifest.get("values", "text")
    tuning = Tuning(task, manifest["key"], levels, config, training, base, values)
    parts = str(folder), {}, _outcome(manifest), manifest["tokens"], tuning
    return Parts(base.name, module.eval(), base.licence, *parts)


def rebuilt(task: str, encoder: nn.Module, n_levels: int, options: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    """A module for `task` on a copy of the encoder, with new heads, and its options; the encoder stays as it is."""
    config = build(TASKS[task].Config, options)
    return TASKS[task](copy.deepcopy(encoder), n_levels, config), config


def _whole(model: Parts) -> tuple[dict[str, Any], dict[str, Tensor]]:
    vocabulary = vars(model.module.vocabulary)
    manifest = {
        "kind": KIND,
        "model": model.name,
        "config": dataclasses.asdict(model.module.config),  # pyright: ignore[reportArgumentType, reportCallIssue]
        "vocabulary": {name: dict(v) if isinstance(v, Mapping) else v for name, v in vocabulary.items()},
        "licence": model.licence,
        "origin": model.origin,
        "embedding": dict(model.options),
    }
    weights = {f"module.{name}": weight for name, weight in model.module.state_dict().items()}
    return manifest, weights | {f"head.{name}": weight for name, weight in model.head_weights.items()}


def _changed(model: Parts, tuning: Tuning) -> tuple[dict[str, Any], dict[str, Tensor]]:
    origin = tuning.base.origin  # as a place that means the same from whatever folder it is looked for later
    manifest = {
        "kind": TUNED,
        "task": tuning.task,
        "base": str(Path(origin).absolute()) if origin and Path(origin).exists() else origin,
        "base_sha256": fingerprint(tuning.base.module.state_dict()),
        "key": tuning.key,
        "levels": tuning.levels,
        "values": tuning.values,
        "config": dataclasses.asdict(tuning.config),
        "tokens": dict(model.options),
        "training": dataclasses.asdict(tuning.training),
    }
    return manifest, changed_weights(model.module)


def _outcome(manifest: Mapping[str, Any]) -> TrainingResult:
    if "outcome" in manifest:
        return TrainingResult.from_json(manifest["outcome"])
    columns = manifest["history"]  # up to format 2 of whole transformers
    rows = zip(*columns.values(), strict=True) if "epoch" in columns else ()
    return TrainingResult([dict(zip(columns, row, strict=True)) for row in rows])


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def read_json(path: Path) -> Any:
    """A file of a published folder. Raises FormatError if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise FormatError(f"{path} is missing", "download the whole folder") from None
    except ValueError as error:
        raise FormatError(f"{path} is damaged ({error})", "download it again") from None
