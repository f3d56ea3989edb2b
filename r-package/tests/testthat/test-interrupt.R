test_that("Ctrl-C keeps the best weights and leaves R usable", {
  skip_on_os("windows")
  skip_if_no_engine()
  said <- in_new_r(c(
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
  expect_match(said[1], "training was interrupted after [0-9]+ epochs")
  expect_identical(trimws(said[2:3]), c("150 10", "150 10"))
})
