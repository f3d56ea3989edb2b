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

    Gives counts (else normalized values) in X, normalized values in layers["data"], metadata in obs and var, variable
    features in var["highly_variable"], reductions, other assays and alternative experiments in obsm, loadings in varm,
    graphs in obsp, the active identity in obs["ident"]. Dates and times keep their zone. Images, columns and matrices
    that cannot be read are left out, which a ScduetWarning says, as are the ranges and fragments of Signac's
    ChromatinAssay; of a Seurat object whose active assay is a sketch, the cells of that. Raises FormatError for a file
    that holds no such object.
    """
    found = {key: node for key, node in open_file(str(path)).items() if _class(node) in READERS}
    if not found or (name is not None and name not in found):
        here = f"; it has {some(found)}" if found else ""
        raise FormatError(f"{path} holds no Seurat object or SingleCellExperiment {name or ''}{here}", "save one there")
    if name is None and len(found) > 1:
        raise FormatError(f"{path} holds several objects: {some(found)}", "pass name=")
    node = found[name] if name is not None else next(iter(found.values()))
    return READERS[_class(node)](node)


def _frame(node: Node, what: str) -> pd.DataFrame:
    """A table of cells or genes; the columns that cannot be read are told."""
    _tell_left_out(f"columns of {what}", node.left_out())
    return node.frame()


def _class(node: Node) -> str:
    return next(iter(node.classes), "")


def _seurat2(node: Node) -> AnnData:
    """Before version 3: one assay, in the object itself."""
    obs = _frame(node.slot("meta.data"), "obs")
    layers = {"counts": node.slot("raw.data"), "data": node.slot("data")}
    adata = _assembled(layers, obs, pd.DataFrame(), node.slot("var.genes").text())
    for name, reduction in node.slot("dr").items.items():
        _embed(adata, name, reduction.slot("cell.embeddings"))
    return adata


def _seurat(node: Node) -> AnnData:
    """Other assays go to obsm with a note of their features, as R's as_anndata() puts them; graphs to obsp."""
    active, assays = node.slot("active.assay").text()[0], node.slot("assays").items
    obs = _frame(node.slot("meta.data"), "obs")
    ident = _free("ident", obs)
    obs[ident] = node.slot("active.ident").vector()
    _tell_parts(assays)
    adata = _assay(assays.pop(active), obs)
    for name, reduction in node.slot("reductions").items.items():
        _embed(adata, name, reduction.slot("cell.embeddings"))
        _load(adata, name, reduction.slot("feature.loadings"))
    for name, graph in node.slot("graphs").items.items():
        value, _, cells = graph.matrix()
        place = pd.Index(cells or obs.index).get_indexer(adata.obs_names)
        if (place >= 0).all():
            adata.obsp[name] = value.T.tocsr()[place][:, place]
    others, failed = {}, []
    for name, assay in assays.items():
        try:
            others[name] = _of_cells(_assay(assay, obs), adata.obs_names)
        except FormatError as error:
            failed.append(f"{name}: {error.message}")
    _tell_left_out("assays", failed)
    told = {"assay": active, "x": _layer(adata.X), "ident": ident, "assays": _beside(adata, others)}
    put(adata, "uns", NOTES, told)
    if adata.n_obs < len(obs):
        warnings.warn(
            f"assay {active!r} has {adata.n_obs} of {len(obs)} cells; these are read", ScduetWarning, stacklevel=4
        )
    _tell_left_out("images", node.slots["images"].items if "images" in node.slots else ())
    return adata


def _beside(adata: AnnData, others: dict[str, AnnData]) -> dict[str, dict]:
    """Put further assays into obsm; returns the notes of their features."""
    for name, part in others.items():
        put(adata, "obsm", name, part.X, names=list(part.var_names))
    return {name: {"layer": _layer(part.X), "features": list(part.var_names)} for name, part in others.items()}


