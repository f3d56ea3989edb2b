#' Install the Python engine
#'
#' Creates a virtual environment (never a conda environment) with the engine and its dependencies, by default
#' `~/.virtualenvs/r-scduet` (or in `WORKON_HOME`). The engine itself is bundled with this R package and never
#' downloaded from an index. An incomplete environment is removed if the installation fails.
#'
#' # Choosing the Python
#'
#' For installing and running the engine, scduet uses the first of the following; [scduet_sitrep()] shows which one:
#'
#' 1. `RETICULATE_PYTHON`, the path of a Python, or `RETICULATE_PYTHON_ENV`, an environment; e.g. in `~/.Renviron`.
#' 2. `reticulate::use_virtualenv()`, `use_python()` or `use_condaenv()`, called in this session before Python starts.
#' 3. `VIRTUAL_ENV`: the environment that was active when R was started.
#' 4. The environment last used by `install_scduet()`. Its path is saved in
#'    `tools::R_user_dir("scduet", "config")`, so that `install_scduet(envname = "~/envs/scduet")` is needed only once.
#' 5. The environment "r-scduet".
#' 6. A hint by `use_python(required = FALSE)`, or an active conda environment other than "base".
#' 7. With reticulate 1.41 or newer: a temporary environment that reticulate creates of the engine and its dependencies,
#'    so that `install_scduet()` need not be called. See below.
#'
#' If a Python is selected by 1 to 3, the engine is installed there unless `envname` is given. To switch to another
#' Python after Python has started, restart R.
#'
#' # Without install_scduet()
#'
#' The engine is declared by `reticulate::py_require()`. If no Python was selected or installed, reticulate downloads uv,
#' a Python and the engine's dependencies when the engine is first used, and keeps them in its cache for later sessions.
#' `RETICULATE_PYTHON=managed` selects this environment even if another is installed, `RETICULATE_USE_MANAGED_VENV=no`
#' turns it off. Use `install_scduet()` for old versions of reticulate, without network access, or to choose the build of
#' torch: on Linux uv takes the CUDA build, which is 2.5 GB larger than that for the CPU.
#' @param python Path of a Python (3.10 or newer) to create the environment with; `NULL` to search for one.
#' @param torch PyTorch build: "cpu", "cuda", "auto" (the CUDA build if there is an NVIDIA GPU), or a requirement such
#'   as "torch==2.7.1".
#' @param find_links Folder or page with wheels to install from, e.g. without network access.
#' @param index_url Package index to use instead of pip's own.
#' @param offline Use `find_links` only, no index.
#' @param force Reinstall even if a working engine is found.
#' @param source Wheel or source folder of the engine; `NULL` for the one bundled with this package.
#' @param envname Name or path of the environment, created if it does not exist. `NULL` for the Python selected as
#'   described below, or "r-scduet".
#' @param ask Ask before installing into a Python environment that scduet did not create.
#' @param harmony Also install the Python package harmonypy, so that [ScoreIntegration()] compares with Harmony. It is
#'   optional because its license is GPL-3; scduet is BSD-3-Clause.
#' @returns The path of the Python, invisibly.
#' @family set-up
#' @export
#' @examples
#' \dontrun{
#' install_scduet()
#' install_scduet(harmony = TRUE) # adds Harmony to an installed engine
#' install_scduet(envname = "~/envs/scduet") # used from now on
#' install_scduet(find_links = "/shared/wheels", offline = TRUE)
#' }
install_scduet <- function(python = NULL, torch = "auto", find_links = NULL, index_url = NULL, offline = FALSE,
                           force = FALSE, source = NULL, envname = NULL, ask = interactive(), harmony = FALSE) {
  check_text(torch, "torch")
  check_flag(offline, "offline")
  check_flag(harmony, "harmony")
  check_text(envname, "envname", optional = TRUE)
  target <- install_target(envname)
  found <- if (file.exists(target$python)) probe(target$python) else list(problem = "is not there")
  works <- is.null(found$problem) && !force
  if (works && (!harmony || !is.null(found$harmony))) {
    remember_python(target$python)
    inform_scduet(sprintf("A working engine is already installed: %s. Use `force = TRUE` to reinstall it.", target$python))
    return(invisible(target$python))
  }
  if (!target$by %in% c("install_scduet()", "envname") && ask && !agreed(target$python)) {
    return(invisible(target$python))
  }
  where <- c(
    if (offline) "--no-index",
    if (!is.null(find_links)) c("--find-links", path.expand(find_links)),
    if (!is.null(index_url)) c("--index-url", index_url)
  )
  if (!works) found <- install_engine(target$python, engine_source(source), python, torch, where)
  remember_python(target$python)
  if (harmony) install_harmony(target$python, where)
  report_installed(found, target$python)
}

# The Python to install into: `envname`, else the one the user selected or last installed into, else a new environment.
install_target <- function(envname) {
  if (!is.null(envname)) {
    return(list(python = environment_python(envname), by = "envname"))
  }
  for (found in list(chosen_python(), installed_python())) {
    if (!is.null(found) && found$python != MANAGED) {
      return(found)
    }
  }
  list(python = environment_python(ENVIRONMENT), by = "install_scduet()")
}

