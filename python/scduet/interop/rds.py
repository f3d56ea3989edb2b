"""Seurat (versions 2 to 5) and SingleCellExperiment objects in .rds and .rda files as AnnData, without running R."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scduet.errors import FormatError, ScduetWarning, some
from scduet.interop.objects import NOTES, put
from scduet.interop.r_tree import Node, open_file
from scduet.models import key_of


def read_rds(path: str | Path, name: str | None = None) -> AnnData:
    """The Seurat object or SingleCellExperiment in an R data file, as AnnData. No R is needed and none is run.

    path: .rds, .rda or .RData. name: of the object, where an .rda holds several.

    Gives counts (else normalised values) in X, normalised values in layers["data"], metadata in obs and var, variable
    features in var["highly_variable"], reductions and other assays in obsm, loadings in varm, graphs in obsp, the
    active identity in obs["ident"]. Images and alternative experiments are left out, which a ScduetWarning says. Raises
    FormatError for a file that holds no such object.
    """
    found = {key: node for key, node in open_file(str(path)).items() if _class(node) in READERS}
    if not found or (name is not None and name not in found):
        here = f"; it has {some(found)}" if found else ""
        raise FormatError(f"{path} holds no Seurat object or SingleCellExperiment {name or ''}{here}", "save one there")
    if name is None and len(found) > 1:
        raise FormatError(f"{path} holds several objects: {some(found)}", "pass name=")
    node = found[name] if name is not None else next(iter(found.values()))
    return READERS[_class(node)](node)


def _class(node: Node) -> str:
    return next(iter(node.classes), "")


def _seurat2(node: Node) -> AnnData:
    """Before version 3: one assay, in the object itself."""
    obs = node.slot("meta.data").frame()
    layers = {"counts": node.slot("raw.data"), "data": node.slot("data")}
    adata = _assembled(layers, obs, pd.DataFrame(), node.slot("var.genes").text())
    for name, reduction in node.slot("dr").items.items():
        _embed(adata, name, reduction.slot("cell.embeddings"))
    return adata


def _seurat(node: Node) -> AnnData:
    """Other assays go to obsm with a note of their features, as R's as_anndata() puts them; graphs to obsp."""
    active, assays = node.slot("active.assay").text()[0], node.slot("assays").items
    obs = node.slot("meta.data").frame()
    adata = _assay(assays.pop(active), obs)
    adata.obs["ident"] = node.slot("active.ident").vector()
    for name, reduction in node.slot("reductions").items.items():
        _embed(adata, name, reduction.slot("cell.embeddings"))
        _load(adata, name, reduction.slot("feature.loadings"))
    for name, graph in node.slot("graphs").items.items():
        adata.obsp[name] = graph.matrix()[0].T.tocsr()
    others = {name: _assay(assay, obs) for name, assay in assays.items()}
    adata.obsm.update({name: part.X for name, part in others.items()})
    notes = {name: {"layer": _layer(part.X), "features": list(part.var_names)} for name, part in others.items()}
    put(adata, "uns", NOTES, {"assay": active, "x": _layer(adata.X), "assays": notes})
    _tell_left_out("images", node.slots["images"].items if "images" in node.slots else ())
    return adata


def _assay(assay: Node, obs: pd.DataFrame) -> AnnData:
    return _layered(assay, obs) if "layers" in assay.slots else _plain(assay, obs)


def _layer(x: sparse.csr_matrix) -> str:
    return "counts" if (x.data == np.rint(x.data)).all() else "data"


def _plain(assay: Node, obs: pd.DataFrame) -> AnnData:
    """An Assay of version 3 or 4."""
    layers = {name: assay.slot(name) for name in ("counts", "data")}
    return _assembled(layers, obs, assay.slot("meta.features").frame(), assay.slot("var.features").text())


def _layered(assay: Node, obs: pd.DataFrame) -> AnnData:
    """An Assay5: matrices without names, and two maps that say which cells and genes are in which."""
    cells, genes = (_map(assay.slot(name)) for name in ("cells", "features"))
    parts: dict[str, list[str]] = {}
    for layer in assay.slot("layers").items:
        parts.setdefault(layer.partition(".")[0], []).append(layer)
    joined = {kind: _join(assay, names, cells, genes) for kind, names in parts.items() if kind in ("counts", "data")}
    var = assay.slot("meta.data").frame().set_axis(genes.index) if assay.slot("meta.data").items else pd.DataFrame()
    variable = var.index[var["var.features"].notna()] if "var.features" in var else []
    return _built(joined, list(cells.index), list(genes.index), obs, var, list(variable))


def _map(node: Node) -> pd.DataFrame:
    """Which names (rows) are in which layer (columns)."""
    values, rows, columns = node.matrix()
    return pd.DataFrame(values.T.astype(bool), index=rows, columns=columns)


