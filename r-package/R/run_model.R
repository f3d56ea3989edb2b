#' Train a model and add its embedding
#'
#' Trains a deep model on raw counts and adds its embedding to the object as a reduction. `RunSCVI()` is short for
#' `RunModel(model = "scvi")`, and `RunSCANVI()`, which also uses cell types, for `RunModel(model = "scanvi")`. The
#' trained model is stored in the object: see [ScduetModel()].
#'
#' Trains on the variable features if there are any, otherwise on all features, and reports which. With the same seed,
#' Python gives the same embedding (`seed=42`).
#'
#' @section Main options of scVI and their defaults:
#' Where two values are given, they apply to the recipes "auto" and "scvi-tools". On the command line, `scduet fit
#' --model NAME --help` lists all options of a model.
#' * `n_latent` (default 10): Dimensions of the latent space.
#' * `n_hidden` (default 128): Width of the hidden layers.
#' * `n_layers` (default 1): Hidden layers of the encoder and of the decoder.
#' * `dropout_rate` (default 0.1): Share of hidden units that the encoder drops in training.
#' * `gene_likelihood` (default zinb): Distribution of the counts.
#' * `dispersion` (default gene): What the dispersion of a gene may depend on; with "gene-label" an unlabeled cell gets
#'   the labels' mean.
#' * `recipe` (default auto): Defaults for options left at NULL: "auto" is scduet's own, "scvi-tools" reproduces
#'   scvi-tools.
#' * `max_epochs` (default auto: 200 (fewer above 20,000 cells); scvi-tools: 400 (fewer above 20,000 cells)): Maximum
#'   number of epochs; NULL lets the recipe choose by the number of cells.
#' * `batch_size` (default 128): Number of cells per minibatch.
#' * `lr` (default auto: 0.005; scvi-tools: 0.001): Learning rate of Adam.
#' * `kl_warmup_epochs` (default auto: 20 (at most a fifth of max_epochs); scvi-tools: 400): Epochs over which the
#'   weight of the KL terms grows from 0 to max_kl_weight.
#' * `train_size` (default 0.9): Fraction of the cells to train on; the rest are held out for validation.
#' * `early_stopping` (default FALSE): Stop when the validation loss no longer decreases, and restore the best weights.
#' * `early_stopping_patience` (default auto: 25; scvi-tools: 45): Epochs without improvement before training stops.
#' * `accelerator` (default auto): Device; "auto" uses a CUDA GPU if available, otherwise the CPU.
#' * `devices` (default 1): Number of processes on this machine that share each minibatch, one per GPU; ignored under
#'   torchrun.
#' * `precision` (default 32): Precision of matrix products; likelihoods are always computed in 32 bit.
#'
#' @param object A Seurat object, an assay, a SingleCellExperiment, an AnnData of the R package anndataR (taken as a
#'   SingleCellExperiment, which is returned), or a matrix of genes x cells with raw counts (dense, sparse or on disk).
#' @param model Name of the model; or a model of your own in a Python file, as `"file.py:Class"`: see the page "Write your
#'   own model" of the documentation. The file is run.
#' @param batch Metadata column with the technical batch to correct for, e.g. the donor; for an assay or a matrix, a
#'   vector with one value per cell. `NULL` for a single batch.
#' @param labels Cell types, for models that use them, given like `batch`. Unlabeled cells have `NA` or "Unknown" (set
#'   another value with `unlabeled_category`).
#' @param assay Assay with the counts; `NULL` for the default assay.
#' @param layer Layer with raw counts; if it is split, all parts are used.
#' @param features Genes to train on; `NULL` for the variable features, else all.
#' @param inputs Additional inputs of the model, named by input, e.g. `c(protein = "ADT")`. Each is the name of an assay
#'   (an alternative experiment of a SingleCellExperiment), the path of a `.gmt` or `.csv` file, or a matrix of features
#'   x cells, or of genes x annotations.
#' @param reduction.name Name of the new reduction; by default, the name of the model.
#' @param reduction.key Key of the new reduction; `NULL` to derive it from the name.
#' @param seed.use Random seed for initialization, data splits, shuffling and sampling.
#' @param verbose Show messages and progress.
#' @param model.path Folder to save the model to. Models of more than 64 MB are not stored in the object; without a
#'   folder, they are lost with the session, with a warning.
#' @param start A trained model to start from, whose genes, options and columns are reused: the name of its reduction,
#'   or the result of [ScduetModel()] or [LoadModel()]. Starting `RunSCANVI()` from a scVI model is recommended; a few
#'   epochs then suffice, e.g. `max_epochs = 20`.
#' @param metadata For a matrix or an assay: data frame of covariates with one row per cell.
#' @param ... Options of the engine, with the same names as in scvi-tools: `n_latent`, `n_layers`, `n_hidden`,
#'   `gene_likelihood`, `dispersion`, `max_epochs`, `batch_size`, `lr`, `early_stopping`, `recipe`, `accelerator`,
#'   `categorical_covariate_keys`, `continuous_covariate_keys`, ... An unknown name is an error that suggests the
#'   nearest option.
#' @returns A Seurat object with a new `DimReduc`, or a SingleCellExperiment with a new entry in `reducedDims()`, whose
#'   name is in upper case. For an assay, a `DimReduc`; for a matrix, a matrix of cells x dimensions.
#'
#'   `RunSCANVI()` also adds the columns `predicted.<labels>`, the most probable type of each cell, and
#'   `predicted.<labels>.score`, its probability; of cells with a label this is what the model was taught. Types that are
#'   numbers or TRUE and FALSE come back as such. Without metadata
#'   they are a data frame, in `Misc(reduction, "scduet.predicted")` or the attribute `predicted` of the matrix.
#'   `RunLDVAE()` adds loadings (genes x dimensions): `Loadings(obj[["ldvae"]])`, or the attribute `rotation` of the matrix.
#'   `RunSAUCIE()` and `RunCarDEC()` add their clusters, the columns `saucie_cluster` and `cardec_cluster`.
#'   For `RunAutoZI()` see [ZeroInflation()]. `RunDCA()` and `RunDeepImpute()` denoise, see also [DenoiseData()]: they correct
#'   no batches.
#' @references Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics,
#'   \doi{10.1038/s41592-018-0229-2}
#' @family models
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- SeuratObject::pbmc_small
#' obj <- RunSCVI(obj, batch = "groups", features = genes, max_epochs = 2, verbose = FALSE)
#' obj[["scvi"]]
#'
#' obj <- RunSCANVI(obj, labels = "letter.idents", start = "scvi", max_epochs = 2, verbose = FALSE)
#' table(obj$letter.idents, obj$predicted.letter.idents)
RunModel <- function(object, ...) UseMethod("RunModel")