def _tell_parts(assays: dict[str, Node]) -> None:
    """Say what assays of a class that extends Seurat's hold beside counts and data."""
    for name, assay in assays.items():
        more = [slot for slot in EXTENSIONS & assay.slots.keys() if not assay.slot(slot).is_empty()]
        _tell_left_out(f"of assay {name!r} ({_class(assay)})", sorted(more))


def _free(name: str, obs: pd.DataFrame) -> str:
    return (
        name
        if name not in obs
        else next(f"{name}.{i}" for i in range(1, len(obs.columns) + 2) if f"{name}.{i}" not in obs)
    )


def _of_cells(part: AnnData, cells: pd.Index) -> AnnData:
    """The cells wanted of another assay; those that it does not have are zero."""
    if part.obs_names.equals(cells):
        return part
    place = part.obs_names.get_indexer(cells)
    rows = sparse.csr_matrix(
        (np.ones((place >= 0).sum()), (np.flatnonzero(place >= 0), place[place >= 0])), (len(cells), part.n_obs)
    )
    return AnnData(rows @ part.X, obs=pd.DataFrame(index=cells), var=part.var)


def _assay(assay: Node, obs: pd.DataFrame) -> AnnData:
    return _layered(assay, obs) if "layers" in assay.slots else _plain(assay, obs)


def _layer(x: sparse.csr_matrix) -> str:
    return "counts" if (x.data == np.rint(x.data)).all() else "data"


def _plain(assay: Node, obs: pd.DataFrame) -> AnnData:
    """An Assay of version 3 or 4."""
    layers = {name: assay.slot(name) for name in ("counts", "data")}
    return _assembled(layers, obs, _frame(assay.slot("meta.features"), "var"), assay.slot("var.features").text())


def _layered(assay: Node, obs: pd.DataFrame) -> AnnData:
    """An Assay5: matrices without names, and two maps that say which cells and genes are in which."""
    cells, genes = (_map(assay.slot(name)) for name in ("cells", "features"))
    parts: dict[str, list[str]] = {}
    for layer in assay.slot("layers").items:
        parts.setdefault(layer.partition(".")[0], []).append(layer)
    joined = {kind: _join(assay, names, cells, genes) for kind, names in parts.items() if kind in ("counts", "data")}
    var = (
        _frame(assay.slot("meta.data"), "var").set_axis(genes.index)
        if assay.slot("meta.data").items
        else pd.DataFrame()
    )
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
    obs, assays = _frame(node.slot("colData"), "obs"), node.slot("assays").slots
    inside = assays["data"] if "data" in assays else assays[".xData"].items[".->data"]
    given = inside.items or {f"assay{i + 1}": item for i, item in enumerate(inside.slot("listData").elements)}
    layers = {"data" if name == "logcounts" else name or "assay1": item for name, item in given.items()}
    obs.index = _named(obs.index, node.slot("colData"), "cell")
    names = _row_names(node)
    adata = _assembled(layers, obs, _row_data(node, names), [], names)
    internal = node.slots["int_colData"].items if "int_colData" in node.slots else {}
    others, failed = {}, []
    for name, part in internal["altExps"].items.items() if "altExps" in internal else ():
        try:
            others[name] = _experiment(part.slot("se"))
        except FormatError as error:
            failed.append(f"{name}: {error.message}")
    _tell_left_out("alternative experiments", failed)
    _beside(adata, others)
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


def _named(index: pd.Index, table: Node, what: str) -> pd.Index:
    """Rows without names are called cell1, cell2, ... as R's as_anndata() calls them."""
    rows = table.slots.get("row.names", table.slots.get("rownames"))
    return index if rows is not None and rows.text() else pd.Index([f"{what}{i + 1}" for i in range(len(index))])


def _row_data(node: Node, names: list[str]) -> pd.DataFrame:
    """What is known of the genes: beside the assays, or in the ranges."""
    table = node.slots.get("rowRanges", node).slots.get("elementMetadata")
    frame = _frame(table, "var") if table is not None and table.items else pd.DataFrame()
    return frame.set_axis(names) if len(frame) == len(names) else pd.DataFrame(index=names)