def _join(assay: Node, names: list[str], cells: pd.DataFrame, genes: pd.DataFrame) -> sparse.csr_matrix:
    """The parts of a layer as one matrix of all cells x all genes."""
    total = sparse.csr_matrix((len(cells), len(genes)))
    for name in names:
        matrix = sparse.coo_matrix(assay.slot("layers").items[name].matrix()[0])
        row, column = np.flatnonzero(cells[name])[matrix.row], np.flatnonzero(genes[name])[matrix.col]
        total = total + sparse.csr_matrix((matrix.data, (row, column)), shape=total.shape)
    return total


def _experiment(node: Node) -> AnnData:
    """A SingleCellExperiment; old ones keep their assays in an environment and their reductions in a slot."""
    obs, assays = node.slot("colData").frame(), node.slot("assays").slots
    inside = assays["data"] if "data" in assays else assays[".xData"].items[".->data"]
    layers = {"data" if name == "logcounts" else name: item for name, item in inside.items.items()}
    names = _row_names(node)
    adata = _assembled(layers, obs, _row_data(node, names), [], names)
    internal = node.slot("int_colData").items
    if "altExps" in internal:
        _tell_left_out("alternative experiments", internal["altExps"].items)
    reductions = internal["reducedDims"] if "reducedDims" in internal else node.slots.get("reducedDims")
    for name, matrix in reductions.items.items() if reductions is not None else ():
        _embed(adata, name.lower() if name.isupper() else name, matrix)
    return adata


def _row_names(node: Node) -> list[str]:
    ranges = node.slots.get("rowRanges")
    places = [node.slots.get("NAMES")]
    if ranges is not None:
        inner = ranges.slots.get("partitioning", ranges.slots.get("ranges"))
        places.append(None if inner is None else inner.slots.get("NAMES"))
    return next((place.text() for place in places if place is not None and place.text()), [])


def _row_data(node: Node, names: list[str]) -> pd.DataFrame:
    """What is known of the genes: beside the assays, or in the ranges."""
    table = node.slots.get("rowRanges", node).slots.get("elementMetadata")
    frame = table.frame() if table is not None and table.items else pd.DataFrame()
    return frame.set_axis(names) if len(frame) == len(names) else pd.DataFrame(index=names)


def _assembled(
    layers: dict[str, Node],
    obs: pd.DataFrame,
    var: pd.DataFrame,
    variable: list[str],
    names: list[str] = (),  # type: ignore[assignment]
) -> AnnData:
    """An AnnData of matrices with names; a matrix with more cells than `obs` is cut to them."""
    read = {name: node.matrix() for name, node in layers.items() if not _void(node)}
    if not read:
        raise FormatError("the object has neither counts nor normalised values", "nothing can be done with it")
    first = read.get("counts", next(iter(read.values())))
    genes = list(names) or first[1]
    same = {name: found for name, found in read.items() if found[0].shape[1] == len(genes)}
    kept = {name: _rows(value, own, obs.index) for name, (value, _, own) in same.items()}
    return _built(kept, list(obs.index), genes, obs, var, variable)


def _void(node: Node) -> bool:
    return not {"p", "j", "dim"} & node.slots.keys() or 0 in node.matrix()[0].shape


def _rows(value, own: list[str], wanted: pd.Index):
    if not own or len(own) == len(wanted):
        return value
    return value[pd.Index(own).get_indexer(wanted)]


def _built(layers: dict, cells: list[str], genes: list[str], obs, var, variable: list[str]) -> AnnData:
    main = "counts" if "counts" in layers else next(iter(layers))
    var = var.reindex(genes) if len(var.columns) else pd.DataFrame(index=pd.Index(genes, dtype=object))
    adata = AnnData(sparse.csr_matrix(layers[main]), obs=obs.reindex(cells), var=var)
    for name in layers.keys() - {main}:
        adata.layers[name] = layers[name]
    if variable:
        adata.var["highly_variable"] = adata.var_names.isin(variable)
    return adata


def _load(adata: AnnData, name: str, loadings: Node) -> None:
    """varm entry of a reduction; genes that it does not cover are zero."""
    if 0 not in np.shape(loadings.raw.value) and "dim" in loadings.slots:
        value, genes, _ = loadings.matrix()
        if set(genes) <= set(adata.var_names) and value.size:
            put(adata, "varm", "PCs" if name == "pca" else name, np.asarray(value).T, rows=genes)


def _tell_left_out(what: str, names: Collection[str]) -> None:
    if names:
        warnings.warn(f"left out, as AnnData has no place for them: {what} {some(names)}", ScduetWarning, stacklevel=4)


def _embed(adata: AnnData, name: str, matrix: Node) -> None:
    """obsm entry of a reduction; cells that it does not cover are NaN."""
    value, cells, _ = matrix.matrix()
    value = np.asarray(value).T
    if cells and list(cells) != list(adata.obs_names):
        whole = np.full((adata.n_obs, value.shape[1]), np.nan)
        whole[adata.obs_names.get_indexer(pd.Index(cells))] = value
        value = whole
    adata.obsm[key_of(name)] = value


READERS = {"seurat": _seurat2, "Seurat": _seurat, "SingleCellExperiment": _experiment}
