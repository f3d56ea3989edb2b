#' Map new cells onto a trained model
#'
#' Embeds new cells with a model trained on a reference. Batches that the model has not seen are added to it and learnt
#' (scArches), while cells of the reference keep their numbers exactly.
#'
#' @param object Seurat object or SingleCellExperiment with raw counts; its metadata must have the model's columns.
#' @param reference A model, or an object that holds one: see [ScduetModel()]. If it is a Seurat object whose UMAP was
#'   made of the model's reduction with `return.model = TRUE`, the new cells are placed on it (`ref.umap`).
#' @param reduction Name of the reference's reduction whose model is wanted; `NULL` where there is only one.
#' @param reduction.name Name of the new reduction; `NULL` for "ref." and the name of the model.
#' @param umap Name of the reference's UMAP.
#' @param ... Options of training, e.g. `max_epochs`; `train = FALSE` learns nothing; `max_missing` is the share of the
#'   model's genes that may be absent.
#' @inheritParams RunModel
#' @returns `object` with the reduction, which holds the model that knows the new batches, and `ref.umap` if possible.
#' @references Lotfollahi et al. (2022), Mapping single-cell data to reference atlases by transfer learning,
#'   \doi{10.1038/s41587-021-01001-7}
#' @family tasks
#' @export
#' @examples
#' \dontrun{
#' query <- MapToReference(query, reference)
#' DimPlot(query, reduction = "ref.umap")
#' }
MapToReference <- function(object, reference, reduction = NULL, assay = NULL, layer = "counts", reduction.name = NULL,
                           umap = "umap", seed.use = 42, verbose = TRUE, ...) {
  model <- if (is.null(reduction)) ScduetModel(reference) else ScduetModel(reference, reduction = reduction)
  seed <- check_whole(seed.use, "seed.use")
  parts <- parts_of(object, assay, layer)
  adata <- anndata_for(parts, model)
  to <- tempfile("scduet-")
  mapped <- ask("map_query",
    folder = model_folder(model), sha256 = model$sha256, adata = adata, to = to,
    options = c(list(seed = seed), lapply(list(...), as_option)), callback = py_callback(new_reporter(verbose))
  )
  name <- if (is.null(reduction.name)) paste0("ref.", model$name) else reduction.name
  grown <- new_model(py_value(mapped$facts), receive_frame(mapped$history), to, keep = FALSE)
  assay <- if (inherits(object, "Seurat")) default_assay(object, assay)
  object <- put_embedding(object, receive_matrix(mapped$embedding), name, assay, grown)
  project_umap(object, name, reference, reduction, model, umap, verbose)
}

project_umap <- function(object, name, reference, reduction, model, umap, verbose = TRUE) {
  if (!inherits(reference, "Seurat") || !inherits(object, "Seurat")) {
    return(object)
  }
  from <- if (is.null(reduction)) model$name else reduction
  reason <- unfit_umap(reference, umap, from)
  if (!is.null(reason)) {
    remedy <- sprintf("`RunUMAP(reference, reduction = \"%s\", dims = 1:%d, return.model = TRUE)` makes one.", from, ncol(object[[name]]))
    inform_scduet(sprintf("The cells are not placed on a UMAP: %s. %s", reason, remedy), verbose)
    return(object)
  }
  check_installed("Seurat", "Placing cells on the reference's UMAP")
  dims <- seq_len(ncol(object[[name]]))
  suppressMessages(suppressWarnings(Seurat::ProjectUMAP(
    query = object, query.reduction = name, query.dims = dims, reference = reference,
    reference.reduction = from, reference.dims = dims,
    reduction.model = umap, reduction.name = "ref.umap", reduction.key = "refumap_", verbose = FALSE
  )))
}

# Why cells cannot be placed on this UMAP, or NULL: it is not there, has no model, or was made of another reduction.
unfit_umap <- function(reference, umap, from) {
  if (!umap %in% SeuratObject::Reductions(reference)) {
    return(sprintf("the reference has no reduction \"%s\" (see `umap`)", umap))
  }
  if (is.null(methods::slot(reference[[umap]], "misc")$model)) {
    return(sprintf("\"%s\" holds no model", umap))
  }
  made <- Filter(function(command) identical(command$reduction.name, umap), lapply(methods::slot(reference, "commands"), logged))
  of <- if (length(made)) made[[length(made)]]$reduction
  if (!is.null(of) && of != from) sprintf("\"%s\" was made of \"%s\", not of \"%s\"", umap, of, from)
}

logged <- function(command) if (methods::is(command, "SeuratCommand")) methods::slot(command, "params")
