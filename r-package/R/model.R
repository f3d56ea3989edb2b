#' The trained model of an object
#'
#' Models of up to 64 MB are stored in the object as the bytes of their files (safetensors and JSON, no code), so they
#' survive `saveRDS()` and can be moved to another machine. For larger models, the object stores the path of a folder
#' and its sha256. `subset()` keeps the model, but `merge()`, [as_anndata()] and [WriteH5AD()] drop it: save it first
#' with `SaveModel()`.
#'
#' @param object A Seurat object, a reduction, a SingleCellExperiment, or a matrix that [RunModel()] returned.
#' @param reduction Name of the reduction whose model to use; `NULL` if there is only one model.
#' @param path Folder of the model.
#' @param model For a model of your own: the Python file and class that it was made of, as `"file.py:Class"`. The file is
#'   run. Not needed again in the same session.
#' @param overwrite Replace an existing scduet model. Folders with other files are never replaced.
#' @param ... Not used.
#' @returns `ScduetModel()` and `LoadModel()`: an object of class `ScduetModel`. `SaveModel()`: the path, invisibly.
#' @family models
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- RunSCVI(SeuratObject::pbmc_small, features = genes, max_epochs = 2, verbose = FALSE)
#' ScduetModel(obj)
#' path <- SaveModel(obj, tempfile())
#' LoadModel(path)
ScduetModel <- function(object, ...) UseMethod("ScduetModel")

#' @rdname ScduetModel
#' @export
ScduetModel.default <- function(object, ...) {
  model <- attr(object, "scduet")
  if (is.null(model)) abort_no_model(character())
  model
}

#' @rdname ScduetModel
#' @export
ScduetModel.ScduetModel <- function(object, ...) object

#' @rdname ScduetModel
#' @export
ScduetModel.DimReduc <- function(object, ...) {
  model <- methods::slot(object, "misc")$scduet
  if (is.null(model)) abort_no_model(character())
  model
}

#' @rdname ScduetModel
#' @export
ScduetModel.Seurat <- function(object, reduction = NULL, ...) {
  check_no_options(...)
  pick_model(models_of(object), reduction)
}

#' @rdname ScduetModel
#' @export
ScduetModel.SingleCellExperiment <- function(object, reduction = NULL, ...) {
  check_no_options(...)
  pick_model(models_of(object), reduction)
}

#' @rdname ScduetModel
#' @export
SaveModel <- function(object, path, overwrite = FALSE, ...) {
  check_text(path, "path")
  check_flag(overwrite, "overwrite")
  model <- ScduetModel(object, ...)
  ask("save", folder = model_folder(model), sha256 = model$sha256, to = path.expand(path), overwrite = overwrite)
  invisible(path)
}

#' @rdname ScduetModel
#' @export
LoadModel <- function(path, model = NULL) {
  check_text(path, "path")
  if (!is.null(model)) check_text(model, "model")
  folder <- normalizePath(path, mustWork = FALSE)
  told <- ask("describe", folder = folder, model = model)
  new_model(py_value(told$facts), receive_frame(told$history), folder, keep = TRUE)
}

#' @export
print.ScduetModel <- function(x, ...) {
  size <- if (is.null(x$files)) paste("in", x$path) else sprintf("%.1f MB, in the object", sum(lengths(x$files)) / 1e6)
  lines <- c(
    sprintf("<ScduetModel: %s>", x$name),
    sprintf("genes    %d: %s", length(x$genes), paste(c(x$genes[seq_len(min(3, length(x$genes)))], "..."), collapse = ", ")),
    if (!is.null(x$batch)) paste("batch   ", x$batch),
    if (!is.null(x$labels)) paste("labels  ", x$labels),
    sprintf("trained  %d epochs, scduet %s", x$epochs, x$version),
    paste("kept    ", size)
  )
  cat(lines, sep = "\n")
  invisible(x)
}

LARGEST_INSIDE <- 64e6 # maximum size in bytes of a model stored in the object

# facts: description from the engine; folder: location of the files; keep: whether they stay there.
new_model <- function(facts, history, folder, keep) {
  files <- list.files(folder, full.names = TRUE)
  small <- sum(file.size(files)) <= getOption("scduet.largest_inside", LARGEST_INSIDE)
  if (!small && !keep) {
    warn_scduet("The model is too large to store in the object and will be lost when this R session ends; save it with SaveModel(), or pass `model.path`.", "large_model")
  }
  read <- function(file) readBin(file, "raw", file.size(file))
  model <- list(
    name = facts$model, version = facts$version, sha256 = facts$sha256, genes = unlist(facts$genes), batch = facts$batch,
    labels = facts$labels, clusters = facts$clusters, columns = unlist(facts$columns), assays = unlist(facts$assays),
    modalities = unlist(facts$modalities), epochs = facts$epochs, history = history,
    files = if (small) rlang::set_names(lapply(files, read), basename(files)),
    path = if (!small) normalizePath(folder)
  )
  if (small && !keep) unlink(folder, recursive = TRUE)
  structure(model, class = "ScduetModel")
}

# A folder with the model's files, named by digest so that the engine loads each model once per session.
model_folder <- function(model) {
  if (is.null(model$files)) {
    return(model$path)
  }
  folder <- file.path(tempdir(), paste0("scduet-model-", substr(model$sha256, 1, 16)))
  if (!dir.exists(folder)) {
    dir.create(folder)
    for (name in names(model$files)) writeBin(model$files[[name]], file.path(folder, name))
  }
  folder
}

# The models in an object, named by reduction.
models_of <- function(object) {
  if (!inherits(object, "Seurat")) {
    return(S4Vectors::metadata(known_object(object))$scduet)
  }
  models <- lapply(methods::slot(object, "reductions"), function(reduction) methods::slot(reduction, "misc")$scduet)
  Filter(Negate(is.null), models)
}

pick_model <- function(models, reduction, call = rlang::caller_env()) {
  if (!is.null(reduction) && reduction %in% names(models)) {
    return(models[[reduction]])
  }
  if (is.null(reduction) && length(models) == 1) {
    return(models[[1]])
  }
  abort_no_model(names(models), call, reduction)
}

abort_no_model <- function(have, call = rlang::caller_env(), reduction = NULL) {
  what <- if (!is.null(reduction)) {
    sprintf("\"%s\" has no model.", reduction)
  } else if (length(have)) {
    "The object has several models."
  } else {
    "The object has no scduet model."
  }
  hint <- if (length(have)) {
    paste0(if (is.null(reduction)) "Choose one with `reduction`. ", "There are models for ", some(have, 12), ".")
  } else {
    c(
      "Train one, e.g. with `RunSCVI()`, or read one with `LoadModel()`.",
      "`merge()` drops models: use `ScduetModel()` on the object before merging."
    )
  }
  abort_scduet(what, hint, "no_model", call)
}
