#' Predict classes or numbers of genes
#'
#' What a model's vectors of genes know: a linear head on them, cross-validated over genes whose class (e.g. dosage
#' sensitive or not) or number (e.g. a half-life) is known, and what it says of all others. Always beside the same head on
#' what the cells say without a model: the level of expression, and principal components.
#'
#' @param known A named vector: gene -> class (text, a factor, TRUE and FALSE) or number. Genes named as in the object.
#' @param method "contextual" (mean states in these cells, the default of transformers) or "embedding" (vectors that were
#'   learned, the default of other models).
#' @param n.folds Folds of the cross-validation over genes.
#' @param ... Options of a transformer, e.g. `max_length`, `precision`.
#' @inheritParams GeneNetwork
#' @inheritParams RunModel
#' @returns A data frame, one row a method: the model, "expression level", "expression pca", "constant". For classes
#'   `accuracy`, `macro_f1`, `auc`; for numbers `r2`, `spearman`; all on genes that the head was not fitted on.
#'   `attr(, "genes")`: `predicted` for every gene with a vector, for classes also the probability of each; of known genes
#'   by cross-validation. Genes of one family in different folds flatter all rows.
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
    abort_scduet("`known` must be a named vector.", "Name each class or number by its gene.", "argument", call)
  }
  value <- if (is.numeric(known) && !is.factor(known)) as.numeric(known) else as.character(known)
  data.frame(gene = names(known), known = unname(value), stringsAsFactors = FALSE)
}