def _assembled(
    layers: dict[str, Node],
    obs: pd.DataFrame,
    var: pd.DataFrame,
    variable: list[str],
    names: list[str] = (),  # type: ignore[assignment]
) -> AnnData:
    """An AnnData of matrices with names; a matrix with more cells than `obs` is cut to them."""
    read = _read(layers)
    if not read:
        remedy = "in R, make each assay a dgCMatrix and save again"
        raise FormatError("no counts or normalized values of the object can be read", remedy)
    first = read.get("counts", next(iter(read.values())))
    genes = list(names) or first[1] or [f"gene{i + 1}" for i in range(first[0].shape[1])]
    same = {name: found for name, found in read.items() if found[0].shape[1] == len(genes)}
    kept = {name: _rows(value, own, obs.index) for name, (value, _, own) in same.items()}
    return _built(kept, list(obs.index), genes, obs, var, variable)


def _read(layers: dict[str, Node]) -> dict[str, tuple]:
    """The matrices that hold anything; those that cannot be read are told."""
    found, failed = {}, []
    for name, node in layers.items():
        if not node.slots.keys() & {"p", "j", "dim", "seed"}:
            continue
        try:
            found[name] = node.matrix()
        except FormatError as error:
            failed.append(f"{name}: {error.message}")
    _tell_left_out("matrices", failed)
    return {name: read for name, read in found.items() if 0 not in read[0].shape}


def _rows(value, own: list[str], wanted: pd.Index):
    if not own or len(own) == len(wanted):
        return value
    return value[pd.Index(own).get_indexer(wanted)]


def _built(layers: dict, cells: list[str], genes: list[str], obs, var, variable: list[str]) -> AnnData:
    main = "counts" if "counts" in layers else next(iter(layers))
    var = _in_order(var, genes) if len(var.columns) else pd.DataFrame(index=pd.Index(genes, dtype=object))
    adata = AnnData(sparse.csr_matrix(layers[main]), obs=_in_order(obs, cells), var=var)
    for name in layers.keys() - {main}:
        adata.layers[name] = layers[name]
    if variable:
        adata.var["highly_variable"] = adata.var_names.isin(variable)
    return adata


def _in_order(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    return table if list(table.index) == names else table.reindex(names)  # which refuses names that repeat


def _load(adata: AnnData, name: str, loadings: Node) -> None:
    """varm entry of a reduction; genes that it does not cover are zero."""
    if 0 not in np.shape(loadings.raw.value) and "dim" in loadings.slots:
        value, genes, _ = loadings.matrix()
        if set(genes) <= set(adata.var_names) and value.size:
            put(adata, "varm", "PCs" if name == "pca" else name, np.asarray(value).T, rows=genes)


def _tell_left_out(what: str, names: Collection[str]) -> None:
    if names:
        warnings.warn(
            f"left out, for want of a place in AnnData or a way to read them: {what} {some(names)}",
            ScduetWarning,
            stacklevel=4,
        )


def _embed(adata: AnnData, name: str, matrix: Node) -> None:
    """obsm entry of a reduction; cells that it does not cover are NaN."""
    value, cells, _ = matrix.matrix()
    value = np.asarray(value).T
    if cells and list(cells) != list(adata.obs_names):
        place = pd.Index(cells).get_indexer(adata.obs_names)
        value = np.where(place[:, None] < 0, np.nan, value[place])
    key = key_of(name)
    adata.obsm[key if key not in adata.obsm else f"X_{name}.1"] = value


EXTENSIONS = {  # slots of Signac's assays, which extend those of Seurat
    *("ranges", "motifs", "fragments", "seqinfo", "annotation", "bias", "positionEnrichment", "links"),
}
READERS = {"seurat": _seurat2, "Seurat": _seurat, "SingleCellExperiment": _experiment}
