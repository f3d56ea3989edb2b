test_that("a model travels with its object into another R process; Ctrl-C there keeps the best weights", {
  skip_on_os("windows")
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- run(small_seurat(), batch = "donor")
  path <- tempfile(fileext = ".rds")
  saveRDS(object, path)
  said <- in_new_r(c(
    sprintf("object <- readRDS('%s')", path),
    "path <- SaveModel(object, tempfile())",
    "cat(identical(LoadModel(path)$genes, ScduetModel(object)$genes), '\\n')",
    "x <- matrix(rpois(50 * 150, 1) + 1, 50, 150)",
    "press <- sprintf('(sleep 0.5; kill -INT %d) >/dev/null 2>&1 &', Sys.getpid())",
    "said <- function(m) {",
    "  if (grepl('epoch [2-4][0-9][0-9] of', conditionMessage(m))) system(press)",
    "  invokeRestart('muffleMessage')",
    "}",
    "noted <- function(w) { cat(conditionMessage(w), '\\n'); invokeRestart('muffleWarning') }",
    "r <- withCallingHandlers(RunSCVI(x, max_epochs = 2000, n_hidden = 8, early_stopping = FALSE),",
    "  scduet_message = said, scduet_warning = noted)",
    "cat(dim(r), '\\n')",
    "cat(dim(RunSCVI(x, max_epochs = 1, n_hidden = 8, verbose = FALSE)))"
  ))
  expect_identical(trimws(said[1]), "TRUE")
  expect_match(said[2], "training was interrupted after [0-9]+ epochs")
  expect_identical(trimws(said[3:4]), c("150 10", "150 10"))
})
