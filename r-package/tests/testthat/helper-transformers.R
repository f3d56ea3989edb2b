# Small checkpoints, and cells that fit them.

# A small checkpoint with random weights in the official layout; the writers are those of the Python tests.
checkpoint <- function(family) {
  package <- py_value(reticulate::import("scduet", convert = FALSE)[["__file__"]])
  writers <- file.path(dirname(package), "..", "..", "tests", "python", "transformers", "conftest.py")
  skip_if_not(file.exists(writers), "the writers of small checkpoints are in the checkout alone")
  folder <- file.path(tempdir(), paste0("small-", family))
  if (!dir.exists(folder)) {
    dir.create(folder)
    pathlib <- reticulate::import("pathlib", convert = FALSE)
    made <- reticulate::import("runpy", convert = FALSE)$run_path(normalizePath(writers))
    made[["WRITERS"]][[family]](pathlib$Path(folder))
  }
  folder
}

# Cells of two kinds, which count the first or the last 45 of the checkpoint's genes five times as often.
two_kinds <- function(names = paste0("GENE", 0:89), n = 30) {
  kind <- rep(c("T", "B"), n / 2)
  base <- outer(rep(c("T", "B"), each = 45), kind, "==") * 2 + 0.5
  x <- matrix(qpois((seq_len(90 * n) * 0.618034) %% 1, base), 90, n, dimnames = list(names, paste0("cell", seq_len(n))))
  data <- data.frame(kind = kind, row.names = colnames(x))
  suppressWarnings(SeuratObject::CreateSeuratObject(methods::as(x, "CsparseMatrix"), meta.data = data))
}

as_object <- function(counts) suppressWarnings(SeuratObject::CreateSeuratObject(methods::as(counts, "CsparseMatrix")))
