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

from scduet.data.found import names_in
from scduet.errors import FormatError
from scduet.interop import codec
from scduet.interop.matrices import genes_at, is_left, is_whole, matrix_at, seurat_layers
from scduet.io import cells as convert
from scduet.io.atomic import place_whole
from scduet.io.cells import EMBEDDINGS
from scduet.io.storable import CLASSES, as_stored, refuse_unwritable

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
    """What there is: names, sizes, and the notes that `put` left; all plain Python.

    matrices: counts, data and scale.data of Seurat -> their places. genes: whose genes these have, "X" or "raw".
    features: names of the columns of entries of obsm that have some. unusable: entries of obsm that are no numbers.
    """
    notes = json.loads(str(adata.uns[NOTES])) if NOTES in adata.uns else {}
    unusable = [key for key, value in adata.obsm.items() if not is_numbers(value)]
    named = {place: [str(key) for key in names_in(getattr(adata, place))] for place in PLACES}
    named["obsm"] = [key for key in named["obsm"] if key not in unusable]
    features = {key: names for key in named["obsm"] if (names := _names_of_columns(adata, key)) is not None}
    known = {NOTES, EMBEDDINGS, CLASSES, *(f"{key}_names" for key in features)}
    other = [str(key) for key in adata.uns if key not in known] + [f"varp[{key!r}]" for key in adata.varp]
    matrices = seurat_layers(adata, notes)
    kinds = {key: "counts" if is_whole(_values(adata.obsm[key])) else "data" for key in features}
    return {**named, "features": features, "kinds": kinds, "notes": notes, "unusable": unusable,
            "other": other, "matrices": matrices, "has_x": adata.X is not None,
            "genes": genes_at(adata, matrices), "raw_left": is_left(adata, matrices)}  # fmt: skip


def whole(adata: AnnData) -> bool:
    """Whether X holds whole numbers alone."""
    return is_whole(_values(adata.X))


def _names_of_columns(adata: AnnData, key: str) -> list[str] | None:
    """Names of the features of obsm[key]: columns of a table, or what is beside it in uns."""
    value, beside = adata.obsm[key], adata.uns.get(f"{key}_names")
    if isinstance(value, pd.DataFrame):
        return [str(name) for name in value.columns]
    return None if beside is None or len(beside) != value.shape[1] else [str(name) for name in beside]


def is_numbers(value) -> bool:
    """Whether an entry of obsm is a matrix of numbers with columns, which Seurat has a place for."""
    if isinstance(value, pd.DataFrame):
        return value.shape[1] > 0 and all(pd.api.types.is_numeric_dtype(kind) for kind in value.dtypes)
    return len(value.shape) == 2 and value.shape[1] > 0 and value.dtype.kind in "iufb"


def _values(value) -> np.ndarray:
    return value.data if sparse.issparse(value) else np.asarray(value).ravel()


def names(adata: AnnData, axis: str) -> codec.Text:
    """Names of the cells ("obs") or genes ("var", "raw")."""
    return codec.as_text(adata.raw.var_names if axis == "raw" else getattr(adata, f"{axis}_names"))


def part(adata: AnnData, place: str, key: str | None = None) -> Block:
    """The matrix at a place such as "X", "raw" or "layers/counts", or an entry of obsm, varm or obsp, for R.

    X, raw and layers turn into genes x cells, at no cost.
    """
    if key is None:
        return block(matrix_at(adata, place))
    value = getattr(adata, place)[key]
    return block((value.to_numpy(dtype=float) if isinstance(value, pd.DataFrame) else value).T)


def block(value) -> Block:
    """A matrix of rows x columns as R's matrix of columns x rows: for R, which goes column by column, a transpose."""
    if sparse.issparse(value):
        return _sparse(value)
    array = np.atleast_2d(np.asarray(value, dtype=np.float64))
    return Block(array.ravel(), (array.shape[1], array.shape[0]))


def table(adata: AnnData, place: str) -> list[codec.Column]:
    """The columns of obs or var; "raw": of the genes of raw, with what var knows of some of them."""
    if place != "raw":
        return codec.columns_of(getattr(adata, place))
    further = adata.var[adata.var.columns.difference(adata.raw.var.columns, sort=False)]
    return codec.columns_of(adata.raw.var.join(further.convert_dtypes() if len(further.columns) else further))


def read_h5ad(path: str) -> AnnData:
    """The cells in a file of any kind that `scduet.io.cells.read` knows, modalities of an .h5mu in obsm.

    Raises FormatError.
    """
    return convert.as_in("cells.h5ad", convert.read(path, multimodal=True))


def write_h5ad(adata: AnnData, path: str) -> list[str]:
    """Write an .h5ad file. Returns the columns of obs and var that hold times, which it keeps as text.

    Raises FormatError that names what a file cannot hold.
    """
    stored, times = as_stored(adata)
    refuse_unwritable(stored, Path(path))
    place_whole(Path(path), lambda new: stored.write_h5ad(new, convert_strings_to_categoricals=False))
    return times


def _sparse(value) -> Block:
    matrix = sparse.csr_matrix(value)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    if matrix.nnz > np.iinfo(np.int32).max:
        raise FormatError(f"{matrix.nnz} stored values are more than a dgCMatrix holds (2^31 - 1)", "take fewer cells")
    return Block(matrix.data, (matrix.shape[1], matrix.shape[0]), matrix.indices, matrix.indptr)
