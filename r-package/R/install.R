#' Install the Python engine
#'
#' Makes a virtual environment (never a conda one) with the engine and what it needs, by default
#' `~/.virtualenvs/r-scduet` (or in `WORKON_HOME`). The engine itself comes from the file inside this R package; its name is
#' never looked up on an index. An environment that could not be completed is removed again.
#'
#' # Choosing the Python
#'
#' scduet takes the first of these, in every session and for installing too; [scduet_sitrep()] shows which:
#'
#' 1. `RETICULATE_PYTHON`, the path of a Python, or `RETICULATE_PYTHON_ENV`, an environment; e.g. in `~/.Renviron`.
#' 2. `reticulate::use_virtualenv()`, `use_python()` or `use_condaenv()`, called in this session before Python is started.
#' 3. `VIRTUAL_ENV`: the environment that was active when R was started.
#' 4. The environment that `install_scduet()` worked in last. Its path is kept in a file in
#'    `tools::R_user_dir("scduet", "config")`, so that `install_scduet(envname = "~/envs/scduet")` is needed only once.
#' 5. The environment "r-scduet".
#' 6. A hint by `use_python(required = FALSE)`, or an active conda environment other than "base".
#'
#' If you have chosen a Python by 1 to 3, the engine is installed there, unless `envname` names another environment. Once
#' Python runs in an R session it cannot be replaced: restart R.
#'
#' @param python Python to make the environment with, 3.10 or newer; `NULL` to look for one.
#' @param torch Which PyTorch: "auto" takes the CUDA build if there is an NVIDIA GPU, else the CPU build; "cpu", "cuda"; or
#'   a requirement such as "torch==2.7.1".
#' @param find_links Folder or page with wheels to install from, for machines without network.
#' @param index_url Package index to use instead of pip's own.
#' @param offline Use `find_links` only, no index.
#' @param force Install even if a working engine is there.
#' @param source Wheel or source folder of the engine; `NULL` for the one inside this package.
#' @param envname Name of the environment, or its path; made if it is not there. `NULL` for the Python that you have chosen,
#'   the environment installed into before, or "r-scduet".
#' @param ask Ask before anything is installed into a Python of yours.
#' @param harmony Also install the Python package harmonypy, so that [ScoreIntegration()] compares with Harmony. It is an
#'   extra because its licence is the GPL-3; scduet is under BSD-3-Clause.
#' @returns The path of the Python, invisibly.
#' @family set-up
#' @export
#' @examples
#' \dontrun{
#' install_scduet()
#' install_scduet(harmony = TRUE) # adds Harmony to an engine that is there
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
    inform_scduet(sprintf("The engine is installed and works: %s. `force = TRUE` installs it again.", target$python))
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

# The Python to install into: that of `envname`; else what the user chose or was installed into before; else a new one.
install_target <- function(envname) {
  if (!is.null(envname)) {
    return(list(python = environment_python(envname), by = "envname"))
  }
  for (found in list(chosen_python(), installed_python())) {
    if (!is.null(found)) {
      return(found)
    }
  }
  list(python = environment_python(ENVIRONMENT), by = "install_scduet()")
}

# Fills the environment of `target`. One that is made here is removed when something fails or is interrupted; one that was
# there before stays.
install_engine <- function(target, engine, python, torch, where) {
  force(engine) # that there is none is told before anything is made
  whole <- file.exists(target)
  folder <- dirname(dirname(target))
  if (!whole) {
    found <- find_python(python) # looked for here, so that not finding one is the error that is seen
    refuse_other_folder(folder)
    on.exit(if (!whole) unlink(folder, recursive = TRUE))
    make_environment(folder, found)
  }
  inform_scduet("Downloading torch and what the engine needs takes some minutes; the commands are shown as they run.")
  install_torch(target, torch, where)
  wheel <- as_wheel(target, engine, where)
  pip(target, c("install", "--force-reinstall", "--no-deps", wheel, where))
  pip(target, c("install", wheel, where)) # what the engine needs
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
  inform_scduet("Harmony comes as the Python package harmonypy, whose licence is the GPL-3; scduet itself is under BSD-3-Clause.")
  pip(python, c("install", HARMONY, where), "Harmony")
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

pip <- function(python, what, of = "the engine", call = rlang::caller_env()) {
  arguments <- c("-m", "pip", what)
  inform_scduet(paste(c(python, arguments), collapse = " "))
  done <- run_python(python, arguments)
  if (done$status != 0) {
    last <- done$output[seq_along(done$output) > length(done$output) - 5]
    abort_scduet(
      sprintf("pip could not install %s.", of),
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
from importlib import metadata, util
from scduet.interop import reticulate as r
v = r.versions()
if util.find_spec('harmonypy'): v['harmony'] = metadata.version('harmonypy')
print('\\n'.join(f'{k}={v[k]}' for k in v)); print(f'protocol={r.PROTOCOL}')
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

refuse_broken <- function(found, python, call = rlang::caller_env()) {
  if (!is.null(found$problem)) {
    abort_scduet(
      sprintf("The engine was installed into %s but %s.", python, found$problem),
      "Try another `torch` or `python`; `scduet_sitrep()` shows what is there.", "install", call
    )
  }
}

report_installed <- function(found, python) {
  used <- which_python()
  ready <- if (is.null(used) || same_file(used$python, python)) {
    "Ready."
  } else if (reticulate::py_available(initialize = FALSE)) {
    "Installed. Restart R: this session already runs another Python."
  } else {
    sprintf("Installed, but %s goes first and names %s: unset it.", used$by, used$python)
  }
  inform_scduet(sprintf("%s scduet %s, torch %s, device %s.", ready, found$scduet, found$torch, found$device))
  invisible(python)
}