#' @rdname RunModel
#' @export
RunModel.Seurat <- function(object, model = "scvi", batch = NULL, labels = NULL, assay = NULL, layer = "counts",
                            features = NULL, inputs = NULL, reduction.name = NULL, reduction.key = NULL, seed.use = 42,
                            verbose = TRUE, model.path = NULL, start = NULL, ...) {
  check_installed("SeuratObject", "RunModel() on a Seurat object")
  assay <- default_assay(object, assay)
  main <- with_known_assays(object)[[assay]]
  data <- object[[]][assay_cells(main, object), , drop = FALSE]
  check_column(data, batch, "batch")
  check_column(data, labels, "labels", may_miss = TRUE)
  task <- new_task(model, batch, labels, seed.use, verbose, model.path, start_of(start, object), ...)
  features <- choose_features(features, SeuratObject::VariableFeatures(main), rownames(main), verbose, task$start)
  trained <- run_task(task, need_layer(main, layer, features), features, data, check_inputs(inputs, object, task$start))
  name <- if (is.null(reduction.name)) class_name(model) else reduction.name
  object <- put_trained(object, trained, name, assay, reduction.key, rownames(data), if (!is.null(labels)) data[[labels]])
  if (!is.character(start)) start <- task$start$name # the command log stores the values of all arguments
  log_command(object, model, SeuratObject::LogSeuratCommand(with_known_assays(object), return.command = TRUE), list(...))
}

