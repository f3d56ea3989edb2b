#' Annotate cells by a reference
#'
#' Trains scVI and then scANVI on both data sets and predicts the cell types of the query. Prints, and keeps, a table of
#' accuracies: the model beside k nearest neighbors and logistic regression, on reference cells whose labels none had seen.
#' `use` says whose labels the query gets.
#'
#' @param query,reference Seurat objects or SingleCellExperiments with raw counts. The reference may also be the folder of a
#'   transformer that [FinetuneTransformer()] taught; then nothing is trained.
#' @param labels Column of the reference's metadata with the cell types.
#' @param model "scanvi", or the folder of a transformer, which is then fine-tuned on the reference.
#' @param batch Column in the metadata of both with the technical batch; `NULL` to take them for two batches.
#' @param features Genes to use; `NULL` for the variable features of the reference, else all, that both share. A
#'   transformer takes all.
#' @param unknown Share (0 to 1) of the largest possible entropy above which a cell is called "unknown"; `NULL` never.
#' @param use Whose labels to take: "model"; "knn" or "logistic_regression", the baselines of the table; or "best", the row
#'   with the highest `macro_f1` (mean over types). Given the folder of a trained transformer, only "model".
#' @param assay Assay with the counts, in the query; in the reference it is the default one.
#' @inheritParams RunModel
#' @returns The query with the columns `predicted.<labels>` and `predicted.<labels>.score`; a Seurat object also with the
#'   assay `prediction.score.<labels>`, one row a type. The table, with the method that gave the labels (`used`), is in `Misc(query, "scduet.annotation")` or
#'   `metadata(query)$scduet.annotation`.
#' @references Xu et al. (2021), Probabilistic harmonization and annotation of single-cell transcriptomics data with deep
#'   generative models, \doi{10.15252/msb.20209620}
#' @family tasks
#' @export
#' @examples
#' \dontrun{
#' query <- AnnotateCells(query, reference, labels = "cell_type")
#' }
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
    abort_scduet("Query and reference share no features.", "Are names symbols in one and Ensembl ids in the other?", "features", call)
  }
  inform_scduet(sprintf("Using %d features that query and reference share.", length(genes)), verbose)
  genes
}

put_annotation <- function(query, found, labels, verbose, names, values = NULL) {
  cells <- receive_frame(found$cells)
  name <- paste0("predicted.", labels)
  query <- put_column(query, name, as_values_of(as.character(cells$predicted), values), names)
  query <- put_column(query, paste0(name, ".score"), cells$predicted_score, names)
  table <- receive_frame(found$table)
  said <- sprintf("%s %.3f", table$method, table$accuracy)
  inform_scduet(paste0("Accuracy on reference cells held out: ", paste(said, collapse = ", "), "."), verbose)
  inform_scduet(sprintf("The labels are those of %s.", table$method[table$used]), verbose)
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
