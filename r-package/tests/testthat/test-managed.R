# Environments that reticulate makes of what is declared. `uv` is a script here that notes what it is asked for and answers
# with the Python of the engine: the real one would download everything.

skip_if_not(exists("py_require", asNamespace("reticulate")), "this reticulate has no py_require()")
skip_on_os("windows")

UV <- c(
  "#!/bin/sh",
  "case $1 in",
  "  --version) echo 'uv 0.7.22' ;;",
  "  python) echo '[{\"version\": \"3.13.9\"}, {\"version\": \"3.12.9\"}, {\"version\": \"3.11.9\"}]' ;;",
  "  run) printf '%s\\n' \"$@\" > \"$HOME/asked\"; [ -n \"$ENGINE\" ] || exit 2",
  "    for last; do :; done; printf '%s' \"$ENGINE\" > \"$last\" ;;",
  "esac"
)
BEGIN <- c(
  "Sys.unsetenv(c('WORKON_HOME', 'RETICULATE_PYTHON_ENV', 'VIRTUAL_ENV', 'CONDA_PREFIX', 'R_USER_CONFIG_DIR', 'XDG_CONFIG_HOME'))",
  "say <- function(...) cat(..., '', sep = '|')"
)

# home: a folder with a `uv`; what R says in it, by lines of `code`.
in_managed <- function(code, home = new_home(), engine = "", python = "") {
  env <- paste0(c("HOME=", "RETICULATE_UV=", "ENGINE=", "RETICULATE_PYTHON=", "R_USER_CACHE_DIR="), c(home, file.path(home, "uv"), engine, python, file.path(home, "cache")))
  env <- if (nzchar(python)) env else env[-4]
  unset <- if (!nzchar(python)) "Sys.unsetenv('RETICULATE_PYTHON')"
  strsplit(paste(in_new_r(c(BEGIN, unset, code), env), collapse = ""), "|", fixed = TRUE)[[1]]
}

new_home <- function() {
  home <- tempfile("home")
  dir.create(home)
  writeLines(UV, file.path(home, "uv"))
  Sys.chmod(file.path(home, "uv"), "755")
  normalizePath(home)
}

test_that("with no Python chosen or installed, uv is asked for the engine of this package, once it is needed", {
  skip_if_no_engine()
  home <- new_home()
  said <- in_managed(c(
    "say(isNamespaceLoaded('reticulate'), unlist(scduet:::which_python()), scduet_available(), file.exists('~/asked'))",
    "say(dim(as_seurat(suppressMessages(as_anndata(matrix(0:5, 2, dimnames = list(c('a', 'b'), 1:3)))))))",
    "say(scduet_available(), reticulate::py_config()$python)"
  ), home, engine = reticulate::py_config()$python)
  expect_identical(said[1:5], c("FALSE", "managed", "reticulate::py_require()", "FALSE", "FALSE"))
  expect_identical(said[6:9], c("2", "3", "TRUE", reticulate::py_config()$python))
  asked <- readLines(file.path(home, "asked"))
  asked <- asked[which(asked == "--with") + 1]
  expect_identical("pandas<3" %in% asked, packageVersion("reticulate") < "1.45")
  archive <- sub("^scduet @ file://", "", grep("^scduet @", asked, value = TRUE))
  expect_true(file.exists(archive))
})

test_that("the archive holds what travels inside the package, and its path is the same until that changes", {
  old <- Sys.getenv("R_USER_CACHE_DIR", NA)
  on.exit(if (is.na(old)) Sys.unsetenv("R_USER_CACHE_DIR") else Sys.setenv(R_USER_CACHE_DIR = old))
  Sys.setenv(R_USER_CACHE_DIR = tempfile("cache"))
  source <- tempfile("source")
  dir.create(file.path(source, "python", "scduet"), recursive = TRUE)
  writeLines("[project]", file.path(source, "pyproject.toml"))
  writeLines("x = 1", file.path(source, "python", "scduet", "api.py"))
  archive <- engine_archive(source)
  expect_identical(engine_archive(source), archive)
  there <- tempfile()
  utils::untar(archive, exdir = there)
  root <- list.files(there, full.names = TRUE)
  expect_identical(basename(root), sub("[.]tar[.]gz$", "", basename(archive)))
  files <- list.files(source, recursive = TRUE)
  expect_identical(list.files(root, recursive = TRUE), files)
  expect_identical(unname(tools::md5sum(file.path(root, files))), unname(tools::md5sum(file.path(source, files))))
  writeLines("x = 2", file.path(source, "python", "scduet", "api.py"))
  expect_false(engine_archive(source) == archive)
  wheel <- tempfile(fileext = ".whl")
  file.create(wheel)
  expect_identical(engine_archive(wheel), wheel)
  expect_identical(file_url("/a b/c"), "file:///a%20b/c")
})

test_that("an environment that was installed, and a choice of the user, go before; 'managed' goes before these", {
  home <- new_home()
  made <- c(
    "path <- path.expand('~/.virtualenvs/r-scduet/bin/python')", "dir.create(dirname(path), recursive = TRUE)",
    "invisible(file.create(path))"
  )
  asks <- c("used <- function() say(unlist(scduet:::which_python()))", "used(); say(any(grepl('scduet', reticulate::py_require()$packages)))")
  wishes <- c(
    "unlink('~/.virtualenvs', TRUE); Sys.setenv(RETICULATE_USE_MANAGED_VENV = 'no'); say(is.null(scduet:::which_python()))",
    "Sys.setenv(RETICULATE_USE_MANAGED_VENV = 'yes'); used()",
    "Sys.setenv(RETICULATE_PYTHON = 'managed'); used()"
  )
  said <- in_managed(c(made, asks, wishes), home)[-1]
  expect_identical(said, c("install_scduet()", "FALSE", "TRUE", "managed", "RETICULATE_USE_MANAGED_VENV", "managed", "RETICULATE_PYTHON"))
  expect_identical(in_managed(c(made, asks), home, python = "managed"), c("managed", "RETICULATE_PYTHON", "TRUE"))
})

test_that("where uv fails, as without network access, the error names what works then", {
  code <- "e <- tryCatch(as_anndata(matrix(1:4, 2)), error = identity); say(class(e)[1], conditionMessage(e))"
  said <- in_managed(code)
  expect_identical(said[1], "scduet_error_no_engine")
  expect_match(said[2], "install_scduet(find_links", fixed = TRUE)
  expect_match(said[2], "RETICULATE_PYTHON", fixed = TRUE)
})
