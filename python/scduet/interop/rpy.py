"""Seurat <-> AnnData for rpy2: in Jupyter, `%load_ext scduet.interop.rpy`, then `%%R -i adata` gives R a Seurat object
and `-o obj` gives Python an AnnData.

    with localconverter(default_converter + rpy.converter):
        robjects.globalenv["obj"] = adata

Nothing is registered at import. SingleCellExperiment stays with anndata2ri, whose converter may stand beside this one.
R needs SeuratObject, not the R package scduet. The newest rpy2 needs R 4.5: before that, rpy2-rinterface < 3.6.6.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from rpy2 import robjects
from rpy2.rinterface import SexpS4
from rpy2.robjects import default_converter, numpy2ri, pandas2ri
from rpy2.robjects.conversion import Converter, localconverter
from scipy import sparse

from scduet.errors import ScduetWarning, some
from scduet.interop.matrices import genes_at, matrix_at, refuse_none, seurat_layers
from scduet.interop.objects import is_numbers
from scduet.models import key_of, reduction_of

converter = Converter("Seurat and AnnData")

TO_SEURAT = """
function(layers, cells, obs, variable, embeddings) {
  for (package in c("Matrix", "SeuratObject")) loadNamespace(package)
  matrix_of <- function(m) if (!is.null(m)) methods::new("dgCMatrix", i = as.integer(m$i), p = as.integer(m$p),
    x = as.numeric(m$x), Dim = c(length(m$genes), length(cells)), Dimnames = list(gsub("[_|]", "-", m$genes), cells))
  layers <- lapply(layers, matrix_of)
  v5 <- packageVersion("SeuratObject") >= "5.0.0"
  make <- if (v5) getExportedValue("SeuratObject", "CreateAssay5Object") else SeuratObject::CreateAssayObject
  first <- intersect(c("counts", "data", "scale.data"), names(layers))[1]
  assay <- if (first == "counts") make(counts = layers$counts) else make(data = layers[[first]])
  set <- function(assay, layer, value) {
    if (v5) return(getExportedValue("SeuratObject", "LayerData<-")(assay, layer = layer, value = value))
    SeuratObject::SetAssayData(assay, layer, new.data = value)
  }
  if (first == "counts" && !is.null(layers$data)) assay <- set(assay, "data", layers$data)
  if (!is.null(layers$scale.data)) assay <- set(assay, "scale.data", as.matrix(layers$scale.data))
  SeuratObject::Key(assay) <- "rna_"
  object <- SeuratObject::CreateSeuratObject(assay, assay = "RNA", meta.data = if (ncol(obs)) obs)
  if (length(variable)) SeuratObject::VariableFeatures(object) <- gsub("[_|]", "-", variable)
  for (name in names(embeddings)) {
    key <- paste0(gsub("[^[:alnum:]]", "", name), "_")
    value <- embeddings[[name]]
    dimnames(value) <- list(cells, paste0(key, seq_len(ncol(value))))
    object[[name]] <- SeuratObject::CreateDimReducObject(embeddings = value, key = key, assay = "RNA")
  }
  object
}"""

FROM_SEURAT = """
function(object) {
  assay <- object[[SeuratObject::DefaultAssay(object)]]
  counts <- if (inherits(assay, "StdAssay")) {
    if (length(SeuratObject::Layers(assay, search = "counts")) > 1) assay <- SeuratObject::JoinLayers(assay)
    SeuratObject::LayerData(assay, layer = if ("counts" %in% SeuratObject::Layers(assay)) "counts" else "data")
  } else methods::slot(assay, if (length(methods::slot(assay, "counts"))) "counts" else "data")
  embeddings <- lapply(SeuratObject::Reductions(object), function(name) SeuratObject::Embeddings(object, name))
  names(embeddings) <- SeuratObject::Reductions(object)
  list(i = counts@i, p = counts@p, x = counts@x, genes = rownames(counts), cells = colnames(counts),
    obs = object[[]][colnames(counts), , drop = FALSE], variable = SeuratObject::VariableFeatures(assay),
    embeddings = embeddings)
}"""


@converter.py2rpy.register(AnnData)
def to_seurat(adata: AnnData):
    """A Seurat object with the matrices, metadata, variable features and embeddings of `adata`.

    What is counts, data and scale.data the values decide: see `scduet.interop.matrices`.
    """
    layers = seurat_layers(adata)
    refuse_none(adata, layers)
    variable = adata.var_names[adata.var["highly_variable"]] if "highly_variable" in adata.var else []
    with localconverter(default_converter + numpy2ri.converter + pandas2ri.converter):
        into_r = robjects.conversion.get_conversion().py2rpy
        matrices = {role: _arrays(adata, layers, place, into_r) for role, place in layers.items()}
        embeddings = {reduction_of(key): into_r(np.asarray(value, dtype=float)) for key, value in _embeddings(adata)}
        obs = into_r(_plain(adata.obs))
    with localconverter(default_converter):
        cells, chosen = robjects.StrVector(list(adata.obs_names)), robjects.StrVector(list(variable))
        obs.rownames = cells
        given = {
            role: robjects.ListVector({**arrays, "genes": robjects.StrVector(genes)})
            for role, (arrays, genes) in matrices.items()
        }
        return robjects.r(TO_SEURAT)(robjects.ListVector(given), cells, obs, chosen, robjects.ListVector(embeddings))


@converter.rpy2py.register(SexpS4)
def from_s4(value: SexpS4):
    """An AnnData of a Seurat object; every other S4 object as rpy2 has it."""
    return to_anndata(value) if "Seurat" in value.rclass else default_converter.rpy2py(value)


def to_anndata(value: SexpS4) -> AnnData:
    """The default assay of a Seurat object: counts in X, metadata, variable features, reductions in obsm."""
    with localconverter(default_converter):
        parts = robjects.r(FROM_SEURAT)(value)
        parts = dict(zip(parts.names, parts, strict=True))
    genes, cells = list(parts["genes"]), list(parts["cells"])
    arrays = tuple(np.asarray(parts[name]) for name in ("x", "i", "p"))
    counts = sparse.csr_matrix(arrays, shape=(len(cells), len(genes)))
    with localconverter(default_converter + pandas2ri.converter):
        obs = robjects.conversion.get_conversion().rpy2py(parts["obs"])
    var = pd.DataFrame(index=genes)
    if len(parts["variable"]):
        var["highly_variable"] = var.index.isin(list(parts["variable"]))
    names = parts["embeddings"].names if len(parts["embeddings"]) else []
    obsm = {key_of(name): np.array(value) for name, value in zip(names, parts["embeddings"], strict=True)}
    return AnnData(counts, obs=obs, var=var, obsm=obsm)


def load_ipython_extension(ipython) -> None:
    """`%load_ext scduet.interop.rpy`: teach the cell magic %%R these conversions."""
    if "RMagics" not in ipython.magics_manager.registry:
        ipython.run_line_magic("load_ext", "rpy2.ipython")
    options = ipython.magics_manager.registry["RMagics"].options
    options.converter = options.converter + converter


def _arrays(adata: AnnData, layers: Mapping[str, str], place: str, into_r: Callable) -> tuple[dict, list[str]]:
    """The arrays of a dgCMatrix of genes x cells for R, and the names of the genes: those that the assay has."""
    whole = genes_at(adata, layers) == "raw"
    matrix, genes = sparse.csr_matrix(matrix_at(adata, place)), adata.var_names
    if place == "raw":
        genes = adata.raw.var_names if whole else genes
        matrix = matrix[:, adata.raw.var_names.get_indexer(genes)]
    matrix.sort_indices()
    arrays = {"i": matrix.indices, "p": matrix.indptr, "x": matrix.data.astype(float)}
    return {name: into_r(array) for name, array in arrays.items()}, list(genes)


def _embeddings(adata: AnnData) -> list[tuple[str, Any]]:
    """Entries of obsm that a reduction can hold; the others are told."""
    kept = [(key, value) for key, value in adata.obsm.items() if is_numbers(value) and not sparse.issparse(value)]
    left = [key for key in adata.obsm if key not in dict(kept)]
    if left:
        warnings.warn(f"not carried over to Seurat: obsm {some(left)}", ScduetWarning, stacklevel=3)
    return kept


def _plain(obs: pd.DataFrame) -> pd.DataFrame:
    """Columns as rpy2's pandas converter takes them: text as objects, nullable booleans and integers with their NA."""
    return obs.assign(**{name: obs[name].astype(object) for name in obs if obs[name].dtype == "string"})
