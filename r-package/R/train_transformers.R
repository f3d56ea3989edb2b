#' Train a transformer
#'
#' `PretrainTransformer()` trains a Geneformer (masked genes) or a scGPT (values of genes from those of others) on cells
#' without labels: a new one whose vocabulary is the genes of the object, or a published one further.
#' `FinetuneTransformer()` teaches a transformer the cell types of labeled cells; [AnnotateCells()] then names cells by its
#' folder, and with `model = <folder of the transformer>` does both and says how well, beside nearest neighbours and
#' logistic regression. All genes of the object are used.
#'
#' @param object A Seurat object, a SingleCellExperiment, or for pre-training a matrix of genes x cells, with raw counts.
#' @param model "geneformer" or "scgpt" for a new one, else the folder of a transformer, or "hf://owner/name@revision".
#' @param path Folder to make.
#' @param labels Column of the metadata with the cell types; cells without one are left out.
#' @param checkpoint Folder for the state of the run; an interrupted run resumes from it.
#' @param overwrite Replace a folder that holds a model of scduet and nothing else.
#' @param ... Options of training (`max_epochs`, `lr`, `batch_size`, ...). For pre-training also of the size (`width`,
#'   `n_layers`, `n_heads`, `feedforward`, `dropout`, `max_length`) and the objective (`mask_share` of Geneformer,
#'   `asked_shares` and `zeros` of scGPT); for fine-tuning `tuning` ("lora", "full", "last", "frozen"), `rank`,
#'   `head_layers`, `max_length`. A name that does not exist is an error that names the nearest.
#' @inheritParams RunPretrained
#' @inheritParams RunModel
#' @returns The path, which [RunGeneformer()], [AnnotateCells()], [GeneNetwork()] and others take as `model`. It knows the
#'   training curves: see [PlotHistory()]. The folder of a fine-tuned transformer holds what training changed and the sha256
#'   of the transformer, which must stay where it is.
#' @references Theodoris et al. (2023), \doi{10.1038/s41586-023-06139-9}; Cui et al. (2024),
#'   \doi{10.1038/s41592-024-02201-0}; Hu et al. (2022), LoRA: Low-rank adaptation of large language models.
#' @family transformers
#' @export
#' @examples
#' \dontrun{
#' model <- PretrainTransformer(cells, "geneformer", path = "my_geneformer", width = 64, n_layers = 2)
#' PlotHistory(model)
#' query <- AnnotateCells(query, labeled, labels = "cell_type", model = model) # with accuracies
#'
#' taught <- FinetuneTransformer(labeled, model, labels = "cell_type", path = "my_annotator")
#' query <- AnnotateCells(query, taught, labels = "cell_type") # teaches nothing any more
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
  cat(sprintf("<transformer of scduet, trained for %d epochs: %s>\n", nrow(history), as.character(x)))
  invisible(x)
}

#' @export
as.character.scduet_transformer <- function(x, ...) as.vector(unclass(x))

#' @rdname ScduetModel
#' @export
ScduetModel.scduet_transformer <- function(object, ...) list(history = attr(object, "history"))

# What both take, checked before Python is started.
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
