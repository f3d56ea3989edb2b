#' DestVI: cell types in spots, and the states of their cells
#'
#' Trains CondSCVI on single cells of known types, then DestVI on the spots, with the decoder that CondSCVI learned. With
#' `start`, a reference trained by `RunCondSCVI()`, only the second. `DeconvolveSpots(model = "destvi")` does both too, and
#' judges the proportions beside plain methods.
#'
#' The genes are the variable features of the reference that the spots have, or all that both have.
#'
#' @param object Spots: an object that [RunModel()] takes, with raw counts.
#' @param reference Single cells: a Seurat object or SingleCellExperiment, with raw counts.
#' @param labels Column of the reference's metadata with the cell types.
#' @param start In place of both: a model of `RunCondSCVI()`, or an object with its reduction.
#' @param reference.options List of arguments of `RunCondSCVI()`, e.g. `list(batch = "donor", max_epochs = 100)`.
#' @param smoothed.assay The counts of the spots smoothed over their neighbors, whose proportions those of the spots are
#'   drawn to: name of an assay, or a matrix of genes x spots. Optional.
#' @param seed.use Random seed of both.
#' @param verbose Show progress.
#' @param ... Arguments of [RunModel()] for the spots, and options of DestVI and of its training, e.g. `max_epochs`.
#' @returns What [RunModel()] returns: for a Seurat object the object with a reduction `destvi`, which holds the model and has
#'   the proportions of the types as shares of RNA (spots x types, in the order of the reference's types).
#' @references Lopez et al. (2022), DestVI identifies continuums of cell types in spatial transcriptomics data,
#'   \doi{10.1038/s41587-022-01272-8}
#' @seealso [DeconvolveSpots()], [RunCondSCVI()]
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' cells <- SeuratObject::pbmc_small # each cell as a spot
#' spots <- RunDestVI(cells, cells,
#'   labels = "letter.idents", reference.options = list(max_epochs = 2, features = rownames(cells)),
#'   max_epochs = 2, verbose = FALSE
#' )
#' head(SeuratObject::Embeddings(spots, "destvi"))
RunDestVI <- function(object, reference = NULL, labels = NULL, start = NULL, reference.options = list(),
                      smoothed.assay = NULL, seed.use = 42, verbose = TRUE, ...) {
  if (is.null(start) == is.null(reference)) {
    abort_scduet(
      "DestVI needs a reference of single cells.",
      hint = "Pass `reference` and `labels`, or a model of RunCondSCVI() as `start`.", class = "option"
    )
  }
  if (is.null(start)) {
    start <- condscvi_for(object, reference, labels, reference.options, seed.use, verbose, list(...))
  }
  inputs <- own_inputs(object, ..., inputs = NULL, own = list(smoothed = smoothed.assay), needed = NULL)
  RunModel(object, model = "destvi", start = start, inputs = inputs, seed.use = seed.use, verbose = verbose, ...)
}

# The CondSCVI of the genes of a reference that the spots have.
condscvi_for <- function(object, reference, labels, options, seed.use, verbose, given, call = rlang::caller_env()) {
  check_text(labels, "labels", call = call)
  cells <- parts_of(reference, options$assay, if (is.null(options$layer)) "counts" else options$layer, call = call)
  check_column(cells$cells, labels, "labels", call = call)
  spots <- if (inherits(object, "Seurat")) parts_of(object, given$assay, "counts", call = call)$genes else rownames(object)
  variable <- if (inherits(reference, "Seurat")) SeuratObject::VariableFeatures(reference)
  shared <- intersect(if (length(variable)) variable else cells$genes, spots)
  if (!length(shared)) {
    abort_scduet(
      "The spots share no gene with the reference.", hint = "Are they symbols in one and Ensembl ids in the other?",
      class = "data", call = call
    )
  }
  own <- list(labels = labels, features = shared, seed.use = seed.use, verbose = verbose)
  own <- c(own[setdiff(names(own), names(options))], options)
  ScduetModel(rlang::inject(RunCondSCVI(reference, !!!own)))
}
