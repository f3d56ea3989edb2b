#' Cell types in spots and bulk samples
#'
#' `DeconvolveSpots()` estimates the proportions of a single-cell reference's cell types in each spot of a tissue, and says
#' how far to trust them. `DeconvolveBulk()` does so for bulk samples.
#'
#' For spots the default fits the Poisson likelihood from the composition common to all spots, for as many steps as half of
#' the molecules predicts the other half better, with a factor for each gene for the difference between the spots' technology
#' and the reference's. A message says so where one composition for all spots predicts held-out genes as well as the map
#' does: then the map shows noise. For bulk samples the default is least squares with weights, on marker genes. The
#' proportions of RCTD (package spacexr), CARD and MuSiC are computed by these packages.
#'
#' @param object A Seurat object or SingleCellExperiment of spots, with raw counts.
#' @param bulk A matrix or data frame of genes x samples: counts, or TPM.
#' @param reference A Seurat object or SingleCellExperiment of single cells, with raw counts.
#' @param labels Column of the reference's metadata with the cell types.
#' @param model "poisson" (of spots), "weighted_nnls" or "nnls"; or a deep model: "destvi" or "stereoscope" for spots,
#'   "scaden" for bulk samples.
#' @param per "cell" for shares of cells, by the mean total count of each type in the reference; "rna" for shares of RNA.
#' @param genes "variable" for the 2,000 genes that vary most in the reference, "markers" for up to 100 for each type, or
#'   names of genes. `NULL` for "markers" of "weighted_nnls" and of bulk samples, else "variable".
#' @param n.genes How many genes, or markers for each type; `NULL` for 2,000 and 100.
#' @param platform.effect Give each gene a factor for how much more the spots show of it than the reference.
#' @param assay,layer Assay and layer of `object` with raw counts; `NULL` for the default assay.
#' @param reference.assay,reference.layer Those of `reference`.
#' @param assay.name Name of the new assay. One of this name is replaced if this package made it; anything else of this
#'   name is an error.
#' @param seed.use Random seed of the halves of the molecules, and of the samples of genes.
#' @param verbose Show progress, and say what to know before reading the map.
#' @param expression Types whose counts in each mixture to return too, as a list of matrices (genes x mixtures).
#' @param ... Options of a deep model and its training, e.g. `max_epochs`; `reference_max_epochs` etc. are of the training on
#'   the reference.
#' @returns `DeconvolveSpots()`: the object with a new assay of types x spots in the layer `data`, so that
#'   `SpatialFeaturePlot(object, features = types)` shows them; a SingleCellExperiment gets it as an alternative experiment.
#'   `Misc(object, "scduet.deconvolution")`, or the entry of `metadata(object)`, is the list that `DeconvolveBulk()` returns:
#'   `proportions` and `spread` (standard deviations; mixtures x types), `agreement` (by method: how near its proportions are
#'   and how well it predicts held-out genes), `types` (number of cells, markers, most similar type), `genes` (why each was
#'   chosen), `mixtures` (share that is left unexplained), `notes`, and `expression`.
#' @references Cable et al. (2022), Robust decomposition of cell type mixtures in spatial transcriptomics,
#'   \doi{10.1038/s41587-021-00830-w}; Wang et al. (2019), Bulk tissue cell type deconvolution with multi-subject single-cell
#'   expression reference, \doi{10.1038/s41467-018-08023-x}
#' @seealso [GenerateCells()], [AnnotateCells()]
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' cells <- SeuratObject::pbmc_small # each cell as a spot
#' spots <- DeconvolveSpots(cells, cells, labels = "letter.idents")
#' spots[["proportions"]]
#'
#' bulk <- Pseudobulk(cells, sample = "groups")$counts
#' DeconvolveBulk(bulk, cells, labels = "letter.idents", genes = rownames(cells))$proportions
#'
#' \dontrun{
#' SpatialFeaturePlot(spots, features = rownames(spots[["proportions"]])) # of spots with an image
#' }
DeconvolveSpots <- function(object, reference, labels, model = "poisson", per = "cell", assay = NULL, layer = "counts",
                            reference.assay = NULL, reference.layer = "counts", genes = NULL, n.genes = NULL,
                            platform.effect = TRUE, assay.name = "proportions", expression = NULL, seed.use = 42,
                            verbose = TRUE, ...) {
  check_text(assay.name, "assay.name")
  check_flag(verbose, "verbose")
  check_assay_name(object, assay.name)
  options <- deconvolution_options(model, per, genes, n.genes, platform.effect, seed.use, list(...))
  parts <- parts_of(object, assay, layer)
  cells <- labeled_reference(reference, labels, reference.assay, reference.layer)
  found <- ask("deconvolve",
    adata = anndata_of(parts), reference = cells, labels_key = labels, options = options,
    expression = as.list(expression), callback = py_callback(new_reporter(verbose))
  )
  spots <- rownames(parts$cells)
  told <- receive_deconvolution(found, spots)
  object <- put_denoised(object, receive_denoised(found$proportions, spots), assay.name)
  put_misc(object, "scduet.deconvolution", told)
}

