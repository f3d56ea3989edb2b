#' Map new cells onto a trained model
#'
#' Embeds new cells with a model trained on a reference. New batches are added to the model and trained (scArches)
#' without changing the embedding of reference cells.
#'
#' @param object Seurat object or SingleCellExperiment with raw counts; its metadata must have the model's columns.
#' @param reference A model, or an object that holds one: see [ScduetModel()]. If it is a Seurat object whose UMAP was
#'   computed from the model's reduction with `return.model = TRUE`, new cells are projected onto it (`ref.umap`).
#' @param reduction Name of the reference's reduction whose model to use; `NULL` if there is only one model.
#' @param reduction.name Name of the new reduction; `NULL` for "ref." followed by the name of the model.
#' @param umap Name of the reference's UMAP.
#' @param ... Training options, e.g. `max_epochs`; `train = FALSE` skips training; `max_missing` is the fraction of the
#'   model's genes that may be missing; `n_new_terms` adds terms to a model of [RunPrograms()] for what is new in the query.
#' @inheritParams RunModel
#' @returns `object` with the reduction, which contains the updated model, and `ref.umap` if possible; otherwise a
#'   message gives the reason, e.g. that reference cells were removed after its UMAP was computed. scANVI also adds the
#'   columns `predicted.<labels>` and `predicted.<labels>.score`.
#' @references Lotfollahi et al. (2022), Mapping single-cell data to reference atlases by transfer learning,
#'   \doi{10.1038/s41587-021-01001-7}
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' cells <- SeuratObject::pbmc_small
#' reference <- cells[, cells$groups == "g1"]
#' query <- cells[, cells$groups == "g2"]
#' reference <- RunSCVI(reference, features = rownames(cells), max_epochs = 2, verbose = FALSE)
#' query <- MapToReference(query, reference, max_epochs = 2, verbose = FALSE)
#' query[["ref.scvi"]]
MapToReference <- function(object, reference, reduction = NULL, assay = NULL, layer = "counts", reduction.name = NULL,
                           umap = "umap", seed.use = 42, verbose = TRUE, ...) {
  check_option_names(list(...), rlang::current_env())
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
  assay <- if (inherits(object, "Seurat")) default_assay(object, assay)
  mapped <- receive_trained(mapped, to)
  mapped$loadings <- NULL # these belong to the reference
  object <- put_trained(object, mapped, name, assay, cells = rownames(parts$cells))
  project_umap(object, name, reference, reduction, model, umap, verbose)
}

project_umap <- function(object, name, reference, reduction, model, umap, verbose = TRUE) {
  if (!inherits(reference, "Seurat") || !inherits(object, "Seurat")) {
    return(object)
  }
  from <- if (is.null(reduction)) model$name else reduction
  reason <- unfit_umap(reference, umap, from)
  if (!is.null(reason)) {
    remedy <- sprintf("Compute one with `RunUMAP(reference, reduction = \"%s\", dims = 1:%d, return.model = TRUE)`.", from, ncol(object[[name]]))
    inform_scduet(sprintf("Cells were not projected onto a UMAP: %s. %s", reason, remedy), verbose)
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

# Why cells cannot be projected onto this UMAP, or NULL: it does not exist, has no model, or was computed from another
# reduction, other cells or an earlier embedding. The UMAP model refers to neighbors by row number and does not change
# when Seurat subsets or reorders cells.
unfit_umap <- function(reference, umap, from) {
  if (!umap %in% SeuratObject::Reductions(reference)) {
    return(sprintf("the reference has no reduction \"%s\" (see `umap`)", umap))
  }
  model <- methods::slot(reference[[umap]], "misc")$model
  if (is.null(model)) {
    return(sprintf("\"%s\" contains no model", umap))
  }
  made <- maker_of(reference, umap)
  of <- if (!is.null(made)) methods::slot(made, "params")$reduction
  if (!is.null(of) && of != from) {
    return(sprintf("\"%s\" was computed from \"%s\", not \"%s\"", umap, of, from))
  }
  if (!has_rows_of(model, SeuratObject::Embeddings(reference, umap), SeuratObject::Embeddings(reference, from))) {
    return(sprintf("the model in \"%s\" was computed from other cells than those of the reference, or in another order", umap))
  }
  trained <- maker_of(reference, from)
  if (!is.null(made) && !is.null(trained) && methods::slot(trained, "time.stamp") > methods::slot(made, "time.stamp")) {
    sprintf("\"%s\" is older than \"%s\"", umap, from)
  }
}

# Whether the rows of a uwot model match the cells of its UMAP, and those of the reduction it was computed from.
has_rows_of <- function(model, drawn, embedding) {
  rows <- model$embedding
  identical(rownames(drawn), rownames(embedding)) && identical(dim(rows), dim(drawn)) &&
    isTRUE(all.equal(as.vector(rows), as.vector(drawn), tolerance = 1e-6))
}

# The last logged command that created this reduction, or NULL.
maker_of <- function(object, reduction) {
  made <- Filter(function(command) identical(name_made(command), reduction), methods::slot(object, "commands"))
  stamps <- vapply(made, function(command) as.numeric(methods::slot(command, "time.stamp")), 0)
  if (length(made)) made[[which.max(stamps)]]
}

name_made <- function(command) {
  params <- if (methods::is(command, "SeuratCommand")) methods::slot(command, "params")
  if (is.null(params$reduction.name)) params$model else params$reduction.name
}