# Install the engine into the environment of `target`. A new environment is removed if that fails or is interrupted.
install_engine <- function(target, engine, python, torch, where) {
  force(engine) # fail before creating anything if it is missing
  whole <- file.exists(target)
  folder <- dirname(dirname(target))
  if (!whole) {
    found <- find_python(python) # searched first, so that a missing Python is the error shown
    refuse_other_folder(folder)
    on.exit(if (!whole) unlink(folder, recursive = TRUE))
    make_environment(folder, found)
  }
  inform_scduet("Downloading torch and other dependencies takes a few minutes; each command is shown as it runs.")
  install_torch(target, torch, where)
  wheel <- as_wheel(target, engine, where)
  pip(target, c("install", "--force-reinstall", "--no-deps", wheel, where))
  pip(target, c("install", wheel, where)) # its dependencies
  found <- probe(target)
  refuse_broken(found, target)
  whole <- TRUE
  found
}

refuse_other_folder <- function(folder, call = rlang::caller_env()) {
  if (length(list.files(folder, all.files = TRUE, no.. = TRUE))) {
    abort_scduet(
      sprintf("%s is neither empty nor a virtual environment.", folder),
      "Choose another `envname`, or remove the folder.", "no_environment", call
    )
  }
}

HARMONY <- "harmonypy>=0.0.10" # as the extra `baselines` of the engine

install_harmony <- function(python, where) {
  inform_scduet("Harmony is provided by the Python package harmonypy (license: GPL-3); scduet itself is BSD-3-Clause.")
  pip(python, c("install", HARMONY, where), "Harmony")
}

# `make wheel` puts a wheel into the R package. A checkout has links to the sources instead, which `R CMD build` and `R
# CMD INSTALL` follow, so that installing from GitHub needs no wheel in git.
engine_source <- function(source = NULL, call = rlang::caller_env()) {
  if (is.null(source)) {
    folder <- system.file("python", package = "scduet")
    wheel <- list.files(folder, "^scduet-.*[.]whl$", full.names = TRUE)
    source <- if (length(wheel)) wheel[1] else file.path(folder, "source")
  }
  if (!file.exists(source) || (dir.exists(source) && !file.exists(file.path(source, "pyproject.toml")))) {
    abort_scduet(
      "The Python engine is not bundled with this R package.",
      "Pass the path of its wheel or of the scduet sources (the folder with pyproject.toml) as `source`.", "no_source",
      call
    )
  }
  normalizePath(source)
}

agreed <- function(python) {
  answer <- readline(sprintf("Install the engine of scduet into %s? [y/N] ", python))
  tolower(substr(answer, 1, 1)) == "y"
}

# Find a Python that reticulate can load: new enough, not too new for this reticulate, with a shared library and the
# ability to create environments (separate packages on Debian).
find_python <- function(python, call = rlang::caller_env()) {
  bridge <- package_version(getNamespaceVersion("reticulate"))
  newest <- if (bridge >= "1.44") 14 else if (bridge >= "1.40") 13 else if (bridge >= "1.33") 12 else 11
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
  uv <- if (nzchar(Sys.which("uv"))) "True" else "False" # creates environments without ensurepip
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
    unlink(folder, recursive = TRUE) # a partial environment would be mistaken for a complete one
    abort_scduet(
      sprintf("Could not create the virtual environment %s.", folder),
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

# Build sources outside the library, which may be read-only.
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

pip <- function(python, what, of = "the engine", call = rlang::caller_env()) {
  arguments <- c("-m", "pip", what)
  inform_scduet(paste(c(python, arguments), collapse = " "))
  done <- run_python(python, arguments)
  if (done$status != 0) {
    last <- done$output[seq_along(done$output) > length(done$output) - 5]
    abort_scduet(
      sprintf("pip could not install %s.", of),
      c("Without network access, use `find_links` and `offline = TRUE`. Last output of pip:", last), "install", call
    )
  }
}

# Run Python in a separate process. R's library path would give it the wrong libpython on Debian.
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
from importlib import metadata, util
from scduet.interop import reticulate as r
v = r.versions()
if util.find_spec('harmonypy'): v['harmony'] = metadata.version('harmonypy')
print('\\n'.join(f'{k}={v[k]}' for k in v)); print(f'protocol={r.PROTOCOL}')
"

# Versions of the engine in a Python, from a child process: a named list, with `problem` if it does not work.
probe <- function(python) {
  ran <- run_python(python, c("-c", PROBE))
  if (ran$status != 0) {
    return(list(problem = paste("cannot load scduet:", ran$output[length(ran$output)])))
  }
  pairs <- regmatches(ran$output, regexpr("=", ran$output), invert = TRUE)
  found <- Filter(function(pair) length(pair) == 2, pairs)
  found <- rlang::set_names(lapply(found, `[`, 2), vapply(found, `[`, "", 1))
  if (!identical(as.integer(found$protocol), PROTOCOL)) {
    found$problem <- sprintf("its bridge has version %s, but this package needs %d", found$protocol, PROTOCOL)
  }
  found
}

refuse_broken <- function(found, python, call = rlang::caller_env()) {
  if (!is.null(found$problem)) {
    abort_scduet(
      sprintf("The engine was installed into %s but %s.", python, found$problem),
      "Try another `torch` or `python`; `scduet_sitrep()` shows what is installed.", "install", call
    )
  }
}

report_installed <- function(found, python) {
  used <- which_python()
  ready <- if (is.null(used) || same_file(used$python, python)) {
    "Ready."
  } else if (reticulate::py_available(initialize = FALSE)) {
    "Installed. Restart R to use it: this session runs another Python."
  } else {
    sprintf("Installed, but %s takes precedence and points to %s; unset it.", used$by, used$python)
  }
  inform_scduet(sprintf("%s scduet %s, torch %s, device %s.", ready, found$scduet, found$torch, found$device))
  invisible(python)
}
