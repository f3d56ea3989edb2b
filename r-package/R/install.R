#' Install the Python engine
#'
#' Makes a virtual environment (never a conda one) called "r-scduet" with the engine and what it needs. The engine itself
#' comes from the file inside this R package; its name is never looked up on an index. If you have chosen a Python (by
#' `RETICULATE_PYTHON`, `VIRTUAL_ENV` or `reticulate::use_virtualenv()`), the engine is installed there instead.
#'
#' @param python Python to make the environment with, 3.10 or newer; `NULL` to look for one.
#' @param torch Which PyTorch: "auto" takes the CUDA build if there is an NVIDIA GPU, else the CPU build; "cpu", "cuda"; or
#'   a requirement such as "torch==2.7.1".
#' @param find_links Folder or page with wheels to install from, for machines without network.
#' @param index_url Package index to use instead of pip's own.
#' @param offline Use `find_links` only, no index.
#' @param force Install even if a working engine is there.
#' @param source Wheel or source folder of the engine; `NULL` for the one inside this package.
#' @param envname Name of the environment, or its path.
#' @param ask Ask before anything is installed into a Python of yours.
#' @returns The path of the Python, invisibly.
#' @family set-up
#' @export
#' @examples
#' \dontrun{
#' install_scduet()
#' install_scduet(find_links = "/shared/wheels", offline = TRUE)
#' }
install_scduet <- function(python = NULL, torch = "auto", find_links = NULL, index_url = NULL, offline = FALSE,
                           force = FALSE, source = NULL, envname = ENVIRONMENT, ask = interactive()) {
  check_text(torch, "torch")
  check_flag(offline, "offline")
  target <- chosen_python()
  if (is.null(target)) target <- environment_python(envname)
  if (!force && file.exists(target) && is.null(probe(target)$problem)) {
    inform_scduet(sprintf("The engine is installed and works: %s. `force = TRUE` installs it again.", target))
    return(invisible(target))
  }
  if (!is.null(chosen_python()) && ask && !agreed(target)) {
    return(invisible(target))
  }
  engine <- engine_source(source)
  if (!file.exists(target)) {
    found <- find_python(python) # looked for here, so that not finding one is the error that is seen
    make_environment(dirname(dirname(target)), found)
  }
  where <- c(
    if (offline) "--no-index",
    if (!is.null(find_links)) c("--find-links", path.expand(find_links)),
    if (!is.null(index_url)) c("--index-url", index_url)
  )
  inform_scduet("Downloading torch and what the engine needs takes some minutes; the commands are shown as they run.")
  install_torch(target, torch, where)
  wheel <- as_wheel(target, engine, where)
  pip(target, c("install", "--force-reinstall", "--no-deps", wheel, where))
  pip(target, c("install", wheel, where)) # what the engine needs
  report_installed(probe(target), target)
}

# A wheel beside the sources of the R package is what `make wheel` built; a checkout brings the sources by links, which
# `R CMD build` and `R CMD INSTALL` follow, so that installing from GitHub needs no wheel in git that could be stale.
engine_source <- function(source = NULL, call = rlang::caller_env()) {
  if (is.null(source)) {
    folder <- system.file("python", package = "scduet")
    wheel <- list.files(folder, "^scduet-.*[.]whl$", full.names = TRUE)
    source <- if (length(wheel)) wheel[1] else file.path(folder, "source")
  }
  if (!file.exists(source) || (dir.exists(source) && !file.exists(file.path(source, "pyproject.toml")))) {
    abort_scduet(
      "The Python engine is not inside this R package.",
      "Pass `source`: its wheel, or a folder with the sources of scduet (the one with pyproject.toml).", "no_source", call
    )
  }
  normalizePath(source)
}

# The Python that the user decided on, or NULL.
chosen_python <- function() {
  if (reticulate::py_available(initialize = FALSE)) {
    return(reticulate::py_config()$python)
  }
  set <- Sys.getenv(c("RETICULATE_PYTHON", "VIRTUAL_ENV"))
  if (nzchar(set[[1]])) path.expand(set[[1]]) else if (nzchar(set[[2]])) python_in(set[[2]])
}

environment_python <- function(envname) {
  python_in(if (grepl("/", envname, fixed = TRUE)) path.expand(envname) else file.path(reticulate::virtualenv_root(), envname))
}

python_in <- function(folder) {
  if (.Platform$OS.type == "windows") file.path(folder, "Scripts", "python.exe") else file.path(folder, "bin", "python")
}

agreed <- function(python) {
  answer <- readline(sprintf("Install the engine of scduet into %s? [y/N] ", python))
  tolower(substr(answer, 1, 1)) == "y"
}

# A Python that reticulate can load: new enough, not too new for this reticulate, with a shared library that is there
# (Debian's is in a package of its own), and able to make an environment (Debian: likewise).
find_python <- function(python, call = rlang::caller_env()) {
  bridge <- package_version(getNamespaceVersion("reticulate"))
  newest <- if (bridge >= "1.40") 13 else if (bridge >= "1.33") 12 else 11
  candidates <- if (is.null(python)) unname(Sys.which(c(paste0("python3.", newest:10), "python3", "python"))) else python
  for (path in candidates[nzchar(candidates)]) {
    if (suits(path, newest)) {
      return(path)
    }
  }
  abort_scduet(
    c(
      sprintf("No Python from 3.10 to 3.%d with a shared library and venv was found.", newest),
      if (!is.null(python)) sprintf("%s cannot be used.", python)
    ),
    "Install one (e.g. `apt install python3-venv libpython3-dev`, or `brew install python@3.11`), or pass `python`.",
    "no_python", call
  )
}

