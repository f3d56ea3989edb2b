#' Probability of zero inflation
#'
#' Posterior probability, from a model trained by [RunAutoZI()], that a gene has more zeros than a negative binomial
#' distribution explains. It is not informative for genes with few counts.
#' @param object A model, or an object that contains one: see [ScduetModel()].
#' @param ... Passed to [ScduetModel()], e.g. `reduction`.
#' @returns A data frame with one row per gene, in the model's order, and the column `probability`, 0 to 1. If zero
#'   inflation depends on the batch or the label (`RunAutoZI(zero_inflation = "gene-batch")`, "gene-label"), there is
#'   one column per batch or label instead.
#' @references Clivio et al. (2019), Detecting zero-inflated genes in single-cell transcriptomics data,
#'   \doi{10.1101/794875}
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- RunAutoZI(SeuratObject::pbmc_small, features = genes, max_epochs = 2, verbose = FALSE)
#' head(ZeroInflation(obj))
ZeroInflation <- function(object, ...) {
  model <- ScduetModel(object, ...)
  found <- receive_frame(ask("zero_inflation", folder = model_folder(model), sha256 = model$sha256))
  rownames(found) <- found$gene
  found[names(found) != "gene"]
}
