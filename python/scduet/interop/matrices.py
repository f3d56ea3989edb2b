"""Which matrix of an AnnData is Seurat's counts, data or scale.data: decided by names and, above all, by the values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from scduet.data.found import names_in
from scduet.errors import FormatError, some

COUNTS, DATA, SCALED = "counts", "data", "scale.data"
NAMED = {
    COUNTS: ("counts",),
    DATA: ("data", "logcounts"),
    SCALED: ("scale.data", "scaled"),
}  # layers, as tools name them
LIKE_COUNTS = ("count", "raw", "umi")  # in the name of another layer that may hold counts


def seurat_layers(adata: AnnData, notes: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Place ("X", "raw" or "layers/NAME") of the counts, data and scale.data of `adata`, as far as they are there.

    Whole numbers from 0 on are counts, other numbers from 0 on normalized values, numbers below 0 scaled values. `raw`
    is used where nothing else has the values and it has all genes of X. notes: of R's as_anndata(), which say what X
    was in the Seurat object; whole: whether its counts were whole numbers, as estimated ones are not.
    """
    notes, places = notes or {}, _places(adata)
    kinds = {place: kind_of(matrix) for place, matrix in places.items()}
    if notes.get("x") == COUNTS and "X" in kinds and kinds["X"] == DATA and notes.get("whole") is False:
        kinds["X"] = COUNTS
    elif notes.get("x") == DATA and "X" in kinds:
        kinds["X"] = DATA
    found: dict[str, str] = {}
    for role, names in NAMED.items():
        by_name = [f"layers/{name}" for name in names if _may_be(role, kinds.get(f"layers/{name}"))]
        rest = [place for place in ("X", "raw", *_like_counts(adata, role)) if kinds.get(place) == role]
        chosen = [place for place in (*by_name, *rest) if place not in found.values()]
        if chosen:
            found[role] = chosen[0]
    return found


def kind_of(matrix) -> str:
    """What the values are: "counts", "data" or "scale.data"."""
    values = matrix.data if sparse.issparse(matrix) else np.asarray(matrix).ravel()
    if not np.issubdtype(values.dtype, np.number) or not len(values):
        return COUNTS if values.dtype == bool or not len(values) else DATA
    if values.min() < 0:
        return SCALED
    return COUNTS if is_whole(values) else DATA


def is_whole(values: np.ndarray) -> bool:
    return bool(values.dtype.kind in "iub" or (values == np.rint(values)).all())


def matrix_at(adata: AnnData, place: str):
    """The matrix at a place of `seurat_layers`; in memory."""
    matrix = adata.raw.X if place == "raw" else adata.X if place == "X" else adata.layers[place.partition("/")[2]]
    return matrix.to_memory() if hasattr(matrix, "to_memory") else matrix


def genes_at(adata: AnnData, layers: Mapping[str, str]) -> str:
    """Whose genes the assay has: those of "raw" where X has a part of them and is at most scale.data, else of "X"."""
    beside = {place for role, place in layers.items() if role != SCALED}
    return "raw" if beside == {"raw"} else "X"


def is_left(adata: AnnData, layers: Mapping[str, str]) -> bool:
    """Whether raw holds more than the layers take of it: values of its own, or further genes."""
    if adata.raw is None:
        return False
    if "raw" in layers.values():
        return genes_at(adata, layers) == "X" and adata.raw.n_vars > adata.n_vars
    if list(adata.raw.var_names) != list(adata.var_names):
        return True
    raw = sparse.csr_matrix(matrix_at(adata, "raw"))
    return all((raw != sparse.csr_matrix(matrix_at(adata, place))).nnz for place in layers.values())


def refuse_none(adata: AnnData, layers: Mapping[str, str]) -> None:
    """Raise FormatError where no matrix can be used."""
    if not layers:
        layers = names_in(adata.layers)
        has = f"it has the layers {some(layers)}" if layers else "it has no layers"
        raise FormatError("the AnnData has no matrix: neither X, raw nor a layer 'counts'", has)


def _places(adata: AnnData) -> dict[str, Any]:
    names = ["X"] if adata.X is not None else []
    if adata.raw is not None and adata.var_names.isin(adata.raw.var_names).all():
        names.append("raw")
    names += [f"layers/{name}" for name in names_in(adata.layers)]
    return {place: matrix_at(adata, place) for place in names}


def _may_be(role: str, kind: str | None) -> bool:
    """Whether a layer called like `role` may be it: estimated counts are not whole, but no counts are below 0."""
    return kind is not None and not (role == COUNTS and kind == SCALED)


def _like_counts(adata: AnnData, role: str) -> list[str]:
    if role != COUNTS:
        return []
    names = [str(name) for name in names_in(adata.layers)]
    return [f"layers/{name}" for name in names if any(part in name.lower() for part in LIKE_COUNTS)]
