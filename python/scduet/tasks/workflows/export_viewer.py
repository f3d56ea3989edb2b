"""A file that browsers of cells open as it is: cellxgene, CELLxGENE Explorer's desktop version, Vitessce.

What they ask for: expression in X, float32, of unique genes and cells; an embedding of two dimensions in obsm, called
X_<name>, without missing values; categories in obs, and their colors in uns["<column>_colors"]. Sources:
cellxgene.cziscience.com/docs, "Preparing data"; python-docs.vitessce.io, "Data preparation"; scanpy's convention of
colors.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.utils import make_index_unique

from scduet.data.checks import check_matrix, look_like_counts
from scduet.data.locate import locate_main
from scduet.errors import DataError, ScduetWarning, some
from scduet.io.cells import check_target, write
from scduet.options import listed
from scduet.tasks.workflows.draw import BEFORE, MIN_GENES, drawable, umap

UMAP = "X_umap"
TOTAL = 10_000  # counts of a cell, before the logarithm
MANY = 1000  # levels of a category that a browser cannot list


def export_viewer(
    adata: AnnData,
    path: str | Path,
    *,
    embedding: str | None = None,
    columns: Sequence[str] | None = None,
    gene_symbols: str | None = None,
    layer: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> AnnData:
    """Write `adata` to `path` (.h5ad for cellxgene, .zarr for Vitessce) as browsers of cells need it.

    X: float32 CSR; of counts log(1 + counts per 10,000), with the counts in layers["counts"]. obsm: the drawings and
    embeddings that `adata` has, and X_umap, made of `embedding` if it is not there. obs: `columns`, text and booleans
    as categories, colored as in scduet's figures unless uns has colors. `adata` is not changed.

    embedding: key of obsm to draw; None for the first that is no drawing, else the unintegrated PCA, if it is there.
    columns: columns of obs to keep; None for all, but those that hold neither numbers nor up to 1,000 categories.
    gene_symbols: column of var with the names to show; None for `var_names`. layer: the expression; None for X.

    Returns what was written. Open it with `cellxgene launch cells.h5ad`, or with Vitessce's AnnDataWrapper(adata_path=
    "cells.zarr", obs_embedding_paths=["obsm/X_umap"]). Raises DataError for columns and embeddings that are not there
    or have missing values, FormatError for a path that cannot be written.
    """
    path = check_target(path, overwrite)
    check_matrix(adata)
    columns = None if columns is None else listed("columns", columns)
    made = AnnData(obs=_annotation(adata, columns), var=_genes(adata, gene_symbols))
    made.X, counts = _expression(locate_main(adata, layer).values)
    if counts is not None:
        made.layers["counts"] = counts
    for key, points in _drawings(adata, embedding, seed).items():
        made.obsm[key] = points
    for key in made.obs.select_dtypes("category"):
        made.uns[f"{key}_colors"] = _colors(adata, made.obs[key])
    with anndata.settings.override(zarr_write_format=2):  # which browsers read without further packages
        write(made, path, overwrite=overwrite)
    return made


def _expression(values: Any) -> tuple[sp.csr_matrix, sp.csr_matrix | None]:
    """What to show, and the counts that it was made of."""
    x = sp.csr_matrix(values, dtype=np.float32)
    if not np.isfinite(x.data).all():
        raise DataError("the expression holds NaN or infinite values", "remove or mend them")
    if not look_like_counts(x):
        return x, None
    total = np.maximum(np.asarray(x.sum(1)).ravel(), 1)
    shown = x.copy()
    shown.data = np.log1p(x.data * np.repeat(TOTAL / total, np.diff(x.indptr))).astype(np.float32)
    return shown, x


def _genes(adata: AnnData, gene_symbols: str | None) -> pd.DataFrame:
    """var by the names to show, each once."""
    var = adata.var.select_dtypes(["number", "bool", "category", "object", "string"]).copy()
    if gene_symbols is None:
        return var
    if gene_symbols not in adata.var:
        raise DataError(f"no column {gene_symbols!r} in var", f"it has {some(adata.var.columns, 12)}")
    names = adata.var[gene_symbols].astype("string").fillna(pd.Series(adata.var_names, adata.var_names))
    var["gene_id"] = adata.var_names.astype(str)
    var.index = make_index_unique(pd.Index(names.astype(str).to_numpy()))
    return var


def _annotation(adata: AnnData, columns: Sequence[str] | None) -> pd.DataFrame:
    missing = [key for key in columns or () if key not in adata.obs]
    if missing:
        raise DataError(f"no column {some(missing)} in obs", f"it has {some(adata.obs.columns, 12)}")
    kept: dict[str, pd.Series] = {}
    left_out = []
    for key in adata.obs if columns is None else columns:
        values = _column(adata.obs[key])
        if values is None:
            left_out.append(key)
        else:
            kept[key] = values
    if left_out:
        text = f"left out of obs: {some(left_out)}, neither numbers nor up to {MANY:,} categories"
        warnings.warn(text, ScduetWarning, stacklevel=3)
    return pd.DataFrame(kept, index=adata.obs_names.astype(str))


def _column(values: pd.Series) -> pd.Series | None:
    """Numbers as they are, the rest as categories called by their texts; None for what is neither."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return values.astype(np.float32) if values.isna().any() or pd.api.types.is_float_dtype(values) else values
    if any(map(pd.api.types.is_list_like, values)) or values.nunique() > MANY:
        return None
    texts = values.astype("string").astype("category").cat.remove_unused_categories()
    if isinstance(values.dtype, pd.CategoricalDtype):
        texts = texts.cat.reorder_categories([str(v) for v in values.cat.remove_unused_categories().cat.categories])
    return texts.cat.rename_categories([str(level) for level in texts.cat.categories])