SUITS <- "import os, sys, sysconfig
from importlib.util import find_spec
get = sysconfig.get_config_var
folders = [get('LIBDIR'), os.path.join(sys.base_prefix, 'lib'), os.path.join(sys.base_prefix, 'lib', get('MULTIARCH') or '')]
there = any(os.path.isfile(os.path.join(folder or '', get('INSTSONAME') or '')) for folder in folders)
loads = sys.platform == 'win32' or bool(get('PYTHONFRAMEWORK')) or (bool(get('Py_ENABLE_SHARED')) and there)
print((3, 10) <= sys.version_info[:2] <= (3, %d) and loads and (%s or find_spec('ensurepip') is not None))"

suits <- function(path, newest) {
  uv <- if (nzchar(Sys.which("uv"))) "True" else "False" # makes environments without ensurepip
  identical(run_python(path, c("-c", sprintf(SUITS, newest, uv)))$output, "True")
}

make_environment <- function(folder, python, call = rlang::caller_env()) {
  uv <- Sys.which("uv")
  dir.create(dirname(folder), recursive = TRUE, showWarnings = FALSE)
  made <- if (nzchar(uv)) {
    run_python(uv, c("venv", "--seed", "--python", python, folder))
  } else {
    run_python(python, c("-m", "venv", folder))
  }
  if (made$status != 0) {
    unlink(folder, recursive = TRUE) # half an environment would be taken for a whole one
    abort_scduet(
      sprintf("The virtual environment %s could not be made.", folder),
      c("On Debian and Ubuntu: `apt install python3-venv`.", if (any(nzchar(made$output))) paste(trimws(made$output), collapse = " ")),
      "no_environment", call
    )
  }
}

CPU_TORCH <- "https://download.pytorch.org/whl/cpu" # pip's own index has only CUDA builds for Linux, 2.5 GB larger

install_torch <- function(python, torch, where) {
  cpu <- torch == "cpu" || (torch == "auto" && !nzchar(Sys.which("nvidia-smi")))
  if (cpu && is.null(where) && Sys.info()[["sysname"]] == "Linux") {
    small <- c("install", "--no-deps", "--retries", "1", "--index-url", CPU_TORCH, "torch")
    if (!inherits(try(pip(python, small), silent = TRUE), "try-error")) {
      return(invisible())
    }
  }
  pip(python, c("install", if (torch %in% c("auto", "cpu", "cuda")) "torch" else torch, where))
}

# Sources are built outside the library, which may be read-only.
as_wheel <- function(python, engine, where) {
  if (!dir.exists(engine)) {
    return(engine)
  }
  work <- tempfile("scduet-engine-")
  dir.create(work)
  file.copy(engine, work, recursive = TRUE)
  pip(python, c("wheel", "--no-deps", "--wheel-dir", work, file.path(work, basename(engine)), where))
  list.files(work, "[.]whl$", full.names = TRUE)[1]
}

pip <- function(python, what, call = rlang::caller_env()) {
  arguments <- c("-m", "pip", what)
  inform_scduet(paste(c(python, arguments), collapse = " "))
  done <- run_python(python, arguments)
  if (done$status != 0) {
    last <- done$output[seq_along(done$output) > length(done$output) - 5]
    abort_scduet(
      "pip could not install the engine.",
      c("Without network: `find_links` and `offline = TRUE`. pip's last words:", last), "install", call
    )
  }
}

# Run Python in a process of its own. R's own library path would give it the wrong libpython on Debian.
run_python <- function(python, arguments) {
  kept <- Sys.getenv("LD_LIBRARY_PATH", NA)
  Sys.unsetenv("LD_LIBRARY_PATH")
  on.exit(if (!is.na(kept)) Sys.setenv(LD_LIBRARY_PATH = kept))
  output <- tryCatch(
    suppressWarnings(system2(python, shQuote(arguments), stdout = TRUE, stderr = TRUE)),
    error = function(e) structure(conditionMessage(e), status = 127L)
  )
  status <- attr(output, "status")
  list(status = if (is.null(status)) 0L else status, output = as.character(output))
}

PROBE <- "
import json, sys, warnings; warnings.simplefilter('ignore')
from scduet.interop import reticulate as r
v = r.versions(); print('\\n'.join(f'{k}={v[k]}' for k in v)); print(f'protocol={r.PROTOCOL}')
"

# What a Python has of the engine, found out in a child process: a named list, with `problem` if it does not work.
probe <- function(python) {
  ran <- run_python(python, c("-c", PROBE))
  if (ran$status != 0) {
    return(list(problem = paste("cannot load scduet:", ran$output[length(ran$output)])))
  }
  pairs <- regmatches(ran$output, regexpr("=", ran$output), invert = TRUE)
  found <- Filter(function(pair) length(pair) == 2, pairs)
  found <- rlang::set_names(lapply(found, `[`, 2), vapply(found, `[`, "", 1))
  if (!identical(as.integer(found$protocol), PROTOCOL)) {
    found$problem <- sprintf("its bridge has version %s, this package needs %d", found$protocol, PROTOCOL)
  }
  found
}

report_installed <- function(found, python, call = rlang::caller_env()) {
  if (!is.null(found$problem)) {
    abort_scduet(sprintf("The engine was installed into %s but %s.", python, found$problem), "See `scduet_sitrep()`.", "install", call)
  }
  bound <- reticulate::py_available(initialize = FALSE) && !same_file(reticulate::py_config()$python, python)
  ready <- if (bound) "Installed. Restart R: this session already runs another Python." else "Ready."
  inform_scduet(sprintf("%s scduet %s, torch %s, device %s.", ready, found$scduet, found$torch, found$device))
  invisible(python)
}

same_file <- function(a, b) identical(normalizePath(a, mustWork = FALSE), normalizePath(b, mustWork = FALSE))