#' @rdname DeconvolveSpots
#' @export
DeconvolveBulk <- function(bulk, reference, labels, model = "weighted_nnls", per = "cell", reference.assay = NULL,
                           reference.layer = "counts", genes = NULL, n.genes = NULL, platform.effect = FALSE,
                           expression = NULL, seed.use = 42, verbose = TRUE, ...) {
  check_flag(verbose, "verbose")
  options <- deconvolution_options(model, per, genes, n.genes, platform.effect, seed.use, list(...))
  bulk <- as_matrix(bulk)
  cells <- labeled_reference(reference, labels, reference.assay, reference.layer)
  samples <- names_or(colnames(bulk), ncol(bulk), "sample")
  colnames(bulk) <- samples
  found <- ask("deconvolve",
    adata = as_anndata(bulk), reference = cells, labels_key = labels, options = options, bulk = TRUE,
    expression = as.list(expression), callback = py_callback(new_reporter(verbose))
  )
  receive_deconvolution(found, samples)
}

deconvolution_options <- function(model, per, genes, n.genes, platform.effect, seed.use, others, call = rlang::caller_env()) {
  check_option_names(others, call)
  check_text(model, "model", call = call)
  check_text(per, "per", call = call)
  check_flag(platform.effect, "platform.effect", call = call)
  options <- list(
    model = model, per = per, genes = if (length(genes) > 1) as.list(genes) else genes,
    n_genes = if (is.null(n.genes)) NULL else check_whole(n.genes, "n.genes"), platform_effect = platform.effect,
    seed = check_whole(seed.use, "seed.use")
  )
  c(Filter(Negate(is.null), options), lapply(others, as_option))
}

# The counts of the reference, with its cell types.
labeled_reference <- function(reference, labels, assay, layer, call = rlang::caller_env()) {
  parts <- parts_of(reference, assay, layer, call = call)
  check_text(labels, "labels", call = call)
  check_column(parts$cells, labels, "labels", call = call)
  anndata_of(parts, columns = labels)
}

# Proportions and what is told beside them, as matrices of mixtures x types, data frames and text.
receive_deconvolution <- function(found, mixtures) {
  matrix_of <- function(part) {
    x <- t(receive_matrix(part$values))
    dimnames(x) <- list(mixtures, receive_text(part$names))
    x
  }
  tables <- lapply(found_tables(found), receive_frame)
  rownames(tables$mixtures) <- mixtures
  spread <- if (is.null(found$spread)) NULL else matrix_of(found$spread)
  parts <- lapply(py_list(found$expression), function(part) {
    x <- receive_matrix(part$values)
    dimnames(x) <- list(receive_text(part$names), mixtures)
    x
  })
  names(parts) <- receive_text(found$expressed)
  told <- c(list(proportions = matrix_of(found$proportions), spread = spread), tables, list(notes = receive_text(found$notes)))
  c(told, if (length(parts)) list(expression = parts))
}

found_tables <- function(found) {
  list(agreement = found$agreement, types = found$types, genes = found$genes, mixtures = found$mixtures)
}
