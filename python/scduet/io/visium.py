"""Reads folders of Space Ranger (10x Visium): counts, places of the spots, and pictures of the tissue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scduet.errors import FormatError, some
from scduet.io import tenx

MATRICES = ("filtered_feature_bc_matrix.h5", "filtered_feature_bc_matrix", "raw_feature_bc_matrix.h5")
POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv")  # Space Ranger 2 and later; before, without a header
COLUMNS = ("in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
PICTURES = {"hires": "tissue_hires_image.png", "lowres": "tissue_lowres_image.png"}


def is_folder(path: Path) -> bool:
    """Whether `path` is the outs/ folder of Space Ranger: a matrix beside a folder `spatial` with positions."""
    return (
        path.is_dir() and any((path / "spatial" / name).is_file() for name in POSITIONS) and _matrix(path) is not None
    )


def read_folder(path: Path) -> AnnData:
    """Spots under tissue, as scanpy and squidpy hold them.

    obsm["spatial"]: x (column) and y (row) in pixels of the full-resolution picture. obs: in_tissue, array_row,
    array_col. uns["spatial"][name]: the pictures "hires" and "lowres", where matplotlib can read them, and the scale
    factors. name: that of the folder, or of its parent if it is called outs.

    Raises FormatError for a missing or damaged file, and for spots without a position.
    """
    matrix = _matrix(path)
    if matrix is None:
        raise FormatError(f"{path} has no matrix", f"it needs one of {some(MATRICES, 9)}")
    adata = tenx.read_h5(matrix) if matrix.suffix == ".h5" else tenx.read_folder(matrix)
    places = _positions(path / "spatial")
    absent = adata.obs_names[~adata.obs_names.isin(places.index)]
    if len(absent):
        raise FormatError(f"{len(absent)} spots of {matrix.name} have no position: {some(absent)}", "copy both again")
    here = places.loc[adata.obs_names]
    adata.obs[list(COLUMNS[:3])] = here[list(COLUMNS[:3])].to_numpy()
    adata.obsm["spatial"] = here[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(np.float64)
    name = path.resolve().parent.name if path.resolve().name == "outs" else path.resolve().name
    adata.uns["spatial"] = {name: {"images": _pictures(path / "spatial"), "scalefactors": _scales(path / "spatial")}}
    return adata[adata.obs["in_tissue"].to_numpy() == 1].copy()


def _matrix(path: Path) -> Path | None:
    found: Sequence[Path] = [path / name for name in MATRICES if (path / name).exists()]
    found = found or sorted(path.glob("*filtered_feature_bc_matrix.h5"))  # as deposited, with a prefix
    return found[0] if found else None


def _positions(folder: Path) -> pd.DataFrame:
    """By barcode. Old files have no header, new ones do."""
    file = next(folder / name for name in POSITIONS if (folder / name).is_file())
    with file.open(encoding="utf-8") as lines:
        header = 0 if lines.readline().startswith("barcode") else None
    table = pd.read_csv(file, header=header, index_col=0)
    if table.shape[1] < len(COLUMNS):
        raise FormatError(f"{file} has {table.shape[1] + 1} columns", f"it needs barcode, {', '.join(COLUMNS)}")
    table = table.iloc[:, : len(COLUMNS)]
    return table.set_axis(list(COLUMNS), axis=1) if header is None else table


def _scales(folder: Path) -> dict[str, float]:
    file = folder / "scalefactors_json.json"
    return {key: float(value) for key, value in json.loads(file.read_text("utf-8")).items()} if file.is_file() else {}


def _pictures(folder: Path) -> dict[str, Any]:
    """Arrays (row, column, channel) from 0 to 255."""
    from PIL import Image

    files = {name: folder / file for name, file in PICTURES.items() if (folder / file).is_file()}
    return {name: np.asarray(Image.open(file).convert("RGB")) for name, file in files.items()}
