#' Generate cells with a trained model
#'
#' Makes new cells: the state of a random cell of the object with its posterior noise, decoded, and counts drawn of it, with
#' the library size of that cell. States are not drawn from the prior, which covers parts that hold no cells.
#'
#' New cells add no information about the data, and are not anonymous. Adding them to rare types before a classifier is
#' trained is not recommended: weigh the types instead.
#'
#' @param object A Seurat object or SingleCellExperiment with a model that decodes expression, e.g. of [RunSCVI()] or
#'   [RunTrVAE()].
#' @param n Number of cells.
#' @param label Cell types to make; `NULL` for all, in their shares among the cells.
#' @param labels Column of the metadata with the cell types; `NULL` for that of the model.
#' @param library.size Total count, one number or one for each new cell; `NULL` for those of the cells.
#' @param batch Batch to decode as; `NULL` for that of each cell.
#' @param layer Layer with what the model was trained on: raw counts, or "data" for a scGen of log-normalized values.
#' @inheritParams NormalizeExpression
#' @param ... Not used.
#' @returns A new object of the same kind with `n` cells and the genes of the model. The metadata hold the name of the
#'   `source` cell of each, its type and its batch.
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- RunSCVI(SeuratObject::pbmc_small, features = genes, max_epochs = 2, verbose = FALSE)
#' GenerateCells(obj, n = 20, label = "1", labels = "RNA_snn_res.1")
GenerateCells <- function(object, n = 1000, label = NULL, labels = NULL, reduction = NULL, assay = NULL, layer = "counts",
                          library.size = NULL, batch = NULL, seed.use = 42, ...) {
  check_no_options(...)
  model <- ScduetModel(object, reduction = reduction)
  parts <- parts_of(object, trained_assay(object, model, assay), layer)
  check_column(parts$cells, labels, "labels")
  options <- list(
    label = if (!is.null(label)) as.list(as_level(label)), labels_key = labels,
    library = if (length(library.size) > 1) as.list(library.size) else library.size,
    batch = if (!is.null(batch)) as_level(batch), seed = check_whole(seed.use, "seed.use")
  )
  made <- ask("generate_cells",
    folder = model_folder(model), sha256 = model$sha256, adata = anndata_for(parts, model, labels),
    n = check_whole(n, "n"), options = Filter(Negate(is.null), options)
  )
  if (inherits(object, "Seurat")) {
    return(as_seurat(made, verbose = FALSE))
  }
  cells <- receive_text(ask("names", adata = made, axis = "obs"))
  genes <- receive_text(ask("names", adata = made, axis = "var"))
  values <- list(fetch_matrix(made, "X", genes, cells))
  names(values) <- layer
  SingleCellExperiment::SingleCellExperiment(
    values,
    colData = S4Vectors::DataFrame(receive_frame(ask("table", adata = made, place = "obs"), cells))
  )
}
