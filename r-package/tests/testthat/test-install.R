no_python <- c(NOT_MANAGED, paste0(c("RETICULATE_PYTHON", "RETICULATE_PYTHON_ENV", "VIRTUAL_ENV", "CONDA_PREFIX"), "="), paste0("WORKON_HOME=", tempdir()))

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
  python <- setdiff(unname(Sys.which(c("python3", "python3.11", "python3.13"))), "")
  python <- Filter(function(path) !startsWith(path, dirname(Sys.getenv("RETICULATE_PYTHON"))), python)
  skip_if(!length(python), "no Python beside that of the engine")
  said <- answers(paste0("RETICULATE_PYTHON=", python[1]))
  expect_identical(said[1:2], c("FALSE", "scduet_error_no_engine"))
  expect_match(said[3], "cannot load the engine of scduet.*install_scduet")
  expect_match(said[5], "cannot load scduet.*install_scduet")
})

# Without words of reticulate or Python: these differ from version to version.
test_that("a Python that cannot load the engine is named, and so is the remedy", {
  skip_if_no_engine()
  python <- reticulate::py_config()$python
  old <- options(cli.width = 1000) # the path is longer here, shorter there
  on.exit(options(old))
  error <- simpleError("ModuleNotFoundError: No module named 'scduet'\nRun `reticulate::py_last_error()` for details.")
  expect_refused("no_engine", abort_no_engine(error, python, NULL), python)
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

NEWEST <- paste0("3.", 14:11) # by version of reticulate

test_that("a Python that does not exist, cannot make an environment or cannot install is refused", {
  skip_on_os("windows")
  none <- tempfile()
  expect_refused("no_python", find_python(none), c(none, NEWEST))
  install <- function() install_scduet(python = none, source = tempdir(), envname = file.path(none, "env"))
  file.create(file.path(tempdir(), "pyproject.toml"))
  expect_error(install(), class = "scduet_error_no_python")
  skip_if(nzchar(Sys.which("uv")))
  folder <- tempfile()
  expect_refused("no_environment", make_environment(folder, "/bin/false"), folder)
  expect_refused("install", suppressMessages(pip("/bin/false", c("install", "x"))))
  expect_refused("install", refuse_broken(list(problem = "cannot load scduet: no numpy"), "/py"))
  works <- list(scduet = "1", torch = "2", device = "cpu")
  report <- function(found) with_mocked("which_python", function() found, report_installed(works, "/py"))
  expect_told("message", report(list(python = "/py", by = "install_scduet()")))
  skip_if_no_engine() # then Python runs here
  expect_told("message", report(list(python = "/another", by = "running in this session")))
})

test_that("a Python whose shared library is missing is passed over, and half an environment is removed", {
  skip_if_no_engine()
  skip_on_os(c("windows", "mac"))
  python <- reticulate::py_config()$python
  expect_true(suits(python, 13))
  script <- function(...) {
    path <- tempfile()
    writeLines(c("#!/bin/sh", ...), path)
    Sys.chmod(path, "755")
    path
  }
  hide <- "import sys, sysconfig; sysconfig.get_config_vars()['INSTSONAME'] = 'libnone.so'; exec(sys.argv[1])"
  bare <- script(sprintf("exec %s -c \"%s\" \"$2\"", python, hide))
  expect_false(suits(bare, 13))
  expect_refused("no_python", find_python(bare), c(bare, NEWEST))
  skip_if(nzchar(Sys.which("uv")))
  folder <- tempfile()
  expect_error(make_environment(folder, script("mkdir -p $3/bin", "exit 1")), class = "scduet_error_no_environment")
  expect_false(dir.exists(folder))
})

# What install_scduet() runs, in order, where every command succeeds and these programs are found on the path.
commands_of <- function(..., programs = character(), chosen = NULL, envname = if (is.null(chosen)) "/env/r-scduet") {
  lines <- character()
  listen <- function(python, arguments) {
    force(c(python, arguments)) # may themselves be found by a command
    lines <<- c(lines, paste(sub("^import os.*", "<suits>", arguments), collapse = " "))
    list(status = 0L, output = "True")
  }
  path <- tempfile("path")
  dir.create(path)
  for (program in file.path(path, programs)) {
    writeLines("#!/bin/sh", program)
    Sys.chmod(program, "755")
  }
  old <- Sys.getenv("PATH")
  Sys.setenv(PATH = path)
  on.exit(Sys.setenv(PATH = old))
  works <- list(scduet = "1", torch = "2", device = "cpu")
  named <- function() if (!is.null(chosen)) list(python = chosen, by = "RETICULATE_PYTHON")
  suppressMessages(with_mocked("run_python", listen, with_mocked("chosen_python", named, with_mocked(
    "probe", function(python) works, install_scduet(python = "/py", source = engine, envname = envname, ...)
  ))))
  gsub(engine, "<engine>", lines, fixed = TRUE)
}
engine <- tempfile(fileext = ".whl")
file.create(engine)

test_that("installing makes an environment, takes the asked torch, and the engine from its file", {
  skip_on_os("windows")
  install <- "-m pip install"
  from <- "--no-index --find-links /wheels"
  expect_identical(commands_of(find_links = "/wheels", offline = TRUE), c(
    "-c <suits>", "-m venv /env/r-scduet", paste(install, "torch", from),
    paste(install, "--force-reinstall --no-deps <engine>", from), paste(install, "<engine>", from)
  ))
  with_uv <- commands_of(find_links = "/wheels", programs = "uv")
  expect_identical(with_uv[2], "venv --seed --python /py /env/r-scduet")
  torch <- function(...) commands_of(...)[3]
  expect_identical(torch(torch = "torch==2.7.1", index_url = "https://my.index"), paste(install, "torch==2.7.1 --index-url https://my.index"))
  expect_identical(torch(torch = "cuda"), paste(install, "torch"))
  expect_identical(torch(programs = "nvidia-smi"), paste(install, "torch"))
  skip_if_not(Sys.info()[["sysname"]] == "Linux")
  small <- paste(install, "--no-deps --retries 1 --index-url", CPU_TORCH, "torch")
  expect_identical(torch(), small)
  expect_identical(torch(torch = "cpu", programs = "nvidia-smi"), small)
})

test_that("Harmony is an extra, added to an engine that works or comes with it, and its licence is told", {
  skip_on_os("windows")
  added <- paste("-m pip install", HARMONY)
  python <- tempfile()
  file.create(python)
  expect_identical(commands_of(chosen = python, harmony = TRUE), added)
  whole <- commands_of(harmony = TRUE, torch = "cuda")
  expect_identical(whole[length(whole)], added)
  expect_false(any(grepl("harmony", commands_of())))
  told <- capture_messages(with_mocked("pip", function(...) NULL, install_harmony(python, NULL)))
  expect_match(told, "GPL-3")
})

test_that("a Python that the user chose is used, no other made; without leave nothing is installed", {
  skip_on_os("windows")
  chosen <- tempfile()
  file.create(chosen)
  ran <- commands_of(chosen = chosen, force = TRUE, find_links = "/wheels")
  expect_identical(ran[1], "-m pip install torch --find-links /wheels")
  expect_false(any(grepl("venv", ran)))
  expect_length(commands_of(chosen = chosen), 0) # it works already
  named <- function() list(python = chosen, by = "RETICULATE_PYTHON")
  expect_told("message", with_mocked("probe", function(python) list(), with_mocked("chosen_python", named, install_scduet())), chosen)
  expect_length(with_mocked("agreed", function(python) FALSE, commands_of(chosen = chosen, force = TRUE, ask = TRUE)), 0)
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
