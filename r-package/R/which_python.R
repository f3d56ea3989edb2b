# Selects the Python for the engine. `which_python()` is used to start, install and inspect it.

ENVIRONMENT <- "r-scduet"

# The path of the selected Python and how it was selected, by precedence; NULL if none is. The path is MANAGED if
# reticulate will create an environment.
which_python <- function() {
  if (reticulate::py_available(initialize = FALSE)) {
    return(list(python = reticulate::py_config()$python, by = "running in this session"))
  }
  for (named in list(chosen_python, installed_python, active_python)) {
    found <- named()
    if (!is.null(found)) {
      return(found)
    }
  }
  if (can_manage()) unasked_environment()
}

unasked_environment <- function() list(python = MANAGED, by = "reticulate::py_require()")

# The user's choice. RETICULATE_PYTHON is returned even if it does not exist: reticulate uses no other then, so it is an
# error.
chosen_python <- function() {
  set <- Sys.getenv(set_names(c("RETICULATE_PYTHON", "RETICULATE_PYTHON_ENV", "VIRTUAL_ENV")))
  required <- bridge_state("required_python_version")
  if (set[["RETICULATE_PYTHON"]] == MANAGED && !is.null(py_require())) {
    return(list(python = MANAGED, by = "RETICULATE_PYTHON"))
  }
  if (!set[["RETICULATE_PYTHON"]] %in% c("", MANAGED)) { # older versions of reticulate know no "managed"
    path <- path.expand(set[["RETICULATE_PYTHON"]])
    return(list(python = if (dir.exists(path)) python_in(path) else path, by = "RETICULATE_PYTHON"))
  }
  if (nzchar(set[["RETICULATE_PYTHON_ENV"]])) {
    return(list(python = environment_python(set[["RETICULATE_PYTHON_ENV"]]), by = "RETICULATE_PYTHON_ENV"))
  }
  if (!is.null(required)) {
    return(list(python = path.expand(required), by = "reticulate::use_python() or use_virtualenv()"))
  }
  if (can_manage() && managed_wish() == "yes") {
    return(list(python = MANAGED, by = "RETICULATE_USE_MANAGED_VENV"))
  }
  active <- python_in(path.expand(set[["VIRTUAL_ENV"]]))
  if (nzchar(set[["VIRTUAL_ENV"]]) && file.exists(active) && !is_passing(active)) list(python = active, by = "VIRTUAL_ENV")
}

# The environment last used by install_scduet(), or its default one.
installed_python <- function() {
  found <- Filter(file.exists, c(remembered_python(), environment_python(ENVIRONMENT)))
  if (length(found)) list(python = found[[1]], by = "install_scduet()")
}

# Active environments that may have the engine: hints to reticulate, a conda environment other than "base".
active_python <- function() {
  conda <- Sys.getenv("CONDA_PREFIX")
  conda <- if (nzchar(conda) && Sys.getenv("CONDA_DEFAULT_ENV") != "base") file.path(conda, "bin", "python")
  hints <- bridge_state("use_python_versions")
  for (found in list(list(python = hints, by = "reticulate::use_python()"), list(python = conda, by = "CONDA_PREFIX"))) {
    there <- Filter(file.exists, path.expand(as.character(found$python)))
    if (length(there)) {
      return(list(python = there[[1]], by = found$by))
    }
  }
}

# reticulate has no function that returns the choice of use_virtualenv() etc. without searching for more Pythons.
bridge_state <- function(name) {
  state <- get0(".globals", asNamespace("reticulate"))
  if (is.environment(state)) get0(name, state, inherits = FALSE)
}

# Whether this is a temporary environment in reticulate's cache; reticulate sets VIRTUAL_ENV to it while it runs.
is_passing <- function(python) {
  startsWith(python, paste0(normalizePath(tools::R_user_dir("reticulate", "cache"), mustWork = FALSE), "/"))
}

environment_python <- function(envname) {
  python_in(path.expand(if (grepl("[/\\\\]", envname)) envname else file.path(reticulate::virtualenv_root(), envname)))
}

python_in <- function(folder) {
  if (.Platform$OS.type == "windows") file.path(folder, "Scripts", "python.exe") else file.path(folder, "bin", "python")
}

same_file <- function(a, b) identical(normalizePath(a, mustWork = FALSE), normalizePath(b, mustWork = FALSE))

# The Python that install_scduet() last used, kept in this session and in a file for later ones.
remembered_python <- function() {
  file <- memory_file()
  if (!is.null(the$python)) the$python else if (file.exists(file)) readLines(file, n = 1, encoding = "UTF-8")
}

remember_python <- function(python) {
  the$python <- python
  file <- memory_file()
  kept <- tryCatch(
    {
      dir.create(dirname(file), recursive = TRUE, showWarnings = FALSE)
      writeLines(enc2utf8(python), file, useBytes = TRUE)
      TRUE
    },
    error = function(e) FALSE, warning = function(w) FALSE
  )
  if (!kept && !same_file(python, environment_python(ENVIRONMENT))) {
    warn_scduet(sprintf("%s cannot be written: set RETICULATE_PYTHON=%s in the next session.", file, python), "memory")
  }
}

memory_file <- function() file.path(tools::R_user_dir("scduet", "config"), "python")

# RETICULATE_PYTHON takes precedence in reticulate, which reads it once, when Python starts.
with_python <- function(python, code) {
  kept <- Sys.getenv("RETICULATE_PYTHON", NA)
  on.exit(if (is.na(kept)) Sys.unsetenv("RETICULATE_PYTHON") else Sys.setenv(RETICULATE_PYTHON = kept))
  Sys.setenv(RETICULATE_PYTHON = python)
  code
}
