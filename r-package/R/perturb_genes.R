#' Perturb genes in silico
#'
#' How far in-silico deletion or overexpression of genes moves cells in Geneformer's embedding, and whether towards a goal;
#' always beside random genes of like expression: a gene that does no more than they do says nothing.
#'
#' @param object A Seurat object or SingleCellExperiment with raw counts.
#' @param model Folder of a Geneformer, or "hf://owner/name@revision".
#' @param genes Genes, each perturbed alone, or a list whose elements are perturbed together. Symbols or Ensembl ids.
#' @param how "delete" takes genes out of the ranks, "overexpress" puts them first.
#' @param labels Column of the metadata with the states of the cells.
#' @param start,goal Values of `labels`: the cells that are perturbed, and those whose mean is the goal.
#' @param n.random Random genes to compare each with.
#' @param max.cells Cells perturbed for each gene, a random choice; `NULL` for all that hold it.
#' @param ... Options of Geneformer: `emb_layer`, `pooling`, `max_length`, `precision`.
#' @inheritParams RunPretrained
#' @inheritParams RunModel
#' @returns A data frame with a row for each gene or set, the largest effect first: `n_expressed` and `n_held` (cells that
#'   count it; those in which the model reads it), `n_cells`, `shift` (mean of 1 - cosine), `random_shift`, `z`, `p_value`,
#'   `fdr`; with a goal also `towards` and its companions. `attr(, "cells")` has the values of every cell.
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
