#' Train a transformer
#'
#' `PretrainTransformer()` trains a Geneformer (masked genes) or scGPT (masked expression values) model on unlabeled
#' cells: either a new model with the genes of the object as vocabulary, or a published model. `FinetuneTransformer()`
#' fine-tunes a transformer to predict cell types, for use with [AnnotateCells()]. Alternatively, `AnnotateCells(model =
#' <folder of the transformer>)` fine-tunes and annotates in one step and reports the accuracy compared with nearest
#' neighbors and logistic regression. All genes of the object are used.
#'
#' @param object A Seurat object, a SingleCellExperiment, or for pre-training a matrix of genes x cells, with raw counts.
#' @param model "geneformer" or "scgpt" for a new model, or the folder of a transformer, or "hf://owner/name@revision".
#' @param path Output folder.
#' @param labels Metadata column with the cell types; unlabeled cells are excluded.
#' @param checkpoint Folder for checkpoints, from which an interrupted run resumes.
#' @param overwrite Replace an existing scduet model. Folders with other files are never replaced.
#' @param ... Training options (`max_epochs`, `lr`, `batch_size`, ...). For pre-training also the model size (`width`,
#'   `n_layers`, `n_heads`, `feedforward`, `dropout`, `max_length`) and the objective (`mask_share` of Geneformer,
#'   `asked_shares` and `zeros` of scGPT); for fine-tuning `tuning` ("lora", "full", "last", "frozen"), `rank`,
#'   `head_layers`, `max_length`. An unknown name is an error that suggests the nearest option.
#' @inheritParams RunPretrained
#' @inheritParams RunModel
#' @returns The path, to use as `model` in [RunGeneformer()], [AnnotateCells()] and [GeneNetwork()]. It includes the
#'   training history: see [PlotHistory()]. The folder of a fine-tuned transformer stores only the changed weights and
#'   the sha256 of the original transformer, whose folder must not be moved.
#' @references Theodoris et al. (2023), \doi{10.1038/s41586-023-06139-9}; Cui et al. (2024),
#'   \doi{10.1038/s41592-024-02201-0}; Hu et al. (2022), LoRA: Low-rank adaptation of large language models.
#' @family transformers
#' @export
#' @examples
#' \dontrun{
#' model <- PretrainTransformer(cells, "geneformer", path = "my_geneformer", width = 64, n_layers = 2)
#' PlotHistory(model)
#' query <- AnnotateCells(query, labeled, labels = "cell_type", model = model) # with accuracies
#' annotator <- FinetuneTransformer(labeled, model, labels = "cell_type", path = "my_annotator")
#' query <- AnnotateCells(query, annotator, labels = "cell_type") # without training
#' }
PretrainTransformer <- function(object, model = "geneformer", path, assay = NULL, layer = "counts", gene.names = NULL,
                                checkpoint = NULL, overwrite = FALSE, seed.use = 42, verbose = TRUE, ...) {
  task <- training_task(model, path, gene.names, checkpoint, overwrite, seed.use, verbose, ...)
  adata <- named_anndata(cells_of(object, assay, layer), character(), gene.names)
  folder <- if (dir.exists(model)) path_of(model) else as.character(model)
  run_training("pretrain", task, adata = adata, model = folder)
}

#' @rdname PretrainTransformer
#' @export
FinetuneTransformer <- function(object, model, labels, path, assay = NULL, layer = "counts", gene.names = NULL,
                                checkpoint = NULL, overwrite = FALSE, seed.use = 42, verbose = TRUE, ...) {
  check_text(labels, "labels")
  task <- training_task(model, path, gene.names, checkpoint, overwrite, seed.use, verbose, ...)
  parts <- parts_of(object, assay, layer)
  check_column(parts$cells, labels, "labels", may_miss = TRUE)
  adata <- named_anndata(parts, labels, gene.names)
  run_training("finetune", task, adata = adata, folder = path_of(model), labels = labels)
}

#' @export
print.scduet_transformer <- function(x, ...) {
  history <- attr(x, "history")
  cat(sprintf("<scduet transformer, trained for %d epochs: %s>\n", nrow(history), as.character(x)))
  invisible(x)
}

#' @export
as.character.scduet_transformer <- function(x, ...) as.vector(unclass(x))

#' @rdname ScduetModel
#' @export
ScduetModel.scduet_transformer <- function(object, ...) list(history = attr(object, "history"))

# Common arguments, checked before Python starts.
training_task <- function(model, path, gene.names, checkpoint, overwrite, seed.use, verbose, ..., call = rlang::caller_env()) {
  check_text(model, "model", call = call)
  check_text(path, "path", call = call)
  check_text(checkpoint, "checkpoint", optional = TRUE, call = call)
  check_flag(overwrite, "overwrite", call = call)
  check_flag(verbose, "verbose", call = call)
  check_new_file(path, overwrite, call = call)
  options <- lapply(list(...), as_option)
  check_option_names(options, call)
  fixed <- list(seed = check_whole(seed.use, "seed.use", call), gene_column = if (!is.null(gene.names)) "gene_names")
  if (!is.null(checkpoint)) fixed$checkpoint <- path.expand(checkpoint)
  list(options = c(Filter(Negate(is.null), fixed), options), to = normalizePath(path, mustWork = FALSE), overwrite = overwrite, verbose = verbose)
}

run_training <- function(what, task, ..., call = rlang::caller_env()) {
  found <- ask(what, ...,
    options = task$options, to = task$to, overwrite = task$overwrite, callback = py_callback(new_reporter(task$verbose)), call = call
  )
  structure(task$to, history = receive_frame(found), class = "scduet_transformer")
}
