#' Genes that spatial data lack
#'
#' Predicts, for cells or spots measured with a panel of genes, genes that only single cells of the same tissue have, and
#' says how well this works: every method is judged on shared genes that are held out.
#'
#' Read `beyond_depth` before the values: the median, over held-out genes, of Spearman's partial correlation with what was
#' measured, given the total count of a cell. `model = "auto"` chooses by it. A warning says so where no method predicts
#' held-out genes better than the total count does. Imputed values are functions of the genes that were measured: do not
#' test them for differences between groups.
#'
#' @param object A Seurat object or SingleCellExperiment of spatial data, with raw counts.
#' @param reference A Seurat object or SingleCellExperiment of single cells, with raw counts.
#' @param genes Names of genes to predict; `NULL` for the `n.genes` that vary most in the reference and that `object` lacks.
#' @param model "ridge" (regression), "knn" or "knn_10" (the mean of the 50 or 10 nearest single cells), "auto" for the best
#'   of these on held-out genes, or "gimvi", a deep model (see [RunGimVI()]), judged beside them.
#' @param n.genes How many genes to predict, where none are named.
#' @param n.folds Number of parts in which the shared genes are held out.
#' @param assay,layer Assay and layer of `object` with raw counts; `NULL` for the default assay.
#' @param reference.assay,reference.layer Those of `reference`.
#' @param assay.name Name of the new assay. One of this name is replaced if this package made it; anything else of this
#'   name is an error.
#' @param seed.use Random seed of the folds, and of gimVI.
#' @param verbose Show progress of gimVI.
#' @param ... Options of gimVI and of its training, e.g. `max_epochs`.
#' @returns The object with a new assay of genes x cells in the layer `data`, log(1 + counts per 10,000) as the single cells
#'   would show it; a SingleCellExperiment gets it as an alternative experiment. `Misc(object, "scduet.imputation")`, or the
#'   entry of `metadata(object)`, is a list of `table` (scores by method: medians over held-out genes), `scores` (by method
#'   and gene), `notes` and `model`.
#' @references Lopez et al. (2019), A joint model of unpaired data from scRNA-seq and spatial transcriptomics for imputing
#'   missing gene expression measurements, \doi{10.48550/arXiv.1905.02269}
#' @seealso [RunGimVI()], [DeconvolveSpots()]
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' reference <- SeuratObject::pbmc_small
#' spatial <- reference[1:150, ] # as if the others had not been measured
#' spatial <- ImputeGenes(spatial, reference, genes = rownames(reference)[151:155])
#' SeuratObject::Misc(spatial, "scduet.imputation")$table
#' spatial[["imputed"]]
ImputeGenes <- function(object, reference, genes = NULL, model = "auto", n.genes = 2000, n.folds = 5, assay = NULL,
                        layer = "counts", reference.assay = NULL, reference.layer = "counts", assay.name = "imputed",
                        seed.use = 42, verbose = TRUE, ...) {
  check_text(model, "model")
  check_text(assay.name, "assay.name")
  check_flag(verbose, "verbose")
  options <- list(...)
  check_option_names(options, rlang::current_env())
  check_assay_name(object, assay.name)
  own <- list(
    model = model, n_genes = check_whole(n.genes, "n.genes"), n_folds = check_whole(n.folds, "n.folds"),
    seed = check_whole(seed.use, "seed.use")
  )
  parts <- parts_of(object, assay, layer)
  found <- ask("impute_genes",
    adata = anndata_of(parts), reference = anndata_of(parts_of(reference, reference.assay, reference.layer)),
    genes = if (is.null(genes)) NULL else as.list(genes), options = c(own, lapply(options, as_option)),
    callback = py_callback(new_reporter(verbose))
  )
  object <- put_denoised(object, receive_denoised(found$values, rownames(parts$cells)), assay.name)
  table <- receive_frame(found$table)
  rownames(table) <- table$method
  told <- list(
    table = table[names(table) != "method"], scores = receive_frame(found$scores), notes = receive_text(found$notes),
    model = receive_text(found$model)
  )
  put_misc(object, "scduet.imputation", told)
}
