# What several tests need: small counts, the engine, snapshots that hold for one version of R.
loadNamespace("Matrix") # as() to its classes needs it
Sys.setenv(R_USER_CONFIG_DIR = tempfile("config")) # where install_scduet() remembers the Python; not the user's

skip_if_no_engine <- function() {
  skip_if_not(scduet_available(), "the Python engine is not installed")
}

skip_if_no_seurat <- function(v5 = FALSE) {
  skip_if_not_installed("SeuratObject", if (v5) "5.0.0" else "4.0.0")
  skip_if_not_installed("Seurat")
}

# The folder with real objects that others made.
real_objects <- function() {
  folder <- Sys.getenv("SCDUET_TEST_DATA")
  skip_if(!nzchar(folder), "no folder with real objects (SCDUET_TEST_DATA)")
  folder
}

# Texts differ between versions of rlang and cli; the newer R of the two that are tested keeps them.
expect_text <- function(object) {
  skip_if(getRversion() < "4.5", "texts are compared under R >= 4.5; classes under every version")
  expect_snapshot(object, error = TRUE, cran = TRUE)
}

# Poisson quantiles of an even grid: counts that need no seed.
counts_of_two_batches <- function(n = 120, genes = 40) {
  x <- matrix(qpois((seq_len(genes * n) * 0.618034) %% 1, 2), genes, n)
  x[, seq_len(n) %% 2 == 0] <- x[, seq_len(n) %% 2 == 0] * 2
  dimnames(x) <- list(paste0("gene-", seq_len(genes)), paste0("cell_", seq_len(n)))
  methods::as(x, "CsparseMatrix")
}

small_seurat <- function(...) {
  x <- counts_of_two_batches(...)
  donor <- rep(c("a", "b"), length.out = ncol(x))
  data <- data.frame(donor = donor, kind = rep(c("T", "B", "NK"), length.out = ncol(x)), row.names = colnames(x))
  suppressWarnings(SeuratObject::CreateSeuratObject(x, meta.data = data))
}

counts_in <- function(object, assay = "RNA") {
  assay <- object[[assay]]
  if (inherits(assay, "StdAssay")) SeuratObject::LayerData(assay, layer = "counts") else methods::slot(assay, "counts")
}

run <- function(object, ...) RunSCVI(object, ..., max_epochs = 2, n_latent = 4, n_hidden = 16, verbose = FALSE)

# For a process of its own: reticulate creates no environment where none is.
NOT_MANAGED <- "RETICULATE_USE_MANAGED_VENV=no"

# What R prints when it runs `code` in a process of its own, with this package.
in_new_r <- function(code, env = character()) {
  file <- tempfile(fileext = ".R")
  writeLines(c(".libPaths(strsplit(Sys.getenv('LIBS'), ':')[[1]])", "library(scduet)", code), file)
  env <- c(paste0("LIBS=", paste(.libPaths(), collapse = ":")), env)
  system2(file.path(R.home("bin"), "Rscript"), c("--vanilla", file), stdout = TRUE, stderr = FALSE, env = env)
}

# An error of this class; its words as a snapshot where texts are compared. hide: what differs from run to run.
expect_refused <- function(class, code, hide = NULL) {
  condition <- tryCatch(code, error = identity)
  expect_s3_class(condition, paste0("scduet_error_", class))
  expect_words(conditionMessage(condition), hide)
}

# Messages or warnings of this class, and nothing else, while `code` runs; their words as a snapshot.
expect_told <- function(class, code, hide = NULL) {
  told <- character()
  note <- function(condition) {
    told <<- c(told, conditionMessage(condition))
    tryInvokeRestart(if (inherits(condition, "warning")) "muffleWarning" else "muffleMessage")
  }
  withCallingHandlers(code, scduet_message = note, scduet_warning = note)
  expect_true(length(told) > 0)
  expect_words(told, hide)
}

expect_words <- function(text, hide = NULL) {
  for (part in hide) text <- gsub(part, "<...>", text, fixed = TRUE)
  if (getRversion() >= "4.5") expect_snapshot(cat(text, sep = "\n"), cran = TRUE)
}

# `name` of this package stands for `value` while `code` runs.
with_mocked <- function(name, value, code) {
  kept <- get(name, asNamespace("scduet"))
  utils::assignInNamespace(name, value, "scduet")
  on.exit(utils::assignInNamespace(name, kept, "scduet"))
  code
}
