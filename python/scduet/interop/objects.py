"""AnnData in parts, as the R package puts them together and takes them apart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scduet.errors import FormatError
from scduet.interop import codec
from scduet.io.atomic import place_whole
from scduet.io.cells import EMBEDDINGS

NOTES = "scduet"  # entry of uns that keeps what AnnData has no place for, as JSON
PLACES = ("layers", "obsm", "varm", "obsp")


@dataclass(frozen=True)
class Block:
    """A matrix as R keeps it: `shape` is R's dim. Sparse: the arrays of a dgCMatrix. Dense: values column by column."""

    values: np.ndarray
    shape: tuple[int, int]
    rows: np.ndarray | None = None
    pointers: np.ndarray | None = None

    @property
    def is_sparse(self) -> bool:
        return self.rows is not None


def new(x, obs: pd.DataFrame, var: pd.DataFrame) -> AnnData:
    """An AnnData of cells x genes."""
    return AnnData(x, obs=obs, var=var)


def put(adata: AnnData, place: str, key: str, value: Any, rows: list | None = None, names: list | None = None) -> None:
    """Set adata.<place>[key]. rows: genes that `value` is about, the other rows being zero. Notes become JSON.

    names: of the columns of `value`, which go where `scduet.data.locate` looks for them.
    """
    if rows is not None:
        whole = np.zeros((adata.n_vars, value.shape[1]))
        whole[adata.var_names.get_indexer(pd.Index(rows))] = value
        value = whole
    if names is not None:
        adata.uns[f"{key}_names"] = np.array(names, dtype=str)
    getattr(adata, place)[key] = json.dumps(value) if place == "uns" else value


def select(adata: AnnData, order: list[str]) -> AnnData:
    """The cells named, in that order; `adata` itself when that is its order."""
    return adata if list(adata.obs_names) == order else adata[order].copy()


def contents(adata: AnnData) -> dict[str, Any]:
    """What there is: names, sizes, and the notes that `put` left; all plain Python."""
    named = {place: [str(key) for key in getattr(adata, place)] for place in PLACES}
    tables = [key for key, value in adata.obsm.items() if isinstance(value, pd.DataFrame)]
    notes = json.loads(str(adata.uns[NOTES])) if NOTES in adata.uns else {}
    other = [str(key) for key in adata.uns if key not in (NOTES, EMBEDDINGS)] + [f"varp[{key!r}]" for key in adata.varp]
    counts = adata.X is not None and _whole(adata.X)
    return {**named, "tables": tables, "notes": notes, "other": other, "has_x": adata.X is not None,
            "counts": counts, "raw": adata.raw is not None}  # fmt: skip


def names(adata: AnnData, axis: str) -> codec.Text:
    """Names of the cells ("obs") or genes ("var")."""
    return codec.as_text(getattr(adata, f"{axis}_names"))


def part(adata: AnnData, place: str, key: str | None = None) -> Block:
    """X, or one entry of layers, obsm, varm or obsp, for R. X and layers turn into genes x cells, at no cost."""
    value = adata.X if place == "X" else getattr(adata, place)[key]
    if isinstance(value, pd.DataFrame):
        value = value.to_numpy(dtype=float)
    value = value if place in ("X", "layers") else value.T
    return block(value)


def block(value) -> Block:
    """A matrix of rows x columns as R's matrix of columns x rows: for R, which goes column by column, a transpose."""
    if sparse.issparse(value):
        return _sparse(value)
    array = np.atleast_2d(np.asarray(value, dtype=np.float64))
    return Block(array.ravel(), (array.shape[1], array.shape[0]))


def table(adata: AnnData, place: str, key: str | None = None) -> list[codec.Column]:
    """The columns of obs, of var, or of a data frame in obsm."""
    frame = getattr(adata, place)
    return codec.columns_of(frame if key is None else frame[key])


def read_h5ad(path: str) -> AnnData:
    import anndata

    try:
        return anndata.read_h5ad(path)
    except FileNotFoundError as error:
        raise FormatError(f"there is no file {path!r}", "look at the path") from error
    except Exception as error:
        raise FormatError(f"{path!r} cannot be read as h5ad: {error}", "is it complete, and an .h5ad file?") from error


def write_h5ad(adata: AnnData, path: str) -> list[str]:
    """Write an .h5ad file. Returns the columns of obs and var that h5ad holds as text only."""
    changed = []
    copy = AnnData(adata.X, obs=adata.obs.copy(), var=adata.var.copy(), uns=adata.uns, obsm=adata.obsm,
                   varm=adata.varm, layers=adata.layers, obsp=adata.obsp)  # fmt: skip
    for where in ("obs", "var"):
        frame = getattr(copy, where)
        for column in frame.columns[[pd.api.types.is_datetime64_any_dtype(kind) for kind in frame.dtypes]]:
            frame[column] = frame[column].astype("string").astype(object).where(frame[column].notna(), None)
            changed.append(f"{where}[{str(column)!r}]")
        for column in frame.columns[frame.dtypes == np.dtype(object)]:
            if frame[column].isna().any():  # a file has no text with missing values, but categories may miss
                frame[column] = frame[column].astype("category")
    place_whole(Path(path), lambda new: copy.write_h5ad(new, convert_strings_to_categoricals=False))
    return changed


def _sparse(value) -> Block:
    matrix = sparse.csr_matrix(value)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    if matrix.nnz > np.iinfo(np.int32).max:
        raise FormatError(f"{matrix.nnz} stored values are more than a dgCMatrix holds (2^31 - 1)", "take fewer cells")
    return Block(matrix.data, (matrix.shape[1], matrix.shape[0]), matrix.indices, matrix.indptr)


def _whole(matrix) -> bool:
    values = matrix.data if sparse.issparse(matrix) else np.asarray(matrix).ravel()
    return bool((values == np.rint(values)).all())
