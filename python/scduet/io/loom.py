"""Reads loom files (loompy, velocyto, SCope; format 1 to 3) as AnnData, with only h5py and without a dense copy.

A loom file is HDF5: /matrix (gene, cell), /layers/NAME alike, /row_attrs of the genes, /col_attrs of the cells,
/row_graphs and /col_graphs (a, b, w). See https://linnarssonlab.org/loompy/format.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.utils import make_index_unique

from scduet.data.sources import joined
from scduet.errors import FormatError, some

CELL_NAMES = ("CellID", "obs_names", "cell_names")  # of loompy and velocyto, scanpy, and sceasy
GENE_NAMES = ("Gene", "var_names", "gene_names", "Accession")
VALUES_AT_ONCE = 16_000_000  # of a dense matrix


def read_loom(path: Path) -> AnnData:
    """Read a loom file: X and layers as float32 CSR, attributes in obs and var, graphs in obsp and varp.

    Attributes with several values per cell (a 2-D array, or the fields of a record as in SCope) go to obsm, those of
    genes to varm. Names are taken from the first existing attribute of `CELL_NAMES` and `GENE_NAMES` and made unique;
    otherwise cells and genes are numbered. Global attributes are dropped. Raises FormatError, naming the part, for a
    file that is not a loom file or is inconsistent.
    """
    import h5py

    with h5py.File(path, "r") as root:
        if not isinstance(root.get("matrix"), h5py.Dataset) or root["matrix"].ndim != 2:
            raise FormatError(f"{path} has no /matrix of genes x cells", "is it a loom file?")
        n_genes, n_cells = root["matrix"].shape
        obs, obsm = _attributes(path, root, "col_attrs", n_cells, CELL_NAMES)
        var, varm = _attributes(path, root, "row_attrs", n_genes, GENE_NAMES)
        layers = {name: _matrix(path, root, f"layers/{name}") for name in _members(root, "layers")}
        adata = AnnData(_matrix(path, root, "matrix"), obs=obs, var=var, obsm=obsm, varm=varm, layers=layers)
        for place, group, n in ((adata.obsp, "col_graphs", n_cells), (adata.varp, "row_graphs", n_genes)):
            for name in _members(root, group):
                place[name] = _graph(path, root, f"{group}/{name}", n)
    return adata


def _members(root: Any, group: str) -> list[str]:
    return list(root[group]) if group in root else []


def _matrix(path: Path, root: Any, place: str) -> sp.csr_matrix:
    """A stored (gene, cell) matrix as CSR (cell, gene), read some cells at a time."""
    stored = root[place]
    if stored.shape != root["matrix"].shape:
        expected = root["matrix"].shape
        raise FormatError(f"/{place} of {path} has shape {stored.shape}, /matrix {expected}", "is the file damaged?")
    n_genes, n_cells = stored.shape
    chunk = stored.chunks[1] if stored.chunks else 1
    width = max(1, VALUES_AT_ONCE // max(1, n_genes) // chunk) * chunk  # whole chunks: each is unpacked once
    pieces = (stored[:, start : start + width] for start in range(0, n_cells, width))
    found = [sp.csr_matrix(np.asarray(piece, np.float32).T) for piece in pieces]
    return joined(found) if found else sp.csr_matrix((0, n_genes), dtype=np.float32)


def _attributes(
    path: Path, root: Any, group: str, n: int, names: tuple[str, ...]
) -> tuple[pd.DataFrame, dict[str, np.ndarray | pd.DataFrame]]:
    """The attributes with one value for each of `n` rows, under their names, and those with several."""
    one, several = {}, {}
    for name, values in _read(path, root, group):
        if len(values) != n:
            message = f"/{group}/{name} of {path} has {len(values)} values, /matrix {n}"
            raise FormatError(message, "is the file damaged?")
        (several if values.ndim > 1 or values.dtype.names else one)[name] = values
    index = next((one.pop(name) for name in names if name in one), np.arange(n))
    table = pd.DataFrame(one, index=make_index_unique(pd.Index(index.astype(str))))
    return table, {name: _columns(values, table.index) for name, values in several.items()}


def _columns(values: np.ndarray, index: pd.Index) -> np.ndarray | pd.DataFrame:
    """Several values per row: an array of numbers, or a table of text or of the fields of a record."""
    if values.dtype.names:
        return pd.DataFrame({field: _plain(values[field]) for field in values.dtype.names}, index=index)
    return pd.DataFrame(values, index=index).rename(columns=str) if values.dtype == object else values


def _read(path: Path, root: Any, group: str) -> Iterator[tuple[str, np.ndarray]]:
    for name in _members(root, group):
        values = np.asarray(root[group][name])
        if values.ndim == 0:
            raise FormatError(f"/{group}/{name} of {path} is a single value", "is the file damaged?")
        yield name, _plain(values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values)


def _plain(values: np.ndarray) -> np.ndarray:
    """Decode text to str; formats 1 and 2 use ASCII with XML character references (&#946;). Numbers are unchanged."""
    if values.dtype.kind not in "SO":
        return values
    plain = [value.decode() if isinstance(value, bytes) else str(value) for value in values.ravel()]
    found = [html.unescape(value) for value in plain] if values.dtype.kind == "S" else plain
    return np.array(found, dtype=object).reshape(values.shape)


def _graph(path: Path, root: Any, place: str, n: int) -> sp.csr_matrix:
    missing = [part for part in ("a", "b", "w") if part not in root[place]]
    if missing:
        raise FormatError(f"/{place} of {path} lacks {some(missing)}", "is the file damaged?")
    a, b, w = (np.asarray(root[place][part]) for part in ("a", "b", "w"))
    if not len(a) == len(b) == len(w) or (len(a) and (min(a.min(), b.min()) < 0 or max(a.max(), b.max()) >= n)):
        raise FormatError(f"/{place} of {path} does not fit its {n} rows", "is the file damaged?")
    return sp.csr_matrix((w, (a, b)), shape=(n, n))
