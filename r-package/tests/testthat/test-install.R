no_python <- c("RETICULATE_PYTHON=", "VIRTUAL_ENV=", paste0("WORKON_HOME=", tempdir()))

# Each asks for the engine in a process of its own: whether loading loaded what starts Python or takes long, the error, the report.
ASKED <- c(
  "cat(any(vapply(c('reticulate', 'Matrix', 'rlang', 'Seurat'), isNamespaceLoaded, NA)), '|', sep = '')",
  "e <- tryCatch(RunSCVI(matrix(1, 2, 2), verbose = FALSE), error = identity)",
  "cat(class(e)[1], '|', gsub('\n', ' ', conditionMessage(e)), '|', sep = '')",
  "cat(scduet_available(), '|', sep = '')",
  "invisible(scduet_sitrep())"
)
answers <- function(...) trimws(strsplit(paste(in_new_r(ASKED, c(no_python, ...)), collapse = " "), "|", fixed = TRUE)[[1]])

test_that("loading is quick and starts no Python; without the engine the error and the report say how to install it", {
  said <- answers()
  expect_identical(said[1:2], c("FALSE", "scduet_error_no_engine"))
  expect_words(said[3])
  expect_match(said[3], "install_scduet()", fixed = TRUE)
  expect_identical(said[4], "FALSE")
  expect_match(said[5], "The engine is not installed: run `install_scduet()`.", fixed = TRUE)
})

test_that("a chosen Python without the engine is named in the error and in the report", {
  python <- Sys.which("python3")
  skip_if(!nzchar(python) || startsWith(python, dirname(Sys.getenv("RETICULATE_PYTHON"))))
  said <- answers(paste0("RETICULATE_PYTHON=", python))
  expect_identical(said[1:2], c("FALSE", "scduet_error_no_engine"))
  expect_words(said[3], python)
  expect_match(said[3], paste0(python, ".*install_scduet"))
  expect_match(said[5], "cannot load scduet.*install_scduet")
})

test_that("a chosen Python that does not exist is named in the error and in the report", {
  said <- answers("RETICULATE_PYTHON=/no/such/python")
  expect_identical(said[2], "scduet_error_no_engine")
  expect_words(said[3])
  expect_match(said[3], "install_scduet")
  expect_match(said[5], "/no/such/python, does not exist: correct RETICULATE_PYTHON", fixed = TRUE)
})

test_that("an engine of another protocol is refused", {
  expect_error(check_protocol(PROTOCOL - 1L), "install_scduet", class = "scduet_error_protocol")
  expect_error(check_protocol(PROTOCOL + 1L), "Update the R package", class = "scduet_error_protocol")
  expect_true(check_protocol(PROTOCOL))
  expect_refused("protocol", check_protocol(0L))
  expect_refused("protocol", check_protocol(PROTOCOL + 1L), PROTOCOL + 1L)
})

test_that("the engine travels inside the package", {
  source <- engine_source()
  expect_true(grepl("[.]whl$", source) || file.exists(file.path(source, "python", "scduet", "interop", "reticulate.py")))
  expect_refused("no_source", engine_source(tempfile()))
})

test_that("a Python that does not exist, cannot make an environment or cannot install is refused", {
  skip_on_os("windows")
  expect_refused("no_python", find_python(tempfile()), c("3.13", "3.12", "3.11"))
  skip_if(nzchar(Sys.which("uv")))
  folder <- tempfile()
  expect_refused("no_environment", make_environment(folder, "/bin/false"), folder)
  expect_refused("install", suppressMessages(pip("/bin/false", c("install", "x"))))
  expect_refused("install", report_installed(list(problem = "cannot load scduet: no numpy"), "/py"))
  expect_told("message", report_installed(list(scduet = "1", torch = "2", device = "cpu"), "/py"), c("Ready.", "Installed. Restart R: this session already runs another Python."))
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
  expect_words(sub(" .*", "", said))
})
