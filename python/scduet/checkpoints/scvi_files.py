"""Model folders of scvi-tools, version 0.8 to 1.5: read without running anything in them.

model.pt                                       0.15 and later: weights, gene names, registry, history in one file
model_params.pt, attr.pkl, var_names.csv       before; both layouts may have a prefix
(adata.h5ad, README.md, _scvi_required_metadata.json beside it are not needed)
"""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scduet.checkpoints.scvi_gimvi import GENE_FILES, GENES
from scduet.errors import FormatError
from scduet.io.safe_pickle import read_pickle
from scduet.io.torch_archive import read_torch

ONE_FILE, THREE_FILES = "model.pt", ("model_params.pt", "attr.pkl", "var_names.csv")
NOT_THEIRS = ("vocab.json", "args.json")  # beside the best_model.pt of scGPT
OLD_REGISTRIES = "scvi_setup_dicts_"  # of a model of two data sets


def recognize(path: Path) -> bool:
    """Is this a model folder of scvi-tools, or its model.pt?"""
    if path.is_file():
        return path.suffix == ".pt"
    return bool(_files(path)) and not any((path / name).exists() for name in NOT_THEIRS)


def content(path: Path) -> tuple[dict[str, Tensor], Any, dict[str, Any]]:
    """Weights, names of genes (or of the features of each modality), and attributes."""
    found = [path] if path.is_file() else _files(path)
    if len(found) != 1:
        raise FormatError(f"{path} holds {len(found)} models of scvi-tools", "pass the path of one model.pt")
    if found[0].name.endswith(THREE_FILES[0]):
        return _three_files(found[0])
    content = read_torch(found[0])
    if isinstance(content, dict) and set(GENES.values()) <= set(content):
        content["var_names"] = {name: tuple(map(str, content[theirs])) for name, theirs in GENES.items()}
    if not isinstance(content, dict) or not {"model_state_dict", "var_names", "attr_dict"} <= set(content):
        raise FormatError(f"{found[0]} is no model of scvi-tools", "theirs hold model_state_dict, var_names, attr_dict")
    return _tensors(content["model_state_dict"]), content["var_names"], content["attr_dict"]


def _files(folder: Path) -> list[Path]:
    """Files that start a model: model.pt or model_params.pt, with any prefix."""
    return sorted(p for p in folder.glob("*.pt") if p.name.endswith((ONE_FILE, THREE_FILES[0])))


def _three_files(weights: Path) -> tuple[dict[str, Tensor], Any, dict[str, Any]]:
    def beside(name: str) -> Path:
        path = weights.with_name(weights.name.replace(THREE_FILES[0], name))
        if not path.is_file():
            raise FormatError(f"{path} is missing", "models from before 0.15 have three files")
        return path

    def names_in(path: Path) -> tuple[str, ...]:
        return tuple(line.split(",")[0] for line in path.read_text(encoding="utf-8").splitlines() if line)

    attributes = read_pickle(beside(THREE_FILES[1]))
    if OLD_REGISTRIES in attributes:
        names: Any = {name: names_in(beside(file)) for name, file in GENE_FILES.items()}
    else:
        names = names_in(beside(THREE_FILES[2]))
    return _tensors(read_torch(weights)), names, attributes


def _tensors(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}
