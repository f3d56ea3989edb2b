#' Find doublets
#'
#' Scores how much each cell looks like two cells, and calls as many doublets as are to be expected in its capture.
#'
#' A score is no probability: the true doublets are among the cells that the method takes for single ones. An average
#' precision of 0.4 is usual on real captures, and doublets of two cells of one type are not found. In published
#' comparisons the Bioconductor package scDblFinder does best; it needs no Python.
#'
#' @param object A Seurat object or SingleCellExperiment with raw counts.
#' @param batch Column of the metadata with the capture of each cell (lane, 10x library). Two cells meet in one capture
#'   only, so captures are judged apart. `NULL` if there is one.
#' @param method "neighbors" looks at artificial doublets among the neighbors of a cell, with gradient-boosted trees;
#'   "solo" trains a network on the states of a scVI; "scrublet" is that of scanpy.
#' @param rate Share of the cells that are doublets, or a named vector with one for each capture. `NULL` for that of a
#'   whole 10x capture, 0.8% for each 1,000 cells, which is wrong for a sample of a larger capture.
#' @param labels Column of the metadata with the cell types, which tells how many doublets are of two alike cells; `NULL`
#'   for clusters.
#' @param features Genes to use; `NULL` for the variable features, else all.
#' @inheritParams NormalizeExpression
#' @param ... For "solo": options of its scVI, e.g. `max_epochs`.
#' @returns The object with the columns `doublet.score` (0 to 1) and `doublet.class` ("singlet" or "doublet"). A table of
#'   the captures is in `Misc(object, "scduet.doublets")` or `metadata(object)$scduet.doublets`: number of cells, `rate`,
#'   `heterotypic` (share of doublets of two types), number of doublets called and lowest score called.
#' @references Bernstein et al. (2020), Solo: doublet identification in single-cell RNA-seq via semi-supervised deep
#'   learning, \doi{10.1016/j.cels.2020.05.010}; Germain et al. (2021), Doublet identification in single-cell sequencing
#'   data using scDblFinder, \doi{10.12688/f1000research.73600.2}
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' counts <- Matrix::Matrix(rpois(60 * 150, 2), 60, sparse = TRUE,
#'   dimnames = list(paste0("gene", 1:60), paste0("cell", 1:150))
#' )
#' obj <- SeuratObject::CreateSeuratObject(counts)
#' obj <- FindDoublets(obj, rate = 0.08)
#' table(obj$doublet.class)
#' obj <- subset(obj, doublet.class == "singlet")
FindDoublets <- function(object, batch = NULL, method = "neighbors", rate = NULL, labels = NULL, assay = NULL,
                         layer = "counts", features = NULL, seed.use = 42, verbose = TRUE, ...) {
  check_text(method, "method")
  check_flag(verbose, "verbose")
  options <- list(...)
  check_option_names(options, rlang::current_env())
  parts <- parts_of(object, assay, layer)
  check_column(parts$cells, batch, "batch")
  check_column(parts$cells, labels, "labels")
  fixed <- list(
    batch_key = batch, labels_key = labels, rate = if (is.null(names(rate))) rate else as.list(rate),
    seed = check_whole(seed.use, "seed.use")
  )
  found <- ask("find_doublets",
    adata = denoisable(parts, assay, features, verbose, c(batch, labels)), method = method,
    options = c(Filter(Negate(is.null), fixed), lapply(options, as_option)), callback = py_callback(new_reporter(verbose))
  )
  cells <- receive_frame(found$cells)
  table <- receive_frame(found$captures)
  inform_scduet(sprintf("%d of %d cells called doublets.", sum(table$n_called), nrow(parts$cells)), verbose)
  object <- put_column(object, "doublet.score", cells$doublet_score, rownames(parts$cells))
  class <- ifelse(cells$predicted_doublet, "doublet", "singlet")
  object <- put_column(object, "doublet.class", class, rownames(parts$cells))
  put_misc(object, "scduet.doublets", table)
}

# A value beside the data: Misc() of a Seurat object, metadata() of a SingleCellExperiment.
put_misc <- function(object, name, value) {
  object <- known_object(object)
  if (inherits(object, "Seurat")) {
    methods::slot(object, "misc")[[name]] <- value
    return(object)
  }
  kept <- S4Vectors::metadata(object)
  kept[[name]] <- value
  methods::slot(object, "metadata") <- kept
  object
}
