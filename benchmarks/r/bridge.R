# One way of moving a dgCMatrix (20,000 genes x CELLS, VALUES in each) to Python and back: time and peak memory.
# Called as: Rscript bridge.R LIBRARY CELLS VALUES ours|theirs
arguments <- commandArgs(trailingOnly = TRUE)
.libPaths(c(arguments[1], .libPaths()))
suppressPackageStartupMessages({
  library(Matrix)
  library(reticulate)
})

memory <- function(field) {
  line <- grep(paste0("^", field, ":"), readLines("/proc/self/status"), value = TRUE)
  as.numeric(gsub("[^0-9]", "", line)) / 1024
}
measured <- function(name, expression) {
  invisible(gc())
  cat("5", file = "/proc/self/clear_refs") # the peak starts again from here
  before <- memory("VmRSS")
  seconds <- system.time(value <- expression)[["elapsed"]]
  cat(sprintf("%s %.3f %.0f\n", name, seconds, memory("VmHWM") - before))
  value
}

genes <- 20000L
cells <- as.integer(arguments[2])
each <- as.integer(arguments[3])
set.seed(1)
rows <- rep(as.integer(replicate(50, sort(sample.int(genes, each)) - 1L)), cells / 50)
x <- new("dgCMatrix",
  i = rows, p = as.integer(seq(0, by = each, length.out = cells + 1)), x = as.numeric(rep_len(1:7, length(rows))),
  Dim = c(genes, cells), Dimnames = list(paste0("g", seq_len(genes)), paste0("c", seq_len(cells)))
)
rm(rows)

if (arguments[4] == "ours") {
  library(scduet)
  invisible(as_anndata(x[, 1:10])) # Python has started
  there <- measured("there", as_anndata(x))
  fetch <- getFromNamespace("fetch_matrix", "scduet")
  back <- measured("back", fetch(list(adata = there, place = "X"), rownames(x), colnames(x)))
} else {
  sparse <- import("scipy.sparse", convert = FALSE)
  invisible(sparse$csr_matrix(t(x[, 1:10])))
  there <- measured("there", sparse$csr_matrix(t(x)))
  back <- measured("back", t(as(py_to_r(there), "CsparseMatrix")))
}
stopifnot(identical(back@x, x@x), identical(back@i, x@i), identical(back@p, x@p))
