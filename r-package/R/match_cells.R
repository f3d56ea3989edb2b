#' Match cells of two modalities
#'
#' Finds, for cells measured by one modality (e.g. RNA), the cells measured by another (e.g. proteins) that are most alike,
#' by a model trained on some cells that have both, such as [RunMMVAE()] or [RunMultiVI()]. Prints and returns how often the
#' model and canonical correlation are right on cells that were held out when the model was trained: the simple method is
#' often as good.
#'
#' Cells are matched within batches, where the model was trained with `batch`.
#'
#' @param object Seurat object or SingleCellExperiment with the cells of the first modality. Its other assays are not used.
#' @param other The same with the cells of the second modality; it may lack RNA, if that is the first.
#' @param modalities The two modalities, e.g. `c("rna", "ADT")`: "rna", or assays as the object that the model was trained
#'   on calls them; `NULL` for the first two of the model.
#' @param use Whose matches to return: "model", "cca" (canonical correlation of principal components), or "best", the one
#'   with the lowest `foscttm`.
#' @param method "neighbors" weights pairs of cells by the share of neighbors that they have in common; "bipartite" assigns
#'   each cell one other.
#' @param n.neighbors Neighbors of a cell among the cells of each modality.
#' @param rna.assay Assay of both objects with the counts of RNA; `NULL` for the default one.
#' @inheritParams PredictAssay
#' @returns A list: `weights`, a sparse matrix (cells of `object` x cells of `other`) whose rows sum to 1; `best`, a data frame
#'   with the best `match` of each cell of `object` and its `weight`; and `table`, one row a method: `foscttm` (the fraction of
#'   cells closer than the true match: 0 is perfect, 0.5 chance), `top_5_accuracy`, `match_probability`, `n_cells`, and `used`.
#' @references Tu et al. (2022), Cross-linked unified embedding for cross-modality representation learning, NeurIPS 35
#' @seealso [RunMMVAE()], [PredictAssay()]
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' rna <- Matrix::Matrix(rpois(60 * 150, 2), 60, sparse = TRUE,
#'   dimnames = list(paste0("gene", 1:60), paste0("cell", 1:150))
#' )
#' proteins <- Matrix::Matrix(rpois(6 * 150, 20), 6, sparse = TRUE,
#'   dimnames = list(paste0("CD", 1:6), colnames(rna))
#' )
#' obj <- SeuratObject::CreateSeuratObject(rna)
#' obj[["ADT"]] <- SeuratObject::CreateAssayObject(counts = proteins)
#' cite <- RunMMVAE(obj, protein.assay = "ADT", max_epochs = 2, verbose = FALSE)
#' SeuratObject::DefaultAssay(obj) <- "RNA"
#' found <- MatchCells(obj[, 1:40], obj[, 41:80], cite, modalities = c("rna", "protein"))
#' head(found$best)
MatchCells <- function(object, other, model, modalities = NULL, reference = NULL, reduction = NULL, use = "model",
                       method = "neighbors", n.neighbors = 10, rna.assay = NULL, layer = "counts", verbose = TRUE) {
  check_text(use, "use")
  check_text(method, "method")
  check_flag(verbose, "verbose")
  reference <- reference_for(reference, model)
  model <- if (inherits(model, "ScduetModel")) model else ScduetModel(model, reduction = reduction)
  known <- parts_of(reference, trained_assay(reference, model), layer)
  first <- parts_of(object, rna.assay, layer)
  second <- parts_of(other, rna.assay, layer)
  found <- ask("match_cells",
    folder = model_folder(model), sha256 = model$sha256, a = anndata_without_rna(first, model),
    b = anndata_without_rna(second, model), reference = anndata_for(known, model),
    modalities = if (!is.null(modalities)) as.list(unname(vapply(modalities, modality_called, "", model = model))),
    options = list(use = use, method = method, n_neighbors = check_whole(n.neighbors, "n.neighbors"))
  )
  table <- receive_frame(found$table)
  weights <- receive_matrix(found$weights)
  dimnames(weights) <- list(rownames(first$cells), rownames(second$cells))
  said <- sprintf("%s %.3f", table$method, table$foscttm)
  inform_scduet(paste0("Share of cells closer than the true match, among those held out: ", paste(said, collapse = ", "), "."), verbose)
  inform_scduet(sprintf("Matches by %s.", table$method[table$used]), verbose)
  list(weights = weights, best = best_matches(weights), table = table)
}

# The object that the model was trained on.
reference_for <- function(reference, model, call = rlang::caller_env()) {
  reference <- if (is.null(reference)) model else reference
  if (!inherits(reference, "Seurat") && !methods::is(reference, "SingleCellExperiment")) {
    remedy <- "Pass it as `reference`, or as `model` if it holds the model."
    abort_scduet("The object that the model was trained on is needed, to judge the result by.", remedy, "reference", call)
  }
  reference
}

# The engine's name of a modality: of RNA its own, of an assay that of the input.
modality_called <- function(name, model) if (name %in% c("rna", "RNA")) "rna" else predictable(model, name)

# An AnnData as `anndata_for()` makes it, with RNA of zeros where the object has none of the model's genes.
anndata_without_rna <- function(parts, model, call = rlang::caller_env()) {
  if (any(spelled_as(model$genes, parts$genes) %in% parts$genes)) {
    return(anndata_for(parts, model, call = call))
  }
  size <- c(length(model$genes), nrow(parts$cells))
  empty <- Matrix::sparseMatrix(integer(), integer(), x = numeric(), dims = size, dimnames = list(model$genes, rownames(parts$cells)))
  parts$blocks <- list(empty)
  parts$genes <- model$genes
  anndata_for(parts, model, call = call)
}

# The cell with the largest weight in each row.
best_matches <- function(weights) {
  entries <- methods::as(weights, "TsparseMatrix")
  order <- order(entries@i, -entries@x)
  first <- order[!duplicated(entries@i[order])]
  match <- rep(NA_character_, nrow(weights))
  weight <- numeric(nrow(weights))
  match[entries@i[first] + 1] <- colnames(weights)[entries@j[first] + 1]
  weight[entries@i[first] + 1] <- entries@x[first]
  data.frame(match = match, weight = weight, row.names = rownames(weights))
}