#' @rdname RunModel
#' @export
RunModel.Assay <- function(object, model = "scvi", batch = NULL, labels = NULL, layer = "counts", features = NULL,
                           inputs = NULL, assay = NULL, reduction.name = NULL, reduction.key = NULL, seed.use = 42, verbose = TRUE,
                           model.path = NULL, start = NULL, metadata = NULL, ...) {
  data <- cell_frame(colnames(object), metadata, batch, labels)
  known <- rownames(object)
  task <- new_task(model, column_for("batch", batch), column_for("labels", labels), seed.use, verbose, model.path, start_of(start), ...)
  features <- choose_features(features, SeuratObject::VariableFeatures(object), known, verbose, task$start)
  trained <- run_task(task, need_layer(object, layer, features), features, data, check_inputs(inputs, object, task$start))
  name <- if (is.null(reduction.name)) class_name(model) else reduction.name
  key <- if (length(SeuratObject::Key(object))) sub("_$", "", SeuratObject::Key(object)) else "RNA"
  assay <- if (is.null(assay)) toupper(key) else assay
  reduction <- trained_reduction(trained, colnames(object), name, assay, reduction.key)
  methods::slot(reduction, "misc")$scduet.predicted <- trained$predicted
  reduction
}

#' @rdname RunModel
#' @export
RunModel.StdAssay <- RunModel.Assay

#' @rdname RunModel
#' @export
RunModel.SingleCellExperiment <- function(object, model = "scvi", batch = NULL, labels = NULL, layer = "counts",
                                          features = NULL, inputs = NULL, reduction.name = NULL, seed.use = 42,
                                          verbose = TRUE, model.path = NULL, start = NULL, ...) {
  check_installed("SingleCellExperiment", "RunModel() on a SingleCellExperiment")
  data <- plain_frame(SummarizedExperiment::colData(object), names_or(colnames(object), ncol(object), "cell"))
  check_column(data, batch, "batch")
  check_column(data, labels, "labels", may_miss = TRUE)
  counts <- need_assay(object, layer)
  task <- new_task(model, batch, labels, seed.use, verbose, model.path, start_of(start, object), ...)
  features <- choose_features(features, NULL, rownames(counts), verbose, task$start)
  inputs <- check_inputs(inputs, object, task$start)
  trained <- run_task(task, list(counts[features, , drop = FALSE]), features, data, inputs)
  name <- if (is.null(reduction.name)) toupper(class_name(model)) else reduction.name
  put_trained(object, trained, name, NULL, cells = rownames(data), labels = if (!is.null(labels)) data[[labels]])
}

#' @rdname RunModel
#' @export
RunModel.default <- function(object, model = "scvi", batch = NULL, labels = NULL, features = NULL, inputs = NULL,
                             seed.use = 42, verbose = TRUE, model.path = NULL, start = NULL, metadata = NULL, ...) {
  if (length(dim(object)) != 2) {
    abort_scduet(
      sprintf("Cannot train on an object of class %s.", class(object)[1]),
      "Pass a Seurat object, an assay, a SingleCellExperiment, or a matrix of genes x cells.", "class"
    )
  }
  known <- names_or(rownames(object), nrow(object), "gene")
  cells <- names_or(colnames(object), ncol(object), "cell")
  task <- new_task(model, column_for("batch", batch), column_for("labels", labels), seed.use, verbose, model.path, start_of(start), ...)
  features <- choose_features(features, NULL, known, verbose, task$start)
  counts <- object[match(features, known), , drop = FALSE]
  dimnames(counts) <- list(features, cells)
  data <- cell_frame(cells, metadata, batch, labels)
  trained <- run_task(task, list(counts), features, data, check_inputs(inputs, counts, task$start))
  structure(named_embedding(trained, cells, class_name(model)), scduet = trained$model, predicted = trained$predicted)
}

