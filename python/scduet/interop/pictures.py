"""Pictures of a tissue, between the images of Seurat and uns["spatial"] of scanpy and squidpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData

from scduet.interop import objects

KEY = "spatial"  # of uns, and of the coordinates in obsm
BRIGHTEST = 255  # of a channel; R counts from 0 to 1
KINDS = ("lowres", "hires")  # the first that is there goes to Seurat, which draws the small one


@dataclass(frozen=True)
class Picture:
    """A picture as R's matrix of rows x (columns of each channel in turn), from 0 to 1, and its scale factors."""

    name: str
    kind: str
    n_channels: int
    values: objects.Block
    scales: dict[str, float]


def put_picture(
    adata: AnnData, name: str, kind: str, values: np.ndarray, n_channels: int, scales: Mapping[str, float]
) -> None:
    """Add a picture to uns["spatial"], whose values R has as (row, columns of each channel in turn), from 0 to 1."""
    rows, channels = np.asarray(values), int(n_channels)
    shown = rows.reshape(len(rows), channels, -1).transpose(0, 2, 1)
    whole = np.rint(shown.clip(0, 1) * BRIGHTEST).astype(np.uint8)
    known = {str(key): float(value) for key, value in scales.items()}
    adata.uns.setdefault(KEY, {})[name] = {"images": {kind: whole}, "scalefactors": known}


def pictures(adata: AnnData) -> list[Picture]:
    """The pictures that Seurat has a place for: one of each library with its scale factor, if there are coordinates."""
    libraries = adata.uns.get(KEY, {}) if KEY in adata.obsm else {}
    found = [_of_library(str(name), given) for name, given in libraries.items() if isinstance(given, Mapping)]
    return [picture for picture in found if picture is not None]


def _of_library(name: str, given: Mapping[str, Any]) -> Picture | None:
    images = given.get("images", {})
    scales = {str(key): float(value) for key, value in given.get("scalefactors", {}).items() if np.ndim(value) == 0}
    kind = next((kind for kind in KINDS if kind in images and f"tissue_{kind}_scalef" in scales), None)
    if kind is None:
        return None
    shown = np.asarray(images[kind])
    shown = np.repeat(shown[..., None], 3, -1) if shown.ndim == 2 else shown
    level = shown / BRIGHTEST if shown.dtype.kind in "iu" else shown
    flat = np.asarray(level, np.float64).transpose(0, 2, 1).reshape(len(shown), -1)
    return Picture(name, kind, shown.shape[2], objects.block(flat.T), scales)
