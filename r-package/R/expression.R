#' Denoised expression
#'
#' What the model expects each gene's expression to be, freed of dropout and, with `batch`, of batch differences.
#'
#' @param object Seurat object or SingleCellExperiment that holds a model: see [ScduetModel()].
#' @param reduction Name of the reduction whose model is wanted; `NULL` where there is only one.
#' @param assay.name Name of the new assay. One of this name is replaced if this function or [DenoiseData()] made it;
#'   anything else of this name is an error.
#' @param features Genes wanted, or features of the `modality`; `NULL` for all of the model.
#' @param batch Decode all cells as if measured in this batch, or the mean over several; `NULL` for each cell's own.
#' @param library.size What the shares of the genes are multiplied by: 10,000, or 1 where a `modality` is given.
#' @param n.samples Draws a cell, averaged.
#' @param modality Another matrix that the model decodes, such as "protein", whose expected values are wanted; `NULL` for
#'   the main one.
#' @inheritParams RunModel
#' @param ... Not used.
#' @returns The object with a new assay whose layer `data` is the denoised expression (not log-transformed); a
#'   SingleCellExperiment gets it as an alternative experiment.
#' @references Lopez et al. (2018), \doi{10.1038/s41592-018-0229-2}
#' @family tasks
#' @export
#' @examples
#' \dontrun{
#' obj <- NormalizeExpression(obj)
#' FeaturePlot(obj, "denoised_CD3E")
#' }
NormalizeExpression <- function(object, reduction = NULL, assay = NULL, layer = "counts", assay.name = "denoised",
                                features = NULL, batch = NULL, library.size = if (is.null(modality)) 1e4 else 1, n.samples = 1,
                                seed.use = 42, modality = NULL, ...) {
  check_no_options(...)
  check_text(assay.name, "assay.name")
  check_assay_name(object, assay.name)
  model <- ScduetModel(object, reduction = reduction)
  if (is.null(modality)) check_features(features, model$genes)
  parts <- parts_of(object, assay, layer)
  adata <- anndata_for(parts, model)
  options <- list(
    transform_batch = if (!is.null(batch)) as_option(as_level(batch)), gene_list = if (!is.null(features)) as.list(features), library_size = library.size,
    n_samples = check_whole(n.samples, "n.samples"), seed = check_whole(seed.use, "seed.use"),
    modality = modality
  )
  found <- ask("expression",
    folder = model_folder(model), sha256 = model$sha256, adata = adata, options = Filter(Negate(is.null), options)
  )
  put_denoised(object, receive_denoised(found, rownames(parts$cells)), assay.name)
}

receive_denoised <- function(found, cells) {
  x <- receive_matrix(found$values)
  dimnames(x) <- list(gsub("[_|]", "-", receive_text(found$names)), cells)
  x
}

# Denoised values as an assay, or an alternative experiment.
put_denoised <- function(object, x, name) {
  if (inherits(object, "Seurat")) {
    made <- new_assay(data = methods::as(x, "CsparseMatrix"))
    methods::slot(made, "misc")$scduet <- DENOISED
    quiet_layers(object[[name]] <- made)
  } else {
    colnames(x) <- colnames(object)
    made <- SummarizedExperiment::SummarizedExperiment(list(expression = x), metadata = list(scduet = DENOISED))
    SingleCellExperiment::altExp(object, name) <- made
  }
  object
}

DENOISED <- "denoised expression" # marks an assay that may be replaced by a newer one

# An assay of this name may be replaced if it was made here.
check_assay_name <- function(object, name, call = rlang::caller_env()) {
  if (inherits(object, "Seurat")) {
    if (!name %in% names(object)) {
      return(invisible())
    }
    part <- object[[name]]
    mark <- if (name %in% SeuratObject::Assays(object)) methods::slot(part, "misc")$scduet
  } else {
    if (!name %in% SingleCellExperiment::altExpNames(object)) {
      return(invisible())
    }
    mark <- S4Vectors::metadata(SingleCellExperiment::altExp(object, name))$scduet
  }
  if (!identical(mark, DENOISED)) {
    said <- sprintf("The object has \"%s\" already, and neither NormalizeExpression() nor DenoiseData() made it.", name)
    abort_scduet(said, "Choose another `assay.name`.", "exists", call)
  }
}
