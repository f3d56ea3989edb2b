#' Write an integration report
#'
#' Writes a self-contained HTML page that describes the data, each model and its training, with plots by batch and label
#' before and after integration and the scores compared with unintegrated PCA.
#'
#' @param object Seurat object or SingleCellExperiment with reductions.
#' @param path Path of the HTML file.
#' @param reductions Names of the reductions to show, with their models; `NULL` for all except 2D layouts such as UMAP.
#' @param batch,labels Metadata columns; `NULL` for those of the first model that has them.
#' @param color.by,genes Further metadata columns, and up to 200 genes, by which readers may color a map of the cells.
#' @param overwrite Overwrite an existing file.
#' @param ... Further options: `title`, `max_cells`, `seed`.
#' @inheritParams RunModel
#' @returns The path, invisibly.
#' @family scores
#' @export
#' @examples
#' \dontrun{
#' obj <- RunSCVI(obj, batch = "donor")
#' WriteReport(obj, "report.html", batch = "donor", labels = "cell_type")
#' }
WriteReport <- function(object, path, reductions = NULL, batch = NULL, labels = NULL, assay = NULL, layer = "counts",
                        color.by = NULL, genes = NULL, overwrite = FALSE, ...) {
  check_text(path, "path")
  check_flag(overwrite, "overwrite")
  check_new_file(path, overwrite)
  check_option_names(list(...), rlang::current_env())
  parts <- parts_of(object, assay, layer, raw = FALSE)
  models <- models_of(object)
  if (!is.null(reductions)) models <- models[sce_reduction(names(models)) %in% sce_reduction(reductions)]
  batch <- if (is.null(batch)) first_named(models, "batch") else batch
  labels <- if (is.null(labels)) first_named(models, "labels") else labels
  check_column(parts$cells, batch, "batch")
  check_column(parts$cells, labels, "labels", may_miss = TRUE)
  for (column in color.by) check_column(parts$cells, column, "color.by", may_miss = TRUE)
  columns <- unlist(lapply(models, function(model) model$columns))
  adata <- anndata_of(parts, columns = unique(c(batch, labels, color.by, intersect(columns, names(parts$cells)))))
  put_embeddings(adata, parts, reductions)
  named <- list(
    batch_key = batch, labels_key = labels, overwrite = overwrite,
    color_by = if (length(color.by)) as.list(color.by), genes = if (length(genes)) as.list(genes),
    embeddings = if (!is.null(reductions)) as.list(embedding_name(reductions))
  )
  ask("report",
    adata = adata, path = path.expand(path), models = lapply(models, where_of),
    options = c(Filter(Negate(is.null), named), lapply(list(...), as_option)), made = made_by(object)
  )
  invisible(path)
}

first_named <- function(models, column) unlist(lapply(unname(models), function(model) model[[column]]))[1]
