#' Report the installation and its problems
#'
#' Prints the versions of R, Seurat, reticulate, Python and the engine, the device and BLAS that the engine uses, and a
#' remedy for each problem. The row `Python` shows the Python that scduet uses and how it was selected; to select
#' another, see [install_scduet()]. `scduet_sitrep()` inspects Python in a separate process, without starting it in this
#' session; `scduet_available()` starts the engine, but lets reticulate create no environment for it (see
#' [install_scduet()]) unless you asked for one, e.g. by `RETICULATE_PYTHON=managed`.
#'
#' @returns `scduet_sitrep()`: a list of its findings, invisibly, with an empty element `problems` if everything works.
#'   `scduet_available()`: `TRUE` if the engine can be used, `FALSE` otherwise.
#' @family set-up
#' @export
#' @examples
#' scduet_sitrep()
scduet_sitrep <- function() {
  used <- which_python()
  managed <- identical(used$python, MANAGED)
  there <- !is.null(used) && file.exists(used$python)
  found <- if (there) probe(used$python) else list()
  problems <- problems_of(used, there, found)
  rows <- list(
    R = paste0(getRversion(), ", ", R.version$platform),
    scduet = version_of("scduet"), reticulate = version_of("reticulate"), Matrix = version_of("Matrix"),
    Seurat = version_of("Seurat"), SeuratObject = version_of("SeuratObject"),
    SingleCellExperiment = version_of("SingleCellExperiment"),
    Python = if (is.null(used)) "none chosen, none installed" else sprintf("%s (%s)", used$python, used$by),
    engine = if (managed) "created by reticulate when first used; `install_scduet()` creates a permanent one" else if (is.null(found$scduet)) "not found" else paste0("scduet ", found$scduet, ", Python ", found$python),
    stack = if (!is.null(found$torch)) sprintf("torch %s, numpy %s, anndata %s", found$torch, found$numpy, found$anndata),
    device = found$device,
    Harmony = if (!is.null(found$harmony)) {
      paste("harmonypy", found$harmony)
    } else if (!is.null(found$scduet)) {
      "not installed; `install_scduet(harmony = TRUE)` adds it to the scores"
    }
  )
  rows <- Filter(Negate(is.null), rows)
  cat(sprintf("%-21s %s", names(rows), unlist(rows)), sep = "\n")
  cat(if (length(problems)) paste("!", problems) else "Everything is in place.", sep = "\n")
  invisible(c(rows, list(problems = problems)))
}

#' @rdname scduet_sitrep
#' @export
scduet_available <- function() {
  if (is.null(the$engine) && identical(which_python(), unasked_environment())) {
    return(FALSE) # a download of gigabytes is no answer
  }
  !inherits(try(engine(), silent = TRUE), "try-error")
}

problems_of <- function(used, there, found) {
  bound <- if (!is.null(the$engine)) py_value(ask("versions"))
  c(
    if (is.null(used)) "The engine is not installed: run `install_scduet()`.",
    if (!is.null(used) && !there && used$python != MANAGED) sprintf("The selected Python, %s, does not exist: correct %s or unset it.", used$python, used$by),
    if (!is.null(found$problem)) sprintf("%s %s: run `install_scduet(force = TRUE)` and restart R.", used$python, found$problem),
    if (isFALSE(bound$deepbind)) "torch was imported before scduet and runs on R's slow BLAS: restart R and let scduet import it, or install OpenBLAS (`apt install libopenblas0`)."
  )
}

# Does not load the package, which takes seconds for Seurat.
version_of <- function(package) {
  file <- system.file("DESCRIPTION", package = package)
  if (nzchar(file)) read.dcf(file, "Version")[[1]] else "not installed"
}