def _drawings(adata: AnnData, embedding: str | None, seed: int) -> dict[str, np.ndarray]:
    """What obsm has under names that browsers list, and the UMAP."""
    kept = {
        key: value for key in adata.obsm if key.startswith("X_") and _is_drawn(value := np.asarray(adata.obsm[key]))
    }
    if embedding is not None and embedding not in adata.obsm:
        raise DataError(f"no obsm[{embedding!r}]", f"it has {some(adata.obsm, 12)}")
    if UMAP not in kept or embedding is not None:
        known = [*([] if embedding is None else [embedding]), *drawable(adata), BEFORE]
        key = next((key for key in known if key in adata.obsm), None)
        if key is None:
            raise DataError("there is no embedding to draw", "run scduet.integrate, or sc.pp.pca, first")
        points = np.asarray(adata.obsm[key], np.float32)
        bad = adata.obs_names[~np.isfinite(points).all(1)]
        if len(bad):
            raise DataError(f"obsm[{key!r}] is missing in {len(bad)} cells: {some(bad)}", "leave these cells out")
        if points.shape[1] > 2 and len(points) < MIN_GENES:
            raise DataError(f"{len(points)} cells are too few for a UMAP", f"it takes {MIN_GENES}")
        kept[UMAP] = umap(points, seed)
    return {key: np.asarray(points, np.float32) for key, points in kept.items()}


def _is_drawn(values: np.ndarray) -> bool:
    """Whether a browser can show these coordinates."""
    whole = values.dtype.kind in "fiu" and values.ndim == 2 and values.shape[1] > 1
    return whole and bool(np.isfinite(values).all())


def _colors(adata: AnnData, values: pd.Series) -> np.ndarray:
    """A color for each category: those that `adata` has, if there are enough, else scduet's."""
    from scduet.plots.style import categorical_colors

    levels, known = list(values.cat.categories), adata.uns.get(f"{values.name}_colors")
    if known is not None and len(known) == len(levels):
        return np.asarray(known, dtype=object)
    return np.asarray(list(map(categorical_colors(levels).get, levels)), dtype=object)
