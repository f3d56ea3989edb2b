#' Embed cells with a published transformer
#'
#' Embeds cells with an official checkpoint of Geneformer, scGPT or scFoundation and adds the embedding as a new
#' reduction. Nothing is trained, and all genes are used, not only variable features. `RunPretrained()` detects the
#' model family of the folder; the other functions require their own family.
#'
#' Zero-shot embeddings often perform worse than principal components of variable genes (Kedzierska et al. 2025). With
#' `labels`, the scores of both are printed and stored.
#'
#' @param object A Seurat object, a SingleCellExperiment, or a matrix of genes x cells with raw counts.
#' @param model Folder of the official checkpoint, or "hf://owner/name@revision" (needs the Python package
#'   huggingface_hub).
#' @param labels Metadata column with cell types, to score the embedding.
#' @param batch Metadata column with the technical batch, used only for scoring.
#' @param gene.names Gene names known to the checkpoint (Ensembl ids or symbols), one per feature, if the object uses
#'   other names.
#' @param family "geneformer", "scgpt" or "scfoundation" to require this family; `NULL` to detect it.
#' @param reduction.name Name of the new reduction; by default, the name of the family.
#' @param ... Options of the model family: for Geneformer `emb_layer`, `pooling`, `max_length`; for scGPT `pooling`,
#'   `normalize`, `max_length`, `ties`, `seed`; for scFoundation `pooling`, `resolution`. For all `precision` ("32",
#'   "bf16", "16"), `accelerator`, `tokens_at_once`, `min_share`. An unknown name is an error that lists all options.
#' @inheritParams RunModel
#' @returns The object with the reduction. With `labels` the scores, a data frame, are in `Misc(object, "scduet.scores")`
#'   or `metadata(object)$scduet.scores`. For a matrix a matrix of cells x dimensions.
#' @references Theodoris et al. (2023), \doi{10.1038/s41586-023-06139-9}; Cui et al. (2024),
#'   \doi{10.1038/s41592-024-02201-0}; Hao et al. (2024), \doi{10.1038/s41592-024-02305-7}; Kedzierska et al. (2025),
#'   Zero-shot evaluation reveals limitations of single-cell foundation models, Genome Biology 26:101.
#' @family transformers
#' @export
#' @examples
#' \dontrun{
#' obj <- RunGeneformer(obj, model = "Geneformer-V2-104M", labels = "cell_type")
#' obj[["geneformer"]]
#' Seurat::Misc(obj, "scduet.scores")
#' }
RunPretrained <- function(object, model, family = NULL, labels = NULL, batch = NULL, assay = NULL, layer = "counts",
                          gene.names = NULL, reduction.name = NULL, reduction.key = NULL, verbose = TRUE, ...) {
  check_text(model, "model")
  check_text(family, "family", optional = TRUE)
  check_text(reduction.name, "reduction.name", optional = TRUE)
  check_flag(verbose, "verbose")
  options <- list(...)
  check_option_names(options, rlang::current_env())
  if (inherits(object, "Seurat")) assay <- default_assay(object, assay)
  parts <- cells_of(object, assay, layer)
  check_column(parts$cells, labels, "labels", may_miss = TRUE)
  check_column(parts$cells, batch, "batch")
  named <- Filter(Negate(is.null), list(labels_key = labels, batch_key = batch))
  if (!is.null(gene.names)) named$gene_column <- "gene_names"
  adata <- named_anndata(parts, as.character(c(labels, batch)), gene.names)
  found <- ask("embed_pretrained",
    adata = adata, folder = path_of(model), family = family, options = c(named, lapply(options, as_option)),
    callback = py_callback(new_reporter(verbose))
  )
  if (inherits(object, "Seurat")) command <- SeuratObject::LogSeuratCommand(object, return.command = TRUE)
  object <- put_pretrained(object, found, reduction.name, assay, reduction.key, verbose)
  if (inherits(object, "Seurat")) log_command(object, py_value(found$facts)$model, command, options) else object
}

#' @rdname RunPretrained
#' @export
RunGeneformer <- function(object, model, ...) RunPretrained(object, model, family = "geneformer", ...)

#' @rdname RunPretrained
#' @export
RunScGPT <- function(object, model, ...) RunPretrained(object, model, family = "scgpt", ...)

#' @rdname RunPretrained
#' @export
RunScFoundation <- function(object, model, ...) RunPretrained(object, model, family = "scfoundation", ...)

