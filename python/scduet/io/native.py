"""scduet's model folders: a JSON manifest and one safetensors file. Reading one executes no code.

    model/
        scduet.json           format, versions, model, options, schema, history, sha256 of the weights
        weights.safetensors   weights and buffers, and the arrays of the reference

A folder is written under a temporary name and renamed; an existing one is moved aside first and deleted last. If the
process is killed at any point, the old or the new folder remains, and `read` finds it.
"""

from __future__ import annotations

from scduet._torch import torch

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scduet.errors import FormatError, some
from scduet.io.atomic import place_whole, recover, sha256

FORMAT = 2  # 2: inputs of models; 1 is read too
MANIFEST, WEIGHTS = "scduet.json", "weights.safetensors"


def write(folder: Path, manifest: dict, tensors: dict[str, torch.Tensor], overwrite: bool = False) -> None:
    """Write a model folder. Raises FormatError if it would replace something that must be kept."""
    folder = folder.absolute()
    recover(folder)
    _refuse(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    place_whole(folder, lambda new: _fill(new, manifest, tensors), durable=True)


def read(folder: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """The manifest and the tensors of a model folder.

    Raises FormatError for a folder that is not a scduet model, of a newer format, or damaged.
    """
    folder = folder.absolute()
    recover(folder)
    if not folder.exists():
        raise FormatError(f"{folder} does not exist", "check the path")
    if not (folder / MANIFEST).is_file():
        raise FormatError(f"{folder} is not a scduet model", f"a model folder contains {MANIFEST} and {WEIGHTS}")
    manifest = _manifest(folder)
    if manifest["format"] > FORMAT:
        raise FormatError(f"{folder} has format {manifest['format']}, newer than {FORMAT}", "update scduet")
    if not (folder / WEIGHTS).is_file():
        raise FormatError(f"{folder / WEIGHTS} is missing", "save or copy the model again")
    if sha256(folder / WEIGHTS) != manifest["weights_sha256"]:
        raise FormatError(f"{folder / WEIGHTS} is damaged: its checksum differs", "save or copy the model again")
    try:
        return manifest, load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise FormatError(f"{folder / WEIGHTS} cannot be read ({error})", "save or copy the model again") from error


def is_ours(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def kind_of(folder: Path) -> str | None:
    """The kind of model in a folder; None if it is not a scduet model."""
    return str(_manifest(folder).get("kind")) if is_ours(folder) else None


def _fill(folder: Path, manifest: dict, tensors: dict[str, torch.Tensor]) -> None:
    folder.mkdir()
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / WEIGHTS)
    manifest = {"format": FORMAT, **manifest, "weights_sha256": sha256(folder / WEIGHTS)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False), encoding="utf-8")


def _refuse(folder: Path, overwrite: bool) -> None:
    if not (folder.exists() or folder.is_symlink()):
        return
    if not overwrite:
        raise FormatError(f"{folder} exists", "choose another folder, or pass overwrite=True to replace a model there")
    if not (folder.is_dir() and is_ours(folder)) or folder.is_symlink():
        raise FormatError(f"{folder} is not a scduet model and will not be replaced", "choose another folder")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in (MANIFEST, WEIGHTS))
    if foreign:
        raise FormatError(f"{folder} contains other files: {some(foreign)}", "move them away first")


def _manifest(folder: Path) -> dict:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{folder / MANIFEST} is damaged ({error})", "save or copy the model again") from error
    ours = isinstance(manifest, dict) and isinstance(manifest.get("format"), int) and "weights_sha256" in manifest
    if not ours:
        raise FormatError(f"{folder / MANIFEST} is not the manifest of a scduet model", "is it another program's file?")
    return manifest


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """sha256 of named weights, independent of the file format."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
