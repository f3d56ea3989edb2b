#' Denoise counts, and judge how well that goes
#'
#' `DenoiseData()` adds an assay with the expected counts of each cell. `CompareDenoisers()` says which method does best on
#' your cells: each denoises 90% of the molecules of every cell and predicts the others, beside the mean of each gene.
#'
#' Denoised values are for looking at. Test genes on counts: a t-test between groups of denoised cells had a false-discovery
#' rate of 41 to 48% at a nominal 5%, whatever the method.
#'
#' @param object A Seurat object or SingleCellExperiment with raw counts.
#' @param method "walk" averages over neighboring cells, "scvi" is a scVI with a Poisson likelihood, trained briefly; "dca",
#'   "alra", "deepimpute", "scimpute" and "magic" are there to be compared with. `NULL` for "walk" up to 50,000 cells and
#'   "scvi" above.
#' @param methods Methods to compare, with their defaults.
#' @param labels Column of the metadata with the cell types, for the means of each type, and for the two largest types,
#'   between which false discoveries are counted; `NULL` for neither.
#' @param false.signals Also look for what a method invents, which takes two more runs of each.
#' @param features Genes to use; `NULL` for the variable features, else all.
#' @param assay.name Name of the new assay. One of this name is replaced if this function or [NormalizeExpression()] made it;
#'   anything else of this name is an error.
#' @inheritParams NormalizeExpression
#' @param ... For `DenoiseData()`: options of the method, e.g. `t`, `n_neighbors` of "walk", `rank` of "alra", `max_epochs` and
#'   others of a network. For `CompareDenoisers()`: not used.
#' @returns `DenoiseData()`: the object with a new assay whose layer `data` has the expected counts at the depth of each cell
#'   (not log-transformed); a SingleCellExperiment gets it as an alternative experiment.
#'
#'   `CompareDenoisers()`: a data frame with a row for each method, "gene mean" and "no denoising" always among them. `d2` and
#'   `r2`: share of the deviance and of the squared error of held-out molecules explained, 0 for "gene mean", higher is
#'   better, differences of `d2` under 0.01 are noise. `false_correlations`: share of gene pairs with a correlation above 0.3
#'   in data without structure. `false_discovery_rate`: of a t-test on the denoised values at a nominal 0.05.
#' @references Batson, Royer and Webber (2019), Molecular cross-validation for single-cell RNA-seq, \doi{10.1101/786269};
#'   Andrews and Hemberg (2018), False signals induced by single-cell imputation,
#'   \doi{10.12688/f1000research.16613.2}
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- suppressWarnings(DenoiseData(SeuratObject::pbmc_small, features = genes))
#' obj[["denoised"]]
DenoiseData <- function(object, method = NULL, assay = NULL, layer = "counts", assay.name = "denoised", features = NULL,
                        seed.use = 42, verbose = TRUE, ...) {
  check_text(method, "method", optional = TRUE)
  check_text(assay.name, "assay.name")
  check_flag(verbose, "verbose")
  options <- list(...)
  check_option_names(options, rlang::current_env())
  check_assay_name(object, assay.name)
  parts <- parts_of(object, assay, layer)
  found <- ask("denoise",
    adata = denoisable(parts, assay, features, verbose), method = method,
    options = c(list(seed = check_whole(seed.use, "seed.use")), lapply(options, as_option)),
    callback = py_callback(new_reporter(verbose))
  )
  put_denoised(object, receive_denoised(found, rownames(parts$cells)), assay.name)
}

#' @rdname DenoiseData
#' @export
CompareDenoisers <- function(object, methods = c("walk", "scvi", "dca"), labels = NULL, assay = NULL, layer = "counts",
                             features = NULL, false.signals = TRUE, seed.use = 42, verbose = TRUE, ...) {
  check_no_options(...)
  check_flag(false.signals, "false.signals")
  check_flag(verbose, "verbose")
  parts <- parts_of(object, assay, layer)
  check_column(parts$cells, labels, "labels")
  options <- list(
    methods = as.list(methods), labels_key = labels, false_signals = false.signals, seed = check_whole(seed.use, "seed.use")
  )
  found <- receive_frame(ask("compare_denoisers",
    adata = denoisable(parts, assay, features, verbose, labels), options = Filter(Negate(is.null), options),
    callback = py_callback(new_reporter(verbose))
  ))
  rownames(found) <- found$method
  found[names(found) != "method"]
}

# The counts of the genes to denoise, as the engine takes them.
denoisable <- function(parts, assay, features, verbose, columns = character(), call = rlang::caller_env()) {
  variable <- NULL
  if (inherits(parts$object, "Seurat")) {
    assay <- default_assay(parts$object, assay, call)
    variable <- SeuratObject::VariableFeatures(parts$object[[assay]])
  }
  anndata_of(parts, choose_features(features, variable, parts$genes, verbose, call = call), columns)
}
