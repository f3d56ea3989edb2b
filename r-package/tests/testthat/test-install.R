no_python <- c("RETICULATE_PYTHON=", "VIRTUAL_ENV=", paste0("WORKON_HOME=", tempdir()))

test_that("loading the package starts no Python", {
  said <- in_new_r("cat(reticulate::py_available(initialize = FALSE))", no_python)
  expect_identical(said, "FALSE")
})

test_that("without the engine the error says how to install it", {
  code <- "e <- tryCatch(RunSCVI(matrix(1, 2, 2), verbose = FALSE), error = identity); cat(class(e)[1], conditionMessage(e))"
  said <- paste(in_new_r(code, no_python), collapse = " ")
  expect_match(said, "scduet_error_no_engine")
  expect_match(said, "install_scduet()", fixed = TRUE)
  expect_match(paste(in_new_r("cat(scduet_available())", no_python), collapse = " "), "FALSE")
})

test_that("a chosen Python without the engine is named in the error and in the report", {
  python <- Sys.which("python3")
  skip_if(!nzchar(python) || startsWith(python, dirname(Sys.getenv("RETICULATE_PYTHON"))))
  said <- in_new_r("invisible(scduet_sitrep())", c(no_python, paste0("RETICULATE_PYTHON=", python)))
  expect_match(paste(said, collapse = " "), "cannot load scduet.*install_scduet")
})

test_that("an engine of another protocol is refused", {
  expect_error(check_protocol(PROTOCOL - 1L), "install_scduet", class = "scduet_error_protocol")
  expect_error(check_protocol(PROTOCOL + 1L), "Update the R package", class = "scduet_error_protocol")
  expect_true(check_protocol(PROTOCOL))
  expect_text(check_protocol(0L))
})

test_that("the engine travels inside the package", {
  source <- engine_source()
  expect_true(grepl("[.]whl$", source) || file.exists(file.path(source, "python", "scduet", "interop", "reticulate.py")))
  expect_error(engine_source(tempfile()), class = "scduet_error_no_source")
})

test_that("a Python that does not exist or does not suit is refused", {
  expect_error(find_python(tempfile()), class = "scduet_error_no_python")
})

test_that("inside R on Linux torch sees its own BLAS first", {
  skip_if_no_engine()
  skip_if_not(Sys.info()[["sysname"]] == "Linux")
  expect_true(py_value(ask("versions"))$deepbind)
})

test_that("the report is complete and finds nothing wrong with this session", {
  skip_if_no_engine()
  said <- capture.output(found <- scduet_sitrep())
  expect_length(found$problems, 0)
  expect_match(said[length(said)], "Everything is in place")
})
