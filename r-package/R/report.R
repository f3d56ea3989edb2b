#' A report of an integration
#'
#' One HTML page that opens from disk: the data, the model and its training, pictures by batch and label before and
#' after, and the table of scores beside the unintegrated PCA.
#'
#' @param object Seurat object or SingleCellExperiment with reductions.
#' @param path Path of the page.
#' @param reductions Names of the reductions to show; `NULL` for all that are no drawings.
#' @param batch,labels Columns of the metadata; `NULL` for those of the model.
#' @param overwrite Replace a file that exists.
#' @param ... Further options: `title`, `max_cells`, `seed`.
#' @inheritParams RunModel
#' @returns The path, invisibly.
#' @family scores
#' @export
#' @examples
#' \dontrun{
#' WriteReport(obj, "report.html", batch = "donor", labels = "cell_type")
#' }
WriteReport <- function(object, path, reductions = NULL, batch = NULL, labels = NULL, assay = NULL, layer = "counts",
                        overwrite = FALSE, ...) {
  check_text(path, "path")
  check_flag(overwrite, "overwrite")
  check_new_file(path, overwrite)
  parts <- parts_of(object, assay, layer)
  model <- tryCatch(ScduetModel(object), scduet_error_no_model = function(e) NULL)
  batch <- if (is.null(batch)) model$batch else batch
  labels <- if (is.null(labels)) model$labels else labels
  check_column(parts$cells, batch, "batch")
  check_column(parts$cells, labels, "labels", may_miss = TRUE)
  adata <- anndata_of(parts, columns = unique(c(batch, labels, intersect(model$columns, names(parts$cells)))))
  put_embeddings(adata, parts, reductions)
  named <- list(
    batch_key = batch, labels_key = labels, overwrite = overwrite,
    embeddings = if (!is.null(reductions)) as.list(embedding_name(reductions))
  )
  ask("report",
    adata = adata, path = path.expand(path), folder = if (!is.null(model)) model_folder(model), sha256 = model$sha256,
    options = c(Filter(Negate(is.null), named), list(...)), made = made_by(object)
  )
  invisible(path)
}