# Arguments of a training run, checked before Python starts.
new_task <- function(model, batch, labels, seed.use, verbose, model.path, start, ..., call = rlang::caller_env()) {
  check_text(model, "model", call = call)
  check_flag(verbose, "verbose", call = call)
  check_text(model.path, "model.path", optional = TRUE, call = call)
  if (!is.null(model.path)) check_new_file(model.path, overwrite = FALSE, call = call)
  options <- list(...)
  check_option_names(options, call)
  fixed <- list(batch_key = batch, labels_key = labels, seed = check_whole(seed.use, "seed.use", call))
  columns <- unlist(c(batch, labels, options[c("categorical_covariate_keys", "continuous_covariate_keys", "size_factor_key", COLUMN_INPUTS)]))
  known <- if (!identical(unname(HELD_MODELS[model]), start$name)) start
  list(
    model = model, options = c(Filter(Negate(is.null), fixed), options), verbose = verbose, path = model.path, call = call,
    start = start, columns = unique(c(columns, known$columns)), labels = c(labels, known$labels)
  )
}

# "my_vae.py:MyVAE" is called MyVAE.
class_name <- function(model) sub("^.*\\.py:", "", model)

# Resolve `start`: a model, or the name of a reduction of `object` that contains one.
start_of <- function(start, object = NULL, call = rlang::caller_env()) {
  if (is.null(start)) {
    return(NULL)
  }
  if (!is.character(start)) {
    return(ScduetModel(start))
  }
  check_text(start, "start", call = call)
  if (is.null(object)) {
    abort_scduet("`start` must be a model, not the name of a reduction.", "See `ScduetModel()` and `LoadModel()`.", "argument", call)
  }
  pick_model(models_of(object), start, call)
}

# Send the cells, train, and receive the results.
run_task <- function(task, blocks, features, data, inputs = list()) {
  task$columns <- c(task$columns, unlist(inputs[names(inputs) %in% names(COLUMN_INPUTS)]))
  for (column in task$columns) check_column(data, column, "column", column %in% task$labels, task$call)
  columns <- unique(as.character(task$columns))
  genes <- if (is.null(task$start)) features else task$start$genes
  adata <- if (is.null(task$start)) {
    new_anndata(blocks, features, data[, columns, drop = FALSE], empty_frame(features))
  } else {
    anndata_of(list(blocks = blocks, cells = data), features, columns, genes)
  }
  folder <- if (is.null(task$path)) tempfile("scduet-") else path.expand(task$path)
  progress <- new_reporter(task$verbose)
  found <- ask("train",
    adata = adata, model = task$model, options = lapply(task$options, as_option), folder = folder,
    inputs = put_inputs(adata, inputs, genes), callback = py_callback(progress), start = where_of(task$start),
    call = task$call
  )
  receive_trained(found, folder, features, rownames(data), keep = !is.null(task$path))
}

# The location of a model for the engine.
where_of <- function(model) if (!is.null(model)) list(folder = model_folder(model), sha256 = model$sha256)

receive_trained <- function(found, folder, features = NULL, cells = NULL, keep = FALSE) {
  part <- function(name, receive) if (!is.null(py_value(found[[name]]))) receive(found[[name]])
  loadings <- part("loadings", receive_matrix)
  if (!is.null(features) && !is.null(loadings)) rownames(loadings) <- features
  list(
    embedding = receive_matrix(found$embedding), loadings = loadings,
    predicted = part("predicted", function(columns) receive_frame(columns, cells)),
    model = new_model(py_value(found$facts), receive_frame(found$history), folder, keep)
  )
}

# Vectors of several values become lists, as the engine expects.
as_option <- function(x) if (length(x) > 1) as.list(x) else x

# Column for a vector of batches or labels; names of columns of `metadata` are kept.
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

# The entry in the command log, under the wrapper's name and with the engine's options.
log_command <- function(object, model, command, options) {
  methods::slot(command, "name") <- sub("^[^.]*", if (model %in% names(MODEL_FUNCTIONS)) MODEL_FUNCTIONS[[model]] else "RunModel", methods::slot(command, "name"))
  params <- methods::slot(command, "params")
  params$inputs <- Filter(is.character, as.list(params$inputs)) # names, not matrices
  methods::slot(command, "params") <- c(params, options)
  known <- with_known_assays(object)
  known[[methods::slot(command, "name")]] <- command
  with_own_assays(known, object)
}
