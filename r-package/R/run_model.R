#' Train a model and add its embedding
#'
#' Trains a deep model on raw counts and returns the object with a new reduction. `RunSCVI()` is `RunModel(model = "scvi")`,
#' `RunSCANVI()`, which also learns from cell types, `RunModel(model = "scanvi")`, and so on.
#' The trained model travels inside the object: see [ScduetModel()].
#'
#' Counts of the variable features are used if there are any, else of all features, and a message says which; the same
#' rule holds in Python, and the same seed gives the same embedding there (`seed=42`).
#'
#' @param object A Seurat object, an assay, a SingleCellExperiment, or a matrix of genes x cells with raw counts (dense,
#'   sparse or on disk).
#' @param model Name of the model.
#' @param batch The technical batch to correct for: a column of the metadata, e.g. the donor. For an assay or a matrix: a
#'   vector with one value for each cell. `NULL` for one batch.
#' @param labels Cell types, for models that use them, given like `batch`.
#' @param assay Assay to take the counts from; `NULL` for the default one.
#' @param layer Layer with raw counts; all its parts are used where it is split.
#' @param features Genes to train on; `NULL` for the variable features, else all.
#' @param inputs What a model reads beside the counts, by the engine's name of the input, e.g. `c(protein = "ADT")`: the
#'   name of an assay (in a SingleCellExperiment of an alternative experiment), the path of a `.gmt` or `.csv` file, or a
#'   matrix, of features x cells, or of genes x anything for what is known of genes.
#' @param reduction.name Name of the new reduction; `NULL` for the name of the model.
#' @param reduction.key Key of the new reduction; `NULL` to make it from the name.
#' @param seed.use Seed of initial weights, split, shuffles and draws.
#' @param verbose Show messages and progress.
#' @param model.path Folder to save the model to. Models of more than 64 MB do not travel inside the object; without a
#'   folder those are lost with the session, and a warning says so.
#' @param metadata For a matrix or an assay: data frame with a row for each cell, for covariates.
#' @param ... Options of the engine, under scvi-tools' names: `n_latent`, `n_layers`, `n_hidden`, `gene_likelihood`,
#'   `dispersion`, `max_epochs`, `batch_size`, `lr`, `early_stopping`, `recipe`, `accelerator`,
#'   `categorical_covariate_keys`, `continuous_covariate_keys`, ... A name that does not exist is an error that lists
#'   the nearest one.
#' @returns The object with the reduction: for a Seurat object a `DimReduc`, for a SingleCellExperiment an entry of
#'   `reducedDims()` in capitals. For an assay a `DimReduc`, for a matrix a matrix of cells x dimensions.
#' @references Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics,
#'   \doi{10.1038/s41592-018-0229-2}
#' @family models
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- SeuratObject::pbmc_small
#' obj <- RunSCVI(obj, batch = "groups", features = genes, max_epochs = 2, verbose = FALSE)
#' obj[["scvi"]]
RunModel <- function(object, ...) UseMethod("RunModel")

# The short form of each model; a new model of the engine is a new row here and a function below.
RUNS <- c(
  scvi = "RunSCVI", scanvi = "RunSCANVI", ldvae = "RunLDVAE", autozi = "RunAutoZI",
  geneformer = "RunGeneformer", scgpt = "RunScGPT", scfoundation = "RunScFoundation"
)

#' @rdname RunModel
#' @export
RunSCVI <- function(object, ...) RunModel(object, model = "scvi", ...)

#' @rdname RunModel
#' @export
RunSCANVI <- function(object, ...) RunModel(object, model = "scanvi", ...)

#' @rdname RunModel
#' @export
RunLDVAE <- function(object, ...) RunModel(object, model = "ldvae", ...)

#' @rdname RunModel
#' @export
RunAutoZI <- function(object, ...) RunModel(object, model = "autozi", ...)

