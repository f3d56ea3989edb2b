#' Predict an assay that was not measured
#'
#' Predicts e.g. the proteins of cells from their RNA, by a model trained on cells that have both, such as totalVI. Prints
#' and keeps how well the model, 50 nearest neighbors, ridge and kernel ridge do on cells that were held out when the model
#' was trained: simple methods are often as good.
#'
#' The model predicts best if cells without the assay, best of all the query itself, were among those it was trained on:
#' `merge()` both and train with `batch`, since an assay that is zero in all cells of a batch counts as not measured.
#'
#' `Seurat::PredictAssay()`, which averages over given neighbors, is called where the second argument is a matrix of
#' neighbors or `nn.idx` is given.
#'
#' @param object Seurat object or SingleCellExperiment with raw counts of RNA: the query. Its own `assay` is not used.
#' @param model The object that the model was trained on, which holds it; or a model (see [ScduetModel()]), and then
#'   `reference` is needed too.
#' @param assay Assay to predict, as the object that the model was trained on calls it; `NULL` where there is only one.
#' @param reference Object that the model was trained on, with the same cells in the same order; `NULL` for `model`.
#' @param reduction Name of the reduction whose model is wanted; `NULL` where there is only one.
#' @param use Whose predictions to take: "model"; "knn", "ridge" or "kernel_ridge"; or "best", by the correlation.
#' @param rna.assay Assay of the query with the counts of RNA; `NULL` for the default one.
#' @param assay.name Name of the new assay; `NULL` for "predicted." and `assay`. One of this name is replaced if this package
#'   made it; anything else of this name is an error.
#' @param spread Also add the standard deviations of a new measurement, as an assay of the same name and ".sd".
#' @param n.samples Draws of each cell, averaged.
#' @inheritParams RunModel
#' @param ... Not used.
#' @returns The object with a new assay whose layer `data` holds the expected log(1 + counts); a SingleCellExperiment gets it
#'   as an alternative experiment. The table, one row a method, is in `Misc(object, "scduet.prediction")` or
#'   `metadata(object)$scduet.prediction`: `pearson`, the mean over features of the correlation with log(1 + counts), `rmse`,
#'   `n_cells`, and `used`.
#' @references Gayoso, Steier et al. (2021), Joint probabilistic modeling of single-cell multi-omic data with totalVI,
#'   \doi{10.1038/s41592-020-01050-x}
#' @seealso [RunTotalVI()]
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' rna <- Matrix::Matrix(rpois(60 * 150, 2), 60, sparse = TRUE,
#'   dimnames = list(paste0("gene", 1:60), paste0("cell", 1:150))
#' )
#' proteins <- Matrix::Matrix(rpois(6 * 150, 20), 6, sparse = TRUE,
#'   dimnames = list(paste0("CD", 1:6), colnames(rna))
#' )
#' obj <- SeuratObject::CreateSeuratObject(rna)
#' obj[["ADT"]] <- SeuratObject::CreateAssayObject(counts = proteins)
#' cite <- RunTotalVI(obj, protein.assay = "ADT", max_epochs = 2, verbose = FALSE)
#' query <- PredictAssay(obj[, 1:20], cite, "ADT")
#' query[["predicted.ADT"]]
PredictAssay <- function(object, model, assay = NULL, reference = NULL, reduction = NULL, use = "model", rna.assay = NULL,
                         layer = "counts", assay.name = NULL, spread = FALSE, n.samples = 50, seed.use = 42,
                         verbose = TRUE, ...) {
  options <- list(...)
  if (!is.null(options$nn.idx) || (!missing(model) && is.matrix(model))) {
    return(seurat_predict_assay(match.call(), parent.frame()))
  }
  check_no_options(...)
  check_text(use, "use")
  check_flag(verbose, "verbose")
  check_flag(spread, "spread")
  reference <- reference_for(reference, model)
  model <- if (inherits(model, "ScduetModel")) model else ScduetModel(model, reduction = reduction)
  modality <- predictable(model, assay)
  name <- if (is.null(assay.name)) paste0("predicted.", model$assays[[modality]]) else assay.name
  check_text(name, "assay.name")
  for (added in c(name, if (spread) paste0(name, ".sd"))) check_assay_name(object, added)
  options <- list(use = use, n_samples = check_whole(n.samples, "n.samples"), seed = check_whole(seed.use, "seed.use"))
  query <- parts_of(object, rna.assay, layer)
  known <- parts_of(reference, trained_assay(reference, model), layer)
  found <- ask("predict_modality",
    folder = model_folder(model), sha256 = model$sha256, query = anndata_for(query, model),
    reference = anndata_for(known, model), modality = modality, options = options
  )
  table <- receive_frame(found$table)
  said <- sprintf("%s %.3f", table$method, table$pearson)[!is.na(table$pearson)]
  inform_scduet(paste0("Correlation in held-out cells: ", paste(said, collapse = ", "), "."), verbose)
  inform_scduet(sprintf("Predictions by %s.", table$method[table$used]), verbose)
  cells <- rownames(query$cells)
  object <- put_denoised(object, receive_denoised(found, cells), name)
  if (spread) {
    deviations <- receive_denoised(list(names = found$names, values = found$spread), cells)
    object <- put_denoised(object, deviations, paste0(name, ".sd"))
  }
  keep_table(object, "scduet.prediction", table)
}

# The input of the model that is called `assay` in the object it was trained on.
predictable <- function(model, assay, call = rlang::caller_env()) {
  known <- model$assays
  check_text(assay, "assay", optional = TRUE, call = call)
  found <- if (is.null(assay) && length(known) == 1) names(known) else names(known)[known == assay | names(known) == assay]
  if (length(found) != 1) {
    what <- if (is.null(assay)) "`assay` is missing." else sprintf("The model was not trained on an assay \"%s\".", assay)
    hint <- if (length(known)) paste0("It was trained on ", some(known, 12), ".") else "Train e.g. `RunTotalVI()`."
    abort_scduet(what, hint, "assay", call)
  }
  found
}

# A table about the cells, kept in the object.
keep_table <- function(object, name, table) {
  if (inherits(object, "Seurat")) {
    methods::slot(object, "misc")[[name]] <- table
    return(object)
  }
  kept <- S4Vectors::metadata(object)
  kept[[name]] <- table
  methods::slot(object, "metadata") <- kept
  object
}

# The function of this name of Seurat, which ours masks, called as it was.
seurat_predict_assay <- function(called, frame) {
  check_installed("Seurat", "PredictAssay() with neighbors")
  called[[1]] <- quote(Seurat::PredictAssay)
  names(called)[names(called) == "model"] <- "nn.idx"
  eval(called, frame)
}
