"""scvi-tools' external models: SOLO."""

from __future__ import annotations

from typing import Any

from scduet.scvi.solo import SOLO

__all__ = ["SOLO"]


def __getattr__(name: str) -> Any:
    raise AttributeError(f"scduet.scvi.external has no {name!r}: see scduet.models.MODELS for the models that are here")
