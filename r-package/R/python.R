# The only file that calls reticulate: starts the engine, calls its functions, and turns its errors into R conditions.

PROTOCOL <- 3L # matches PROTOCOL in scduet/interop/reticulate.py; increment when both must change together
the <- new.env(parent = emptyenv()) # session state: `engine` once it has started

# Call the engine's function `what`. Its errors become R errors of class `scduet_error_<kind>`, its warnings R warnings
# of class `scduet_warning`. The value stays a Python object: see `py_value()`.
ask <- function(what, ..., call = rlang::caller_env()) {
  module <- engine(call) # first, because reticulate would otherwise choose a Python
  arguments <- list(...)
  keys <- reticulate::py_dict(as.list(names(arguments)), unname(arguments))
  answer <- module$ask(what, keys)
  for (noted in py_value(answer$warnings)) warn_scduet(in_r_words(noted))
  problem <- py_value(answer$error)
  if (!is.null(problem)) abort_python(problem, call)
  answer$value
}

# A plain Python value (text, number, list, dict, bytearray) as R's.
py_value <- function(x) reticulate::py_to_r(x)

# A Python list as an R list of Python objects.
py_list <- function(x) lapply(seq_len(reticulate::py_len(x)) - 1L, function(place) x[place])

# An R function that Python may call with plain values.
py_callback <- function(fun) if (is.null(fun)) NULL else reticulate::r_to_py(fun, convert = TRUE)

# The Python module that sends and receives bytes.
codec <- function() engine()$codec

# Bytes [from, to) of a Python array as a raw vector. Converted immediately so that Python can free each chunk; Python
# objects referenced by R live until R's next garbage collection.
raw_chunk <- function(array, from, to, kind) converting("codec")$chunk(array, from, to, kind)

# Let Python write `array` to the new R vector at this address.
write_direct <- function(array, kind, address) converting("r_memory")$write(array, kind, address)

# Whether Python can access R's vectors in memory; tested once per session, on two numbers.
is_direct <- function() {
  if (is.null(the$direct)) {
    known <- c(1.5, -2)
    the$direct <- isTRUE(tryCatch(converting("r_memory")$reads(rlang::obj_address(known), as.list(known)), error = function(e) FALSE))
  }
  the$direct && getOption("scduet.direct", TRUE)
}

converting <- function(module) {
  if (is.null(the[[module]])) the[[module]] <- reticulate::import(paste0("scduet.interop.", module), convert = TRUE)
  the[[module]]
}

is_anndata <- function(x) inherits(x, "anndata._core.anndata.AnnData")

engine <- function(call = rlang::caller_env()) {
  if (is.null(the$engine)) the$engine <- start_engine(call)
  the$engine
}

start_engine <- function(call) {
  found <- which_python()
  refuse_no_python(found, call)
  if (!nzchar(Sys.getenv("TORCHINDUCTOR_CACHE_DIR"))) { # otherwise torch leaves a folder in the shared temporary folder
    Sys.setenv(TORCHINDUCTOR_CACHE_DIR = file.path(tempdir(), "torchinductor"))
  }
  managed <- found$python == MANAGED
  if (managed) announce_managed()
  module <- tryCatch(
    {
      declare_engine()
      with_python(found$python, reticulate::import("scduet.interop.reticulate", convert = FALSE))
    },
    error = function(e) if (managed) abort_not_managed(call) else abort_no_engine(e, found$python, call)
  )
  check_protocol(as.integer(py_value(module$PROTOCOL)), call)
  module
}

# Fail before reticulate creates an environment or picks any Python it finds.
refuse_no_python <- function(found, call) {
  if (is.null(found)) {
    abort_scduet(
      "The Python engine of scduet is not installed.",
      "Run `install_scduet()` once; `scduet_sitrep()` shows what is installed.",
      "no_engine", call
    )
  }
  if (found$python != MANAGED && !file.exists(found$python)) {
    abort_scduet(
      sprintf("The Python selected by %s does not exist: %s.", found$by, found$python),
      sprintf("Correct %s or unset it, and restart R; `install_scduet()` makes an environment with the engine.", found$by),
      "no_engine", call
    )
  }
}

abort_no_engine <- function(e, python, call) {
  abort_scduet(
    sprintf("The Python in use, %s, cannot load the engine of scduet.", python),
    c(
      "Run `install_scduet()`, restart R and try again; `scduet_sitrep()` shows what is wrong.",
      sub("\n.*", "", conditionMessage(e))
    ),
    "no_engine", call
  )
}

check_protocol <- function(found, call = rlang::caller_env()) {
  if (identical(found, PROTOCOL)) {
    return(invisible(TRUE))
  }
  abort_scduet(
    sprintf("The Python engine uses version %d of the bridge, but this R package needs version %d.", found, PROTOCOL),
    if (found < PROTOCOL) "Run `install_scduet(force = TRUE)` and restart R." else "Update the R package scduet.",
    "protocol", call
  )
}

abort_python <- function(problem, call) {
  kind <- tolower(sub("(Error|Exception)$", "", problem$type))
  abort_scduet(
    in_r_words(problem$message), hint_in_r(problem, call), c(kind, "python"), call,
    python_type = problem$type, traceback = problem$traceback, cells = unlist(problem$details$cells)
  )
}

#' Convert a Seurat object for Python
#'
#' In R Markdown and Quarto, `r.obj` in a Python chunk is an AnnData if `obj` is a Seurat object. The method is
#' registered when reticulate is loaded, so that `library(scduet)` does not load it.
#' @param x A Seurat object or SingleCellExperiment.
#' @param convert Passed on by reticulate.
#' @returns A Python object.
#' @rawNamespace S3method(reticulate::r_to_py, Seurat)
#' @keywords internal
r_to_py.Seurat <- function(x, convert = FALSE) as_anndata(x)

#' @rdname r_to_py.Seurat
#' @rawNamespace S3method(reticulate::r_to_py, SingleCellExperiment)
r_to_py.SingleCellExperiment <- function(x, convert = FALSE) as_anndata(x)
