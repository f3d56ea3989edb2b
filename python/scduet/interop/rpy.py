"""Seurat <-> AnnData for rpy2: in Jupyter, `%load_ext scduet.interop.rpy`, then `%%R -i adata` gives R a Seurat object
and `-o obj` gives Python an AnnData.

    with localconverter(default_converter + rpy.converter):
        robjects.globalenv["obj"] = adata

Nothing is registered at import. SingleCellExperiment stays with anndata2ri, whose converter may stand beside this one.
R needs SeuratObject, not the R package scduet. The newest rpy2 needs R 4.5: before that, rpy2-rinterface < 3.6.6.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from rpy2 import robjects
from rpy2.rinterface import SexpS4
from rpy2.robjects import default_converter, numpy2ri, pandas2ri
from rpy2.robjects.conversion import Converter, localconverter
from scipy import sparse

from scduet.errors import DataError
from scduet.models import key_of, reduction_of

converter = Converter("Seurat and AnnData")

TO_SEURAT = """
function(i, p, counts, genes, cells, obs, variable, embeddings) {
  for (package in c("Matrix", "SeuratObject")) loadNamespace(package)
  matrix_of <- function(x) methods::new("dgCMatrix", i = as.integer(i), p = as.integer(p), x = as.numeric(x),
    Dim = c(length(genes), length(cells)), Dimnames = list(gsub("[_|]", "-", genes), cells))
  object <- SeuratObject::CreateSeuratObject(matrix_of(counts), meta.data = if (ncol(obs)) obs)
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
    SeuratObject::LayerData(assay, layer = "counts")
  } else methods::slot(assay, "counts")
  embeddings <- lapply(SeuratObject::Reductions(object), function(name) SeuratObject::Embeddings(object, name))
  names(embeddings) <- SeuratObject::Reductions(object)
  list(i = counts@i, p = counts@p, x = counts@x, genes = rownames(counts), cells = colnames(counts),
    obs = object[[]][colnames(counts), , drop = FALSE], variable = SeuratObject::VariableFeatures(assay),
    embeddings = embeddings)
}"""


@converter.py2rpy.register(AnnData)
def to_seurat(adata: AnnData):
    """A Seurat object with the counts, metadata, variable features and embeddings of `adata`."""
    counts = sparse.csr_matrix(_counts(adata))
    counts.sort_indices()
    variable = adata.var_names[adata.var["highly_variable"]] if "highly_variable" in adata.var else []
    with localconverter(default_converter + numpy2ri.converter + pandas2ri.converter):
        into_r = robjects.conversion.get_conversion().py2rpy
        arrays = [into_r(part) for part in (counts.indices, counts.indptr, counts.data.astype(float))]
        embeddings = {reduction_of(key): into_r(np.asarray(value, dtype=float)) for key, value in adata.obsm.items()}
        obs = into_r(_plain(adata.obs))
    with localconverter(default_converter):
        genes, cells = robjects.StrVector(list(adata.var_names)), robjects.StrVector(list(adata.obs_names))
        obs.rownames = cells
        chosen = robjects.StrVector(list(variable))
        return robjects.r(TO_SEURAT)(*arrays, genes, cells, obs, chosen, robjects.ListVector(embeddings))


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


def _counts(adata: AnnData):
    counts = adata.layers.get("counts", adata.X)
    if counts is None:
        raise DataError("the AnnData has no matrix", "put counts into X or layers['counts']")
    return counts


def _plain(obs: pd.DataFrame) -> pd.DataFrame:
    """Columns as rpy2's pandas converter takes them: text as objects, nullable booleans and integers with their NA."""
    return obs.assign(**{name: obs[name].astype(object) for name in obs if obs[name].dtype == "string"})