#' @rdname RunModel
#' @export
RunModel.Seurat <- function(object, model = "scvi", batch = NULL, labels = NULL, assay = NULL, layer = "counts",
                            features = NULL, inputs = NULL, reduction.name = NULL, reduction.key = NULL, seed.use = 42,
                            verbose = TRUE, model.path = NULL, ...) {
  check_installed("SeuratObject", "RunModel() on a Seurat object")
  assay <- default_assay(object, assay)
  main <- object[[assay]]
  data <- object[[]]
  check_column(data, batch, "batch")
  check_column(data, labels, "labels", may_miss = TRUE)
  task <- new_task(model, batch, labels, seed.use, verbose, model.path, ...)
  features <- choose_features(features, SeuratObject::VariableFeatures(main), rownames(main), verbose)
  trained <- run_task(task, need_layer(main, layer, features), features, data, check_inputs(inputs, object))
  name <- if (is.null(reduction.name)) model else reduction.name
  object <- put_embedding(object, trained$embedding, name, assay, trained$model, reduction.key)
  log_command(object, model, SeuratObject::LogSeuratCommand(object, return.command = TRUE), list(...))
}

#' @rdname RunModel
#' @export
RunModel.Assay <- function(object, model = "scvi", batch = NULL, labels = NULL, layer = "counts", features = NULL,
                           inputs = NULL, assay = NULL, reduction.name = NULL, reduction.key = NULL, seed.use = 42, verbose = TRUE,
                           model.path = NULL, metadata = NULL, ...) {
  data <- cell_frame(colnames(object), metadata, batch, labels)
  known <- rownames(object)
  task <- new_task(model, column_for("batch", batch), column_for("labels", labels), seed.use, verbose, model.path, ...)
  features <- choose_features(features, SeuratObject::VariableFeatures(object), known, verbose)
  trained <- run_task(task, need_layer(object, layer, features), features, data, check_inputs(inputs, object))
  name <- if (is.null(reduction.name)) model else reduction.name
  key <- if (length(SeuratObject::Key(object))) sub("_$", "", SeuratObject::Key(object)) else "RNA"
  assay <- if (is.null(assay)) toupper(key) else assay
  make_reduction(trained$embedding, colnames(object), name, assay, reduction.key, list(scduet = trained$model))
}

#' @rdname RunModel
#' @export
RunModel.StdAssay <- RunModel.Assay

#' @rdname RunModel
#' @export
RunModel.SingleCellExperiment <- function(object, model = "scvi", batch = NULL, labels = NULL, layer = "counts",
                                          features = NULL, inputs = NULL, reduction.name = NULL, seed.use = 42,
                                          verbose = TRUE, model.path = NULL, ...) {
  check_installed("SingleCellExperiment", "RunModel() on a SingleCellExperiment")
  data <- plain_frame(SummarizedExperiment::colData(object), names_or(colnames(object), ncol(object), "cell"))
  check_column(data, batch, "batch")
  check_column(data, labels, "labels", may_miss = TRUE)
  counts <- need_assay(object, layer)
  task <- new_task(model, batch, labels, seed.use, verbose, model.path, ...)
  features <- choose_features(features, NULL, rownames(object), verbose)
  inputs <- check_inputs(inputs, object)
  trained <- run_task(task, list(counts[features, , drop = FALSE]), features, data, inputs)
  name <- if (is.null(reduction.name)) toupper(model) else reduction.name
  put_embedding(object, trained$embedding, name, NULL, trained$model)
}

#' @rdname RunModel
#' @export
RunModel.default <- function(object, model = "scvi", batch = NULL, labels = NULL, features = NULL, inputs = NULL,
                             seed.use = 42, verbose = TRUE, model.path = NULL, metadata = NULL, ...) {
  if (length(dim(object)) != 2) {
    abort_scduet(
      sprintf("Cannot train on an object of class %s.", class(object)[1]),
      "Pass a Seurat object, an assay, a SingleCellExperiment, or a matrix of genes x cells.", "class"
    )
  }
  known <- names_or(rownames(object), nrow(object), "gene")
  cells <- names_or(colnames(object), ncol(object), "cell")
  task <- new_task(model, column_for("batch", batch), column_for("labels", labels), seed.use, verbose, model.path, ...)
  features <- choose_features(features, NULL, known, verbose)
  counts <- object[match(features, known), , drop = FALSE]
  dimnames(counts) <- list(features, cells)
  data <- cell_frame(cells, metadata, batch, labels)
  trained <- run_task(task, list(counts), features, data, check_inputs(inputs, counts))
  structure(named_embedding(trained, cells, model), scduet = trained$model)
}

