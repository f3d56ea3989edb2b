# RunSCVI on an .h5ad file: seconds of the whole call after Python has started, and of training alone.
# Called as: Rscript overhead.R FILE LIBRARY EPOCHS
arguments <- commandArgs(trailingOnly = TRUE)
.libPaths(c(arguments[2], .libPaths()))
suppressPackageStartupMessages(library(scduet))
object <- ReadH5AD(arguments[1], verbose = FALSE)
invisible(suppressWarnings(RunSCVI(object[, 1:200], max_epochs = 1, verbose = FALSE)))
whole <- system.time(
  object <- RunSCVI(object, batch = "batch", max_epochs = as.integer(arguments[3]), early_stopping = FALSE, verbose = FALSE)
)[["elapsed"]]
cat(sprintf("%.2f %.2f\n", whole, sum(ScduetModel(object)$history$seconds)))
