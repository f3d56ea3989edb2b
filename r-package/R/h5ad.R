#' Read and write `.h5ad` files
#'
#' `WriteH5AD()` writes what [as_anndata()] carries over; `ReadH5AD()` reads it back, or any other `.h5ad` file, as
#' [as_seurat()] does. A file is written to a temporary name first, so that none is ever half written. Dates and times are
#' text in the file, and dates and times again, in their zone, after `ReadH5AD()`.
#'
#' @param object A Seurat object, SingleCellExperiment or matrix.
#' @param path Path of the file.
#' @param overwrite Replace a file that exists.
#' @param verbose Say what could not be carried over.
#' @param ... Passed on to [as_anndata()] or [as_seurat()].
#' @returns `WriteH5AD()`: the path, invisibly. `ReadH5AD()`: a Seurat object.
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' path <- WriteH5AD(SeuratObject::pbmc_small, tempfile(fileext = ".h5ad"))
#' ReadH5AD(path)
WriteH5AD <- function(object, path, overwrite = FALSE, verbose = TRUE, ...) {
  check_text(path, "path")
  check_flag(overwrite, "overwrite")
  check_new_file(path, overwrite)
  adata <- as_anndata(object, verbose = verbose, ...)
  as_text <- unlist(py_value(ask("write_h5ad", adata = adata, path = path.expand(path))))
  if (length(as_text)) inform_scduet(paste0("Written as text, as h5ad has no dates; `ReadH5AD()` makes them dates again: ", some(as_text, 9), "."), verbose)
  invisible(path)
}

#' @rdname WriteH5AD
#' @export
ReadH5AD <- function(path, verbose = TRUE, ...) {
  check_text(path, "path")
  as_seurat(path, verbose = verbose, ...)
}

check_new_file <- function(path, overwrite, call = rlang::caller_env()) {
  folder <- dirname(path.expand(path))
  if (!may_write(folder)) {
    what <- if (dir.exists(folder)) "You may not write into the folder %s." else "There is no folder %s."
    abort_scduet(sprintf(what, folder), "Choose another path.", "cannot_write", call)
  }
  if (file.exists(path) && !overwrite) {
    abort_scduet(sprintf("The file %s exists.", path), "Pass `overwrite = TRUE`, or choose another path.", "exists", call)
  }
}

may_write <- function(folder) file.access(folder, 2) == 0
