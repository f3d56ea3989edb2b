# AnnData objects of the R package anndataR: R6 objects (InMemoryAnnData, HDF5AnnData, ...) whose fields X, layers, obs, var
# and obsm hold cells x genes. They are taken as SingleCellExperiments, and functions that return their object return one.

# The object itself, or an AnnData as a SingleCellExperiment.
known_object <- function(object, call = rlang::caller_env()) {
  if (!inherits(object, "AbstractAnnData")) {
    return(object)
  }
  check_installed("SingleCellExperiment", "An AnnData of anndataR", call)
  genes <- as.character(object$var_names)
  cells <- as.character(object$obs_names)
  turned <- function(x) {
    x <- Matrix::t(x)
    dimnames(x) <- list(genes, cells)
    x
  }
  layers <- as.list(object$layers)
  x <- object$X
  if (!is.null(x)) layers <- c(set_as(list(x), if ("counts" %in% names(layers)) "X" else "counts"), layers)
  if (!length(layers)) abort_scduet("The AnnData has neither X nor layers.", class = "no_counts", call = call)
  embeddings <- Filter(function(x) length(dim(x)) == 2, as.list(object$obsm))
  embeddings <- lapply(embeddings, function(x) `dimnames<-`(as.matrix(x), list(cells, colnames(x))))
  SingleCellExperiment::SingleCellExperiment(lapply(layers, turned),
    colData = S4Vectors::DataFrame(plain_frame(object$obs, cells), row.names = cells, check.names = FALSE),
    rowData = S4Vectors::DataFrame(plain_frame(object$var, genes), row.names = genes, check.names = FALSE),
    reducedDims = set_as(embeddings, reduction_name(names(embeddings)))
  )
}

set_as <- function(x, names) {
  names(x) <- names
  x
}

#' @rdname as_anndata
#' @export
as_anndata.AbstractAnnData <- function(object, verbose = TRUE, ...) {
  cells <- known_object(object)
  as_anndata(cells, layers = SummarizedExperiment::assayNames(cells), verbose = verbose, ...)
}

#' @rdname RunModel
#' @export
RunModel.AbstractAnnData <- function(object, ...) RunModel(known_object(object), ...)
