#' Denoised expression
#'
#' Expected expression of each gene under the model, denoised and, with `batch`, corrected for batch effects.
#'
#' @param object Seurat object or SingleCellExperiment that holds a model: see [ScduetModel()].
#' @param reduction Name of the reduction whose model is wanted; `NULL` where there is only one.
#' @param assay.name Name of the new assay. One of this name is replaced if this function or [DenoiseData()] made it;
#'   anything else of this name is an error.
#' @param features Genes wanted, or features of the `modality`; `NULL` for all of the model.
#' @param batch Decode all cells as if measured in this batch, or the mean over several; `NULL` for each cell's own.
#' @param library.size What the shares of the genes are multiplied by; `NULL` for 10,000, and for 1 where a `modality` is
#'   given or the model is not of RNA.
#' @param assay Assay to take the counts from; `NULL` for the one that the model was trained on, else the default one.
#' @param n.samples Draws a cell, averaged.
#' @param modality Another matrix that the model decodes, such as "protein", whose expected values are wanted; `NULL` for
#'   the main one.
#' @inheritParams RunModel
#' @param ... Options that the model has for its `modality`, e.g. `include_protein_background = TRUE` for the proteins of
#'   totalVI.
#' @returns The object with a new assay whose layer `data` is the denoised expression (not log-transformed); a
#'   SingleCellExperiment gets it as an alternative experiment.
#' @references Lopez et al. (2018), \doi{10.1038/s41592-018-0229-2}
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- RunSCVI(SeuratObject::pbmc_small, features = genes, max_epochs = 2, verbose = FALSE)
#' obj <- NormalizeExpression(obj)
#' obj[["denoised"]]
#'
#' \dontrun{
#' obj <- NormalizeExpression(obj, "totalvi", modality = "protein", assay.name = "denoised_ADT")
#' }
NormalizeExpression <- function(object, reduction = NULL, assay = NULL, layer = "counts", assay.name = "denoised",
                                features = NULL, batch = NULL, library.size = NULL, n.samples = 1,
                                seed.use = 42, modality = NULL, ...) {
  if (is.null(modality)) check_no_options(...) else check_option_names(list(...), rlang::current_env())
  check_text(assay.name, "assay.name")
  check_assay_name(object, assay.name)
  model <- ScduetModel(object, reduction = reduction)
  if (is.null(modality)) check_features(features, model$genes)
  if (is.null(library.size) && is.null(modality) && (is.null(model$modalities) || model$modalities[1] == "rna")) library.size <- 1e4
  options <- list(
    gene_list = features, transform_batch = batch, library_size = library.size, n_samples = check_whole(n.samples, "n.samples"),
    seed = check_whole(seed.use, "seed.use"), modality = modality
  )
  put_decoded(object, "normalized_expression", model, assay, layer, assay.name, c(options, lapply(list(...), as_option)))
}

#' Expression in states of the latent space
#'
#' Decodes points of the latent space, for example on the way from one cell to another: what a cell there would express.
#'
#' @param object A Seurat object or SingleCellExperiment that holds a model, or a model: see [ScduetModel()].
#' @param states A numeric matrix with a row for each state and a column for each latent dimension, such as rows of the
#'   model's reduction or means of them.
#' @param batch Batch to decode as; `NULL` for the first.
#' @param ... Passed to [ScduetModel()], e.g. `reduction`.
#' @returns A matrix of genes x states with the expected share of each gene; columns sum to 1. They are named as the rows of
#'   `states`.
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- RunSCVI(SeuratObject::pbmc_small, features = genes, max_epochs = 2, verbose = FALSE)
#' ends <- SeuratObject::Embeddings(obj, "scvi")[1:2, ]
#' way <- t(sapply(seq(0, 1, 0.25), function(a) (1 - a) * ends[1, ] + a * ends[2, ]))
#' DecodeStates(obj, way)["CD79A", ]
DecodeStates <- function(object, states, batch = NULL, ...) {
  model <- ScduetModel(object, ...)
  if (!is.matrix(states) || !is.numeric(states)) {
    abort_scduet("`states` must be a numeric matrix.", "Pass a row for each state and a column for each dimension.", "option")
  }
  found <- ask("decode_states",
    folder = model_folder(model), sha256 = model$sha256, states = send_dense(states),
    options = Filter(Negate(is.null), list(batch = if (!is.null(batch)) as_level(batch)))
  )
  receive_denoised(found, rownames(states))
}

#' Probability that a protein is there beyond background
#'
#' Antibodies leave some counts on every cell. A totalVI tells these from a protein of the cell: this is the probability of
#' the latter.
#'
#' @param assay.name Name of the new assay. One of this name is replaced if this package made it; anything else of this
#'   name is an error.
#' @param features Proteins wanted; `NULL` for all of the model.
#' @inheritParams NormalizeExpression
#' @param ... Not used.
#' @returns The object with a new assay whose layer `data` holds the probabilities, 0 to 1; a SingleCellExperiment gets it as
#'   an alternative experiment.
#' @references Gayoso, Steier et al. (2021), Joint probabilistic modeling of single-cell multi-omic data with totalVI,
#'   \doi{10.1038/s41592-020-01050-x}
#' @seealso [RunTotalVI()], [NormalizeExpression()]
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' rna <- Matrix::Matrix(rpois(60 * 150, 2), 60, sparse = TRUE,
#'   dimnames = list(paste0("gene", 1:60), paste0("cell", 1:150))
#' )
#' proteins <- Matrix::Matrix(rpois(6 * 150, 20), 6, sparse = TRUE,
#'   dimnames = list(paste0("CD", 1:6), colnames(rna))
#' )
#' obj <- SeuratObject::CreateSeuratObject(rna)
#' obj[["ADT"]] <- SeuratObject::CreateAssayObject(counts = proteins)
#' cite <- RunTotalVI(obj, protein.assay = "ADT", max_epochs = 2, verbose = FALSE)
#' cite <- ProteinForeground(cite)
#' cite[["foreground"]]
ProteinForeground <- function(object, reduction = NULL, assay = NULL, layer = "counts", assay.name = "foreground",
                              features = NULL, batch = NULL, n.samples = 1, seed.use = 42, ...) {
  check_no_options(...)
  check_text(assay.name, "assay.name")
  check_assay_name(object, assay.name)
  options <- list(
    protein_list = features, transform_batch = batch, n_samples = check_whole(n.samples, "n.samples"),
    seed = check_whole(seed.use, "seed.use")
  )
  put_decoded(object, "protein_foreground", ScduetModel(object, reduction = reduction), assay, layer, assay.name, options)
}