#' Gene embeddings from a published transformer
#'
#' Returns the learned gene embeddings of a transformer or, with `object`, contextual embeddings: the mean hidden states
#' of each gene in the cells that express it.
#'
#' @inheritParams RunPretrained
#' @param object A Seurat object, a SingleCellExperiment, or a matrix of genes x cells with raw counts; `NULL` for the
#'   learned gene embeddings.
#' @param ... Options of the model family, used with `object`.
#' @returns A matrix of genes x dimensions, with the gene names of the checkpoint.
#' @family transformers
#' @export
#' @examples
#' \dontrun{
#' vectors <- GeneEmbeddings("scGPT_human")
#' }
GeneEmbeddings <- function(model, object = NULL, assay = NULL, layer = "counts", gene.names = NULL, ...) {
  check_text(model, "model")
  options <- lapply(list(...), as_option)
  check_option_names(options, rlang::current_env())
  adata <- NULL
  if (!is.null(object)) adata <- named_anndata(cells_of(object, assay, layer), character(), gene.names)
  if (!is.null(gene.names)) options$gene_column <- "gene_names"
  found <- ask("embed_genes", folder = path_of(model), adata = adata, options = options)
  vectors <- receive_matrix(found$values)
  rownames(vectors) <- receive_text(found$names)
  vectors
}

# Counts and metadata of an object or a matrix.
cells_of <- function(object, assay, layer, call = rlang::caller_env()) {
  if (inherits(object, "Seurat") || methods::is(object, "SingleCellExperiment") || length(dim(object)) != 2) {
    return(parts_of(object, assay, layer, call = call))
  }
  genes <- names_or(rownames(object), nrow(object), "gene")
  cells <- names_or(colnames(object), ncol(object), "cell")
  dimnames(object) <- list(genes, cells)
  list(blocks = list(object), genes = genes, cells = empty_frame(cells), embeddings = list())
}

# An AnnData of all genes, with alternative names in var["gene_names"].
named_anndata <- function(parts, columns, gene.names, call = rlang::caller_env()) {
  var <- empty_frame(parts$genes)
  if (!is.null(gene.names)) {
    if (length(gene.names) != length(parts$genes)) {
      said <- sprintf("`gene.names` has %d names for %d features.", length(gene.names), length(parts$genes))
      abort_scduet(said, "Pass one name per feature, in the same order.", "argument", call)
    }
    var$gene_names <- as.character(gene.names)
  }
  new_anndata(parts$blocks, parts$genes, parts$cells[, columns, drop = FALSE], var)
}

path_of <- function(model) if (startsWith(model, "hf://")) model else normalizePath(model, mustWork = FALSE)

put_pretrained <- function(object, found, name, assay, key, verbose) {
  object <- known_object(object)
  facts <- py_value(found$facts)
  vectors <- receive_matrix(found$embedding)
  scores <- if (!is.null(py_value(found$scores))) as_scores(found$scores)
  tell_scores(scores, verbose)
  if (inherits(object, "Seurat")) {
    name <- if (is.null(name)) facts$model else name
    misc <- list(scduet.transformer = facts)
    object[[name]] <- make_reduction(vectors, colnames(object), name, assay, key, misc)
    if (!is.null(scores)) methods::slot(object, "misc")$scduet.scores <- scores
    return(object)
  }
  key <- if (is.null(key)) key_of(if (is.null(name)) facts$model else name) else key
  dimnames(vectors) <- list(names_or(colnames(object), ncol(object), "cell"), paste0(key, seq_len(ncol(vectors))))
  if (!methods::is(object, "SingleCellExperiment")) {
    return(structure(vectors, scduet.transformer = facts))
  }
  name <- if (is.null(name)) toupper(facts$model) else name
  SingleCellExperiment::reducedDim(object, name) <- vectors
  kept <- S4Vectors::metadata(object)
  kept$scduet.transformer[[name]] <- facts
  kept$scduet.scores <- scores
  methods::slot(object, "metadata") <- kept
  object
}

tell_scores <- function(scores, verbose) {
  if (is.null(scores)) {
    return(invisible())
  }
  said <- sprintf("%s %.2f", rownames(scores), scores$bio)
  inform_scduet(paste0("Preservation of cell types (0 to 1): ", paste(said, collapse = ", "), "."), verbose)
}
