"""Saved models that R works with: read once, kept in memory between calls, known by the checksum of their folder."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import scduet
from scduet.errors import FormatError
from scduet.io.atomic import sha256 as checksum

Saved = dict[str, str]  # "folder" and "sha256" of a saved model


@lru_cache(maxsize=16)
def _checksum(folder: str, stamps: tuple) -> str:
    return checksum(Path(folder))


def digest(folder: str) -> str:
    """sha256 of a folder, worked out again only when its files have changed; "" where there is none."""
    if not os.path.isdir(folder):
        return ""
    stamps = ((file.path, file.stat().st_size, file.stat().st_mtime_ns) for file in os.scandir(folder))
    return _checksum(folder, tuple(sorted(stamps)))


N_KEPT = 4  # models in memory, those last used
_kept: dict[str, Any] = {}  # sha256 of a folder -> the model in it


def keep(model, folder: str) -> Any:
    """Keep a model that was just read from `folder`, or written there, for the next call of R; returns it."""
    found = digest(folder)
    _kept.pop(found, None)
    _kept[found] = model
    for oldest in list(_kept)[:-N_KEPT]:
        del _kept[oldest]
    return model


def saved(folder: str, sha256: str | None = None):
    """The model saved in `folder`, or at an address of the hub; a second call finds it in memory.

    sha256: what R knows of it. Raises FormatError where another model is there now.
    """
    found = digest(folder)
    if sha256 is not None and found != sha256:
        what = "was changed since it was saved" if found else "is not there any more"
        raise FormatError(f"the model in {folder!r} {what}", "load it again with LoadModel(), or train it again")
    if not found:
        return scduet.load(folder)
    return keep(_kept[found] if found in _kept else scduet.load(folder), folder)
