#' Annotate cells from a labeled reference
#'
#' Trains scVI and then scANVI on both data sets and predicts the cell types of the query. Also prints and stores the
#' accuracy of the model, k nearest neighbors, logistic regression and a linear SVM on held-out reference cells. `use`
#' selects the method that labels the query.
#'
#' @param query,reference Seurat objects or SingleCellExperiments with raw counts. The reference may also be the folder
#'   of a transformer fine-tuned by [FinetuneTransformer()]; then nothing is trained.
#' @param labels Column of the reference's metadata with the cell types.
#' @param model "scanvi", or the folder of a transformer to fine-tune on the reference.
#' @param batch Column with the technical batch in the metadata of both; `NULL` to treat query and reference as two
#'   batches.
#' @param features Genes to use; `NULL` for the shared variable features of the reference, or all shared genes if there
#'   are none. A transformer uses all genes.
#' @param unknown Fraction (0 to 1) of the maximum entropy above which a cell is called "unknown"; `NULL` to label every
#'   cell.
#' @param use Method whose labels to use: "model", the baselines "knn", "logistic_regression" or "linear_svm", or
#'   "best", the method with the highest `macro_f1` (mean over types). For a fine-tuned transformer, only "model".
#' @param assay Assay with the counts in the query; the reference's default assay is used.
#' @inheritParams RunModel
#' @returns The query with the columns `predicted.<labels>` and `predicted.<labels>.score`; a Seurat object also has the
#'   assay `prediction.score.<labels>` with one row per type. The table of accuracies, whose column `used` marks the
#'   method that labeled the query, is in `Misc(query, "scduet.annotation")` or `metadata(query)$scduet.annotation`.
#' @references Xu et al. (2021), Probabilistic harmonization and annotation of single-cell transcriptomics data with deep
#'   generative models, \doi{10.15252/msb.20209620}
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' cells <- SeuratObject::pbmc_small
#' reference <- cells[, cells$groups == "g1"]
#' query <- cells[, cells$groups == "g2"]
#' query <- suppressWarnings(AnnotateCells(query, reference,
#'   labels = "letter.idents", features = rownames(cells), max_epochs = 2, verbose = FALSE
#' ))
#' table(query$letter.idents, query$predicted.letter.idents)
AnnotateCells <- function(query, reference, labels, model = "scanvi", batch = NULL, assay = NULL, layer = "counts",
                          features = NULL, use = "model", unknown = NULL, seed.use = 42, verbose = TRUE, ...) {
  check_text(labels, "labels")
  check_text(model, "model")
  check_text(use, "use")
  options <- list(...)
  check_option_names(options, rlang::current_env())
  seed <- check_whole(seed.use, "seed.use")
  new <- parts_of(query, assay, layer)
  if (is.character(reference)) {
    check_text(reference, "reference")
    fixed <- Filter(Negate(is.null), list(use = use, unknown = unknown))
    found <- ask("annotate",
      query = anndata_of(new), reference = path_of(reference), options = c(fixed, lapply(options, as_option)),
      callback = py_callback(new_reporter(verbose))
    )
    return(put_annotation(query, found, labels, verbose, rownames(new$cells)))
  }
  known <- parts_of(reference, NULL, layer)
  check_column(known$cells, labels, "labels", may_miss = TRUE)
  check_column(known$cells, batch, "batch")
  check_column(new$cells, batch, "batch")
  if (dir.exists(model) || startsWith(model, "hf://")) { # a transformer, which reads all genes
    model <- path_of(model)
    if (is.null(features)) features <- known$genes
  }
  genes <- shared_features(features, reference, known$genes, new$genes, verbose)
  fixed <- list(
    labels_key = labels, model = as.character(model), batch_key = batch, use = use, unknown = unknown, seed = seed
  )
  found <- ask("annotate",
    query = anndata_of(new, genes, as.character(batch)), reference = anndata_of(known, genes, c(labels, batch)),
    options = c(Filter(Negate(is.null), fixed), lapply(options, as_option)), callback = py_callback(new_reporter(verbose))
  )
  put_annotation(query, found, labels, verbose, rownames(new$cells), known$cells[[labels]])
}

shared_features <- function(features, reference, known, present, verbose, call = rlang::caller_env()) {
  variable <- if (inherits(reference, "Seurat")) SeuratObject::VariableFeatures(reference)
  wanted <- if (!is.null(features)) features else if (length(variable)) known[known %in% variable] else known
  genes <- wanted[wanted %in% present & wanted %in% known]
  if (!length(genes)) {
    abort_scduet("Query and reference share no features.", "Does one use gene symbols and the other Ensembl ids?", "features", call)
  }
  inform_scduet(sprintf("Using %d features shared by query and reference.", length(genes)), verbose)
  genes
}

put_annotation <- function(query, found, labels, verbose, names, values = NULL) {
  cells <- receive_frame(found$cells)
  name <- paste0("predicted.", labels)
  query <- put_column(query, name, as_values_of(as.character(cells$predicted), values), names)
  query <- put_column(query, paste0(name, ".score"), cells$predicted_score, names)
  table <- receive_frame(found$table)
  said <- sprintf("%s %.3f", table$method, table$accuracy)
  inform_scduet(paste0("Accuracy on held-out reference cells: ", paste(said, collapse = ", "), "."), verbose)
  inform_scduet(sprintf("Labels predicted by %s.", table$method[table$used]), verbose)
  if (!inherits(query, "Seurat")) {
    kept <- S4Vectors::metadata(query)
    kept$scduet.annotation <- table
    methods::slot(query, "metadata") <- kept
    return(query)
  }
  probability <- receive_matrix(found$probability)
  types <- make.unique(gsub("[_|]", "-", receive_text(found$types)))
  dimnames(probability) <- list(types, names)
  query[[paste0("prediction.score.", labels)]] <- SeuratObject::CreateAssayObject(data = probability)
  methods::slot(query, "misc")$scduet.annotation <- table
  query
}
