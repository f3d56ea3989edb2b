#' Predict gene properties
#'
#' Fits a linear model on gene embeddings to predict a class (e.g. dosage sensitivity) or a number (e.g. a half-life),
#' cross-validates it over genes whose value is known, and predicts all other genes. Compares with the same linear model
#' on baseline features: the expression level and principal components.
#'
#' @param known A vector of classes (character, factor or logical) or numbers, named by gene as in the object.
#' @param method "contextual" (mean hidden states in these cells, the default for transformers) or "embedding" (learned
#'   gene embeddings, the default for other models).
#' @param n.folds Number of cross-validation folds over genes.
#' @param ... Options for transformers, e.g. `max_length`, `precision`.
#' @inheritParams GeneNetwork
#' @inheritParams RunModel
#' @returns A data frame with one row per method: the model, "expression level", "expression pca", "constant". For
#'   classes `accuracy`, `macro_f1`, `auc`; for numbers `r2`, `spearman`; all on held-out genes.
#'   `attr(, "genes")`: `predicted` for every gene with an embedding, and for classes their probabilities;
#'   cross-validated for known genes. Gene families that span folds inflate the scores of all methods.
#' @references Theodoris et al. (2023), \doi{10.1038/s41586-023-06139-9}
#' @family transformers
#' @export
#' @examples
#' \dontrun{
#' known <- c(TBX5 = "sensitive", GATA4 = "sensitive", ACTB = "not", ...)
#' PredictGenes(obj, known, model = "Geneformer-V2-104M")
#' }
PredictGenes <- function(object, known, model = NULL, reduction = NULL, method = NULL, n.folds = 5, assay = NULL,
                         layer = "counts", seed.use = 42, ...) {
  check_text(model, "model", optional = TRUE)
  check_text(method, "method", optional = TRUE)
  options <- lapply(list(...), as_option)
  check_option_names(options, rlang::current_env())
  fixed <- list(method = method, n_folds = check_whole(n.folds, "n.folds"), seed = check_whole(seed.use, "seed.use"))
  parts <- parts_of(object, assay, layer)
  known <- known_genes(known)
  trained <- if (is.null(model)) ScduetModel(object, reduction = reduction)
  called <- called_by(trained, parts$genes)
  known$gene <- ifelse(known$gene %in% parts$genes, called[match(known$gene, parts$genes)], known$gene)
  found <- ask("predict_genes",
    adata = anndata_of(parts, called = called), known = send_frame(known),
    folder = if (is.null(model)) model_folder(trained) else path_of(model), sha256 = trained$sha256,
    options = c(Filter(Negate(is.null), fixed), options)
  )
  as_named <- function(columns, key) {
    table <- receive_frame(columns)
    rownames(table) <- table[[key]]
    table[names(table) != key]
  }
  structure(as_named(found$methods, "method"), genes = as_named(found$genes, "gene"))
}

known_genes <- function(known, call = rlang::caller_env()) {
  if (!is.atomic(known) || is.null(names(known))) {
    abort_scduet("`known` must be a named vector.", "The names are the genes.", "argument", call)
  }
  value <- if (is.numeric(known) && !is.factor(known)) as.numeric(known) else as.character(known)
  data.frame(gene = names(known), known = unname(value), stringsAsFactors = FALSE)
}