# What to train, checked before Python is started.
new_task <- function(model, batch, labels, seed.use, verbose, model.path, ..., call = rlang::caller_env()) {
  check_text(model, "model", call = call)
  check_flag(verbose, "verbose", call = call)
  check_text(model.path, "model.path", optional = TRUE, call = call)
  if (!is.null(model.path)) check_new_file(model.path, overwrite = FALSE, call = call)
  options <- list(...)
  check_option_names(options, call)
  fixed <- list(batch_key = batch, labels_key = labels, seed = check_whole(seed.use, "seed.use", call))
  list(
    model = model, options = c(Filter(Negate(is.null), fixed), options), verbose = verbose, path = model.path, call = call,
    columns = unlist(c(batch, labels, options[c("categorical_covariate_keys", "continuous_covariate_keys", "size_factor_key")]))
  )
}

OURS <- c(batch_key = "batch", labels_key = "labels", seed = "seed.use", genes = "features", callback = "verbose")

check_option_names <- function(options, call) {
  names <- names(options)
  if (length(options) && (is.null(names) || any(names == ""))) {
    abort_scduet("Options of the engine need names.", "Write e.g. `n_latent = 20`.", "argument", call)
  }
  for (name in intersect(names, names(OURS))) {
    abort_scduet(sprintf("`%s` is called `%s` in R.", name, OURS[[name]]), class = "argument", call = call)
  }
}

# Move the cells, train, and take back embedding and model.
run_task <- function(task, blocks, features, data, inputs = list()) {
  for (column in task$columns) check_column(data, column, "column", column %in% task$options$labels_key, task$call)
  adata <- new_anndata(blocks, features, data[, unique(as.character(task$columns)), drop = FALSE], empty_frame(features))
  folder <- if (is.null(task$path)) tempfile("scduet-") else path.expand(task$path)
  progress <- new_reporter(task$verbose)
  trained <- ask("train",
    adata = adata, model = task$model, options = lapply(task$options, as_option), folder = folder,
    inputs = put_inputs(adata, inputs, features), callback = py_callback(progress), call = task$call
  )
  model <- new_model(py_value(trained$facts), receive_frame(trained$history), folder, keep = !is.null(task$path))
  list(embedding = receive_matrix(trained$embedding), model = model)
}

# Vectors of several values become lists, which is what the engine takes.
as_option <- function(x) if (length(x) > 1) as.list(x) else x

named_embedding <- function(trained, cells, name) {
  key <- key_of(name)
  dimnames(trained$embedding) <- list(cells, paste0(key, seq_len(ncol(trained$embedding))))
  trained$embedding
}

# Column that a vector of batches or labels gets; a name of a column of `metadata` stays.
column_for <- function(name, value) if (length(value) == 1) value else if (!is.null(value)) name

cell_frame <- function(cells, metadata, batch, labels, call = rlang::caller_env()) {
  data <- if (is.null(metadata)) empty_frame(cells) else metadata[cells, , drop = FALSE]
  for (name in c("batch", "labels")) {
    value <- get(name)
    if (length(value) > 1) data[[name]] <- cell_vector(value, cells, name, call)
    check_column(data, column_for(name, value), name, may_miss = name == "labels", call = call)
  }
  data
}

cell_vector <- function(value, cells, name, call) {
  if (!is.null(names(value)) && all(cells %in% names(value))) {
    return(unname(value[cells]))
  }
  if (length(value) != length(cells)) {
    abort_scduet(
      sprintf("`%s` has %d values for %d cells.", name, length(value), length(cells)),
      "Pass one value for each cell, in their order or named by cell.", name, call
    )
  }
  value
}

# The entry of the command log, under the short name and with the engine's options.
log_command <- function(object, model, command, options) {
  methods::slot(command, "name") <- sub("^[^.]*", if (model %in% names(RUNS)) RUNS[[model]] else "RunModel", methods::slot(command, "name"))
  methods::slot(command, "params") <- c(methods::slot(command, "params"), options)
  object[[methods::slot(command, "name")]] <- command
  object
}