#' Accessibility of peaks
#'
#' How open the model expects each peak to be in each cell: the probability that it is open (PeakVI), or its share of the
#' fragments (PoissonVI), freed of depth and, with `batch`, of batch differences.
#'
#' @param features Peaks wanted; `NULL` for all of the model.
#' @param normalize.cells Multiply by the factor of the cell, how much is seen of it.
#' @param normalize.regions Include the factor of the peak, how well it is seen. With both of them this is what is expected
#'   to be seen; without, cells and peaks can be compared.
#' @inheritParams ProteinForeground
#' @returns The object with a new assay whose layer `data` holds the accessibility; a SingleCellExperiment gets it as an
#'   alternative experiment.
#' @references Ashuach et al. (2022), PeakVI, \doi{10.1016/j.crmeth.2022.100182}
#' @seealso [RunPeakVI()], [RunPoissonVI()]
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' obj <- SeuratObject::pbmc_small
#' peaks <- matrix(rpois(60 * 80, 1), 60, dimnames = list(paste0("chr1-", 1:60), colnames(obj)))
#' obj[["peaks"]] <- SeuratObject::CreateAssayObject(counts = peaks)
#' obj <- RunPeakVI(obj, assay = "peaks", max_epochs = 2, verbose = FALSE)
#' obj <- NormalizeAccessibility(obj)
#' obj[["accessibility"]]
NormalizeAccessibility <- function(object, reduction = NULL, assay = NULL, layer = "counts", assay.name = "accessibility",
                                   features = NULL, batch = NULL, normalize.cells = FALSE, normalize.regions = FALSE,
                                   seed.use = 42, ...) {
  check_no_options(...)
  check_text(assay.name, "assay.name")
  check_assay_name(object, assay.name)
  check_flag(normalize.cells, "normalize.cells")
  check_flag(normalize.regions, "normalize.regions")
  options <- list(
    region_list = features, transform_batch = batch, normalize_cells = normalize.cells, normalize_regions = normalize.regions,
    seed = check_whole(seed.use, "seed.use")
  )
  put_decoded(object, "normalized_accessibility", ScduetModel(object, reduction = reduction), assay, layer, assay.name, options)
}

# What the engine's function `task` finds, into a new assay. The first of `options` lists features, or is NULL.
put_decoded <- function(object, task, model, assay, layer, assay.name, options, call = rlang::caller_env()) {
  if (!is.null(options[[1]])) options[[1]] <- as.list(options[[1]])
  if (!is.null(options$transform_batch)) options$transform_batch <- as_option(as_level(options$transform_batch))
  parts <- parts_of(object, trained_assay(object, model, assay), layer, call = call)
  adata <- anndata_for(parts, model, call = call)
  found <- ask("expression",
    folder = model_folder(model), sha256 = model$sha256, adata = adata, options = Filter(Negate(is.null), options), task = task,
    call = call
  )
  put_denoised(object, receive_denoised(found, rownames(parts$cells)), assay.name)
}

receive_denoised <- function(found, cells) {
  x <- receive_matrix(found$values)
  dimnames(x) <- list(gsub("[_|]", "-", receive_text(found$names)), cells)
  x
}

# Denoised values as an assay, or an alternative experiment.
put_denoised <- function(object, x, name) {
  object <- known_object(object)
  if (inherits(object, "Seurat")) {
    made <- new_assay(data = methods::as(x, "CsparseMatrix"))
    methods::slot(made, "misc")$scduet <- DENOISED
    SeuratObject::Key(made) <- key_of(tolower(name))
    known <- with_known_assays(object)
    quiet_layers(known[[name]] <- made)
    object <- with_own_assays(known, object)
  } else {
    colnames(x) <- colnames(object)
    made <- SummarizedExperiment::SummarizedExperiment(list(expression = x), metadata = list(scduet = DENOISED))
    SingleCellExperiment::altExp(object, name) <- made
  }
  object
}

DENOISED <- "denoised expression" # marks an assay that may be replaced by a newer one

# An assay of this name may be replaced if this package created it.
check_assay_name <- function(object, name, call = rlang::caller_env()) {
  if (inherits(object, "Seurat")) {
    object <- with_known_assays(object)
    if (!name %in% names(object)) {
      return(invisible())
    }
    part <- object[[name]]
    mark <- if (name %in% assay_names(object)) methods::slot(part, "misc")$scduet
  } else {
    if (!name %in% assays_of(object)) {
      return(invisible())
    }
    mark <- S4Vectors::metadata(SingleCellExperiment::altExp(object, name))$scduet
  }
  if (!identical(mark, DENOISED)) {
    said <- sprintf("The object has \"%s\" already, and scduet did not make it.", name)
    abort_scduet(said, "Choose another `assay.name`.", "exists", call)
  }
}
