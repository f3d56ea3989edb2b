#' Perturb genes in silico
#'
#' Measures how far in-silico deletion or overexpression of genes moves cells in Geneformer's embedding, and whether it
#' moves them towards a goal, compared with expression-matched random genes.
#'
#' @param object A Seurat object or SingleCellExperiment with raw counts.
#' @param model Folder of a Geneformer model, or "hf://owner/name@revision".
#' @param genes Genes to perturb one at a time, or a list of gene sets to perturb jointly. Symbols or Ensembl ids.
#' @param how "delete" removes genes from the ranking, "overexpress" moves them to the top.
#' @param labels Column of the metadata with the states of the cells.
#' @param start,goal Values of `labels`: the cells to perturb, and the cells whose mean embedding is the goal.
#' @param n.random Number of random genes to compare each gene with.
#' @param max.cells Number of cells, drawn at random, to perturb for each gene; `NULL` for all that contain it.
#' @param ... Options of Geneformer: `emb_layer`, `pooling`, `max_length`, `precision`.
#' @inheritParams RunPretrained
#' @inheritParams RunModel
#' @returns A data frame with one row per gene or set, largest effect first: `n_expressed` (cells with counts), `n_held`
#'   (cells in which the model reads it), `n_cells`, `shift` (mean of 1 - cosine), `random_shift`, `z`, `p_value`,
#'   `fdr`; with a goal also `towards` and the corresponding statistics. `attr(, "cells")` has the values of each cell.
#' @references Theodoris et al. (2023), \doi{10.1038/s41586-023-06139-9}
#' @family transformers
#' @export
#' @examples
#' \dontrun{
#' PerturbGenes(obj, "Geneformer-V2-104M", c("TBX5", "GATA4"),
#'   labels = "state", start = "healthy", goal = "failing"
#' )
#' }
PerturbGenes <- function(object, model, genes, how = "delete", labels = NULL, start = NULL, goal = NULL, n.random = 20,
                         max.cells = 200, assay = NULL, layer = "counts", gene.names = NULL, seed.use = 42,
                         verbose = TRUE, ...) {
  check_text(model, "model")
  check_text(how, "how")
  check_flag(verbose, "verbose")
  options <- lapply(list(...), as_option)
  check_option_names(options, rlang::current_env())
  fixed <- list(how = how, labels_key = labels, start = start, goal = goal, n_random = n.random)
  fixed$seed <- check_whole(seed.use, "seed.use")
  parts <- parts_of(object, assay, layer)
  check_column(parts$cells, labels, "labels", may_miss = TRUE)
  if (!is.null(gene.names)) fixed$gene_column <- "gene_names"
  sets <- lapply(as.list(genes), as.list)
  names(sets) <- if (is.null(names(genes))) vapply(genes, paste, "", collapse = " + ") else names(genes)
  found <- ask("perturb_genes",
    adata = named_anndata(parts, as.character(labels), gene.names), folder = path_of(model), genes = sets,
    options = c(Filter(Negate(is.null), fixed), list(max_cells = max.cells), options),
    callback = py_callback(new_reporter(verbose))
  )
  table <- receive_frame(found$genes)
  rownames(table) <- table$gene
  structure(table[names(table) != "gene"], cells = receive_frame(found$cells))
}
