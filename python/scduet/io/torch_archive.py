"""Reads weights from `torch.save` files without executing code: the zip here, its pickle in `safe_pickle.py`.

Tensors are views of the memory-mapped file, so a forged size costs no memory: every storage must lie within its zip
entry, and every tensor within its storage.
"""

from __future__ import annotations

from scduet._torch import torch

import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from scduet.errors import FormatError
from scduet.io.safe_pickle import MAX_BYTES, Name, Record, unpickle

_DTYPES = {  # torch's storage class -> how numpy reads the bytes, what torch calls them
    "Float": (np.float32, torch.float32),
    "Double": (np.float64, torch.float64),
    "Half": (np.float16, torch.float16),
    "BFloat16": (np.int16, torch.bfloat16),
    "Long": (np.int64, torch.int64),
    "Int": (np.int32, torch.int32),
    "Short": (np.int16, torch.int16),
    "Char": (np.int8, torch.int8),
    "Byte": (np.uint8, torch.uint8),
    "Bool": (np.uint8, torch.bool),
}
_FORGED = "the file is damaged or forged: download it again from its publisher"


def read_torch(path: str | Path) -> Any:
    """Read the saved object: tensors (on the CPU), numpy arrays, containers, numbers and text.

    Raises `FormatError` for TorchScript programs, for torch's formats before 1.6, and for anything that is not data.
    """
    path = Path(path)
    with _opened(path) as archive:
        inside = _Archive(path, archive)
        return unpickle(inside.program(), path.name, TORCH_NAMES, inside.storage)


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise FormatError(
            f"{path.name!r} {_not_a_zip(path)}", "download it again, or save it with a recent version of torch"
        ) from None


def _not_a_zip(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith((b"\x80\x02\x8a\nl\xfc\x9cF\xf9", b"\x80\x02cmoduledefs")):
        return "is in torch's format from before 1.6, which cannot be checked before it is read"
    if start[257:262] == b"ustar":
        return "is a tar archive, torch's format from before 0.4"
    return "is not a torch archive, or is truncated"


class _Archive:
    """A zip file as torch writes it: every entry uncompressed, under one folder."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path = path
        self.file = np.memmap(path, np.uint8, mode="c").view(np.ndarray)  # changes to it stay in memory
        self.entries = {info.filename: info for info in archive.infolist()}
        programs = [name for name in self.entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(self.entries) != len(archive.infolist()) or len(programs) != 1:
            raise FormatError(f"{path.name!r} is a zip file, but not a torch archive", _FORGED)
        self.folder = programs[0].removesuffix("data.pkl")
        if any(name.removeprefix(self.folder).startswith(("code/", "constants.pkl")) for name in self.entries):
            raise FormatError(f"{path.name!r} is a TorchScript program, not weights", "ask its author for a state dict")
        if f"{self.folder}byteorder" in self.entries and bytes(self.bytes("byteorder")) != b"little":
            raise FormatError(f"{path.name!r} was written by a big-endian machine", "save it on a little-endian one")
        self.storages: dict[str, Tensor] = {}

    def program(self) -> bytes:
        return bytes(self.bytes("data.pkl", MAX_BYTES))

    def bytes(self, name: str, most: int | None = None) -> np.ndarray:
        """An entry of the zip, as a view of the file."""
        info = self.entries.get(self.folder + name)
        if info is None or info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise FormatError(f"{self.path.name!r} has no plainly stored entry {name!r}", _FORGED)
        start, size = self._start(info), info.file_size
        if start + size > len(self.file) or size != info.compress_size or size > (most or size):
            raise FormatError(f"entry {name!r} of {self.path.name!r} claims {size:,} bytes", _FORGED)
        return self.file[start : start + size]

    def _start(self, info: zipfile.ZipInfo) -> int:
        header = self.file[info.header_offset : info.header_offset + 30].tobytes()
        if len(header) < 30 or header[:4] != b"PK\3\4":
            raise FormatError(f"{self.path.name!r} has no entry where its directory says", _FORGED)
        return info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))

    def storage(self, key: Any) -> _Storage:
        """The flat tensor that a persistent id ("storage", class, entry, device, length) stands for."""
        kind, storage_class, entry, _, length = key
        known = _DTYPES.get(getattr(storage_class, "name", "").removeprefix("torch.").removesuffix("Storage"))
        if kind != "storage" or known is None or type(entry) is not str or type(length) is not int:
            raise FormatError(f"{self.path.name!r} refers to {key!r}, which is not a torch storage", _FORGED)
        raw = self.bytes(f"data/{entry}")
        if length < 0 or length * np.dtype(known[0]).itemsize > raw.size:
            raise FormatError(f"storage {entry!r} of {self.path.name!r} claims {length:,} numbers", _FORGED)
        return _Storage(self._flat(raw[: length * np.dtype(known[0]).itemsize], *known))

    @staticmethod
    def _flat(raw: np.ndarray, numpy_type: type, torch_type: torch.dtype) -> Tensor:
        aligned = raw if raw.ctypes.data % np.dtype(numpy_type).itemsize == 0 else raw.copy()
        flat = torch.from_numpy(aligned.view(numpy_type))
        return flat != 0 if torch_type is torch.bool else flat.view(torch_type)


@dataclass(frozen=True)
class _Storage:
    flat: Tensor


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A view within a storage, and no larger than it (a stride of 0 could request any size)."""
    numbers = (offset, *shape, *stride)
    if (
        not isinstance(storage, _Storage)
        or len(shape) != len(stride)
        or any(type(n) is not int or n < 0 for n in numbers)
    ):
        raise FormatError(f"invalid tensor of shape {shape}, stride {stride}, offset {offset}", _FORGED)
    size = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if size else offset
    if size > len(storage.flat) or last > len(storage.flat) - bool(size):
        raise FormatError(f"a tensor of shape {shape} exceeds its storage of {len(storage.flat):,} numbers", _FORGED)
    return storage.flat.as_strided(shape, stride, offset)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise FormatError(f"a parameter made of a {type(data).__name__} cannot be", _FORGED)
    return data


def _inert(name: str) -> Callable[..., Any]:
    return lambda *args: Record(name, args)


TORCH_NAMES: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    **{name: _inert(name) for name in (f"torch.{kind}Storage" for kind in _DTYPES)},
    **{name: _inert(name) for name in ("torch.device", "torch.Size")},
    **{name: _inert(name) for name in (f"torch.{str(t).removeprefix('torch.')}" for _, t in _DTYPES.values())},
}
__all__ = ["Name", "Record", "read_torch"]
