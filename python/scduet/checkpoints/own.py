"""Transformers in our own folders: those pre-trained here, or read from elsewhere and saved again."""

from __future__ import annotations

from scduet._torch import torch

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from scduet.checkpoints.rename import fill
from scduet.errors import FormatError
from scduet.io import native
from scduet.train.group import is_first
from scduet.transformers.encoder.performer import PerformerConfig
from scduet.transformers.encoder.trunk import TrunkConfig
from scduet.transformers.families import geneformer, scfoundation, scgpt
from scduet.transformers.inference.pretrained import Pretrained
from scduet.transformers.tokenizers.vocabulary import Vocabulary

KIND = "scduet transformer"
FAMILIES: dict[str, tuple[type, type]] = {
    "geneformer": (geneformer.Geneformer, geneformer.Config),
    "scgpt": (scgpt.ScGPT, scgpt.Config),
    "scfoundation": (scfoundation.ScFoundation, scfoundation.Config),
}
_NESTED = {"trunk": TrunkConfig, "decoder": PerformerConfig}


def recognize(folder: Path) -> bool:
    return native.is_ours(folder) and native.kind_of(folder) == KIND


def write(model: Pretrained, folder: Path, overwrite: bool = False) -> None:
    """Write `model` to `folder`; raises FormatError when something is there that is not to be replaced.

    Of several processes under torchrun only the first writes.
    """
    if not is_first():
        return
    manifest = {
        "kind": KIND,
        "model": model.name,
        "config": dataclasses.asdict(model.module.config),
        "vocabulary": {name: _plain(value) for name, value in vars(model.vocabulary).items()},
        "licence": model.licence,
        "origin": model.origin,
        "embedding": dict(model.embedding),
        "history": model.history.reset_index().to_dict(orient="list"),
    }
    weights = {f"module.{name}": weight for name, weight in model.module.state_dict().items()}
    heads = {f"head.{name}": weight for name, weight in model.set_aside.items()}
    native.write(folder, manifest, {**weights, **heads}, overwrite)


def read(folder: str | Path) -> Pretrained:
    """The transformer in a folder that `write` made. Raises FormatError for one that is damaged."""
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
    history = pd.DataFrame(manifest["history"])
    history = history.set_index("epoch") if "epoch" in history else history.drop(columns="index", errors="ignore")
    parts = str(folder), _part("head.", tensors), history, manifest.get("embedding", {})
    return Pretrained(manifest["model"], module, manifest["licence"], *parts)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
