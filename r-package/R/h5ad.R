#' Read and write `.h5ad` files
#'
#' `WriteH5AD()` converts an object with [as_anndata()] and writes it; `ReadH5AD()` reads any `.h5ad` file with
#' [as_seurat()]. Files are written atomically, under a temporary name. Dates and times are stored as text; `ReadH5AD()`
#' restores them with their time zone. It also reads `.h5mu`, whose modalities other than "rna" become assays.
#'
#' @param object A Seurat object, SingleCellExperiment or matrix.
#' @param path Path of the file.
#' @param overwrite Overwrite an existing file.
#' @param verbose Report what could not be converted.
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
  if (length(as_text)) inform_scduet(paste0("Dates and times are stored as text, and restored by `ReadH5AD()`: ", some(as_text, 9), "."), verbose)
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
    what <- if (dir.exists(folder)) "Cannot write to the folder %s." else "The folder %s does not exist."
    abort_scduet(sprintf(what, folder), "Choose another path.", "cannot_write", call)
  }
  if (file.exists(path) && !overwrite) {
    abort_scduet(sprintf("The file %s already exists.", path), "Pass `overwrite = TRUE`, or choose another path.", "exists", call)
  }
}

may_write <- function(folder) file.access(folder, 2) == 0
