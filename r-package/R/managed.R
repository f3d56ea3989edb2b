# The temporary environment that reticulate (1.41 or newer) makes with uv of what packages declare by `py_require()`. Used
# where no Python was selected and `install_scduet()` was never called. See docs/design/0014-python-without-a-step.md.

MANAGED <- "managed" # as in RETICULATE_PYTHON=managed

# reticulate is loaded when first used, so that `library(scduet)` is quick.
.onLoad <- function(libname, pkgname) {
  declare <- function(...) try(declare_engine(), silent = TRUE) # `start_engine()` reports what fails
  if (isNamespaceLoaded("reticulate")) declare() else setHook(packageEvent("reticulate", "onLoad"), declare)
}

# Declare the engine, unless another Python is in use or would be used. Also called when Python runs in an environment
# that was made before this package was loaded; reticulate then adds what is new.
declare_engine <- function() {
  used <- which_python()
  if (identical(used$python, MANAGED) || (!is.null(used) && is_passing(used$python))) {
    for (package in required_packages()) py_require()(package)
  }
  invisible()
}

py_require <- function() get0("py_require", asNamespace("reticulate"))

required_packages <- function(bridge = getNamespaceVersion("reticulate")) {
  c(
    paste("scduet @", file_url(engine_archive())),
    if (package_version(bridge) < "1.45") "pandas<3" # older versions hand over data frames of pandas 3 unconverted
  )
}

# "yes" and "no" as reticulate reads RETICULATE_USE_MANAGED_VENV; "" if it is not set.
managed_wish <- function() {
  wish <- tolower(Sys.getenv("RETICULATE_USE_MANAGED_VENV"))
  if (wish %in% c("true", "1", "yes")) "yes" else if (wish %in% c("false", "0", "no")) "no" else ""
}

can_manage <- function() !is.null(py_require()) && managed_wish() != "no"

# The engine as a file that uv can build: the bundled wheel, or an archive of the bundled sources. uv unpacks an archive
# in its own cache, but builds a folder in place, and R's library may be read-only. The archive has a fixed path, because
# uv reuses an environment if its requirements are the same.
engine_archive <- function(source = engine_source()) {
  if (!dir.exists(source)) {
    return(source)
  }
  name <- paste0("scduet-", getNamespaceVersion("scduet"))
  made <- engine_stamp(source)
  archive <- file.path(tools::R_user_dir("scduet", "cache"), made, paste0(name, ".tar.gz"))
  if (!file.exists(archive)) {
    dir.create(dirname(archive), recursive = TRUE, showWarnings = FALSE)
    write_archive(source, name, archive)
  }
  archive
}

# Changes whenever the sources do.
engine_stamp <- function(source) {
  files <- sort(list.files(source, recursive = TRUE), method = "radix")
  files <- files[!grepl("__pycache__|[.]egg-info", files)]
  known <- tempfile()
  on.exit(unlink(known))
  writeLines(paste(files, tools::md5sum(file.path(source, files))), known)
  unname(substr(tools::md5sum(known), 1, 12))
}

write_archive <- function(source, name, archive) {
  work <- tempfile("scduet-archive-")
  folder <- file.path(work, name)
  dir.create(folder, recursive = TRUE)
  on.exit(unlink(work, recursive = TRUE))
  file.copy(list.files(source, full.names = TRUE), folder, recursive = TRUE)
  written <- file.path(work, basename(archive))
  old <- setwd(work)
  on.exit(setwd(old), add = TRUE, after = FALSE)
  suppressWarnings(utils::tar(written, name, compression = "gzip", tar = "internal")) # notes long paths
  part <- paste0(archive, ".", Sys.getpid())
  file.copy(written, part)
  file.rename(part, archive) # whole or not at all
}

file_url <- function(path) {
  path <- normalizePath(path, "/", mustWork = FALSE)
  utils::URLencode(paste0(if (startsWith(path, "/")) "file://" else "file:///", path))
}

# uv downloads much the first time; say so, and what to do instead.
announce_managed <- function() {
  cache <- file.path(tools::R_user_dir("reticulate", "cache"), "uv", "cache")
  if (!dir.exists(cache)) {
    inform_scduet(paste(
      "reticulate now creates a Python environment with the engine, which downloads torch and other packages once.",
      "`install_scduet()` creates a permanent one instead."
    ))
  }
}

abort_not_managed <- function(call) {
  abort_scduet(
    "reticulate could not create a Python environment with the engine of scduet.",
    c(
      "Its first use needs network access, to download uv, Python and packages; messages of uv are shown above.",
      "Without network access: `install_scduet(find_links = \"<folder of wheels>\", offline = TRUE)`, or set RETICULATE_PYTHON to a Python that has the engine."
    ),
    "no_engine", call
  )
}
