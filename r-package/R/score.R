#' Score an integration
#'
#' Measures how well reductions mix batches and preserve cell types, compared with unintegrated PCA and, if its Python
#' package is installed, Harmony. Higher is better for every metric.
#'
#' @param object A Seurat object or SingleCellExperiment.
#' @param reductions Names of the reductions to score; `NULL` for all except 2D layouts such as UMAP.
#' @param batch Column of the metadata with the technical batch.
#' @param labels Metadata column with the cell types. Unlabeled cells are excluded. At least one of `batch` and `labels`
#'   is required.
#' @param metrics A set of metrics ("default", "scib", "census" or "all"), or names of metrics.
#' @param assay,layer Location of the raw counts, for the unintegrated PCA if the object has no reduction "pca".
#' @param verbose Show messages.
#' @param ... Further options of the engine's `score()`, e.g. `with_baselines = FALSE`, `seed`.
#' @returns A data frame with one row for each reduction: the metrics, their means `bio` and `batch`, and
#'   `total` = 0.6 bio + 0.4 batch. `attr(, "reasons")` explains missing values. `attr(, "notes")` and a message report
#'   reductions of models that were trained on the same labels.
#' @references Luecken et al. (2022), Benchmarking atlas-level data integration in single-cell genomics,
#'   \doi{10.1038/s41592-021-01336-8}
#' @family scores
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- RunSCVI(SeuratObject::pbmc_small, features = genes, max_epochs = 2, verbose = FALSE)
#' ScoreIntegration(obj, reductions = c("pca", "scvi"), batch = "groups", labels = "letter.idents")
ScoreIntegration <- function(object, reductions = NULL, batch = NULL, labels = NULL, metrics = "default", assay = NULL,
                             layer = "counts", verbose = TRUE, ...) {
  check_option_names(list(...), rlang::current_env())
  data <- parts_of(object, assay, layer, raw = FALSE)
  check_column(data$cells, batch, "batch")
  check_column(data$cells, labels, "labels", may_miss = TRUE)
  absent <- setdiff(reductions, names(data$embeddings))
  if (length(absent)) {
    have <- paste0("It has ", some(names(data$embeddings), 12), ".")
    abort_scduet(sprintf("Reduction %s not found in the object.", some(absent)), have, "reduction")
  }
  columns <- as.character(c(batch, labels))
  adata <- new_anndata(data$blocks, data$genes, data$cells[, columns, drop = FALSE], empty_frame(data$genes), verbose)
  put_embeddings(adata, data, reductions, verbose)
  named <- if (!is.null(reductions)) as.list(embedding_name(reductions))
  options <- c(list(batch_key = batch, labels_key = labels, metrics = as_option(metrics)), lapply(list(...), as_option))
  options <- Filter(Negate(is.null), options)
  as_scores(ask("score", adata = adata, embeddings = named, options = options, made = made_by(object)), verbose)
}

as_scores <- function(scored, verbose = TRUE) {
  table <- receive_frame(scored$columns)
  reductions <- reduction_name(table$embedding)
  rownames(table) <- reductions
  notes <- as.character(py_value(scored$notes))
  for (place in seq_along(reductions)) notes <- sub(table$embedding[place], reductions[place], notes, fixed = TRUE)
  for (note in notes) inform_scduet(note, verbose)
  table <- table[names(table) != "embedding"]
  structure(table, reasons = receive_frame(scored$reasons), notes = notes, class = c("scduet_scores", class(table)))
}

# Descriptions of the models behind reductions for the engine, named by embedding.
made_by <- function(object) {
  models <- models_of(object)
  if (!inherits(object, "Seurat")) names(models) <- sce_reduction(names(models))
  known <- function(model) Filter(Negate(is.null), list(model = model$name, batch_key = model$batch, labels_key = model$labels))
  rlang::set_names(lapply(unname(models), known), embedding_name(as.character(names(models))))
}

#' Plot scores and training curves
#'
#' `PlotScores()` plots the table of [ScoreIntegration()], `PlotHistory()` the training and validation loss by epoch;
#' `plot()` of a table of scores, of a model or of a gene network draws the same.
#'
#' @param scores The table of [ScoreIntegration()].
#' @param object A model, or an object that holds one: see [ScduetModel()].
#' @param terms Terms of the history to plot.
#' @param ... For `PlotHistory()`: passed to [ScduetModel()], e.g. `reduction`. For `plot()`: passed to the function that
#'   draws.
#' @returns A ggplot.
#' @family scores
#' @export
#' @examplesIf scduet_available() && all(vapply(c("SeuratObject", "ggplot2"), requireNamespace, NA, quietly = TRUE))
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- RunSCVI(SeuratObject::pbmc_small, features = genes, max_epochs = 5, verbose = FALSE)
#' PlotHistory(obj)
PlotHistory <- function(object, terms = "loss", ...) {
  check_installed("ggplot2", "PlotHistory()")
  history <- ScduetModel(object, ...)$history
  names <- as.vector(outer(terms, c("train", "validation"), paste, sep = "_"))
  names <- names[names %in% names(history)]
  if (!length(names)) {
    known <- unique(sub("_(train|validation)$", "", grep("_(train|validation)$", names(history), value = TRUE)))
    abort_scduet(sprintf("Term %s not found in the history.", some(terms)), paste0("It has ", some(known, 12), "."), "argument")
  }
  long <- data.frame(
    epoch = rep(history$epoch, length(names)) + 1, value = unlist(history[names], use.names = FALSE),
    term = rep(sub("_[a-z]*$", "", names), each = nrow(history)), cells = rep(sub(".*_", "", names), each = nrow(history))
  )
  ggplot2::ggplot(long, ggplot2::aes(x = .data$epoch, y = .data$value, colour = .data$cells)) +
    ggplot2::geom_line(na.rm = TRUE) +
    ggplot2::facet_wrap("term", scales = "free_y") +
    ggplot2::scale_colour_manual(values = c(train = "#0072B2", validation = "#D55E00")) +
    ggplot2::labs(x = "Epoch", y = "Mean per cell", colour = "Cells") +
    ggplot2::theme_minimal()
}

#' @rdname PlotHistory
#' @export
PlotScores <- function(scores) {
  check_installed("ggplot2", "PlotScores()")
  means <- intersect(c("bio", "batch", "total"), names(scores))
  metrics <- c(setdiff(names(scores), c(means, "rank")), means)
  values <- unlist(scores[metrics], use.names = FALSE)
  best <- rownames(scores)[order(scores$total, decreasing = FALSE)]
  long <- data.frame(
    reduction = factor(rep(rownames(scores), length(metrics)), levels = best),
    metric = factor(rep(metrics, each = nrow(scores)), levels = metrics), value = values
  )
  long <- long[!is.na(long$value), ]
  ggplot2::ggplot(long, ggplot2::aes(x = .data$metric, y = .data$reduction, fill = .data$value)) +
    ggplot2::geom_tile(colour = "white") +
    ggplot2::geom_text(ggplot2::aes(label = sprintf("%.2f", .data$value)), size = 3) +
    ggplot2::scale_fill_gradient(low = "#F7FBFF", high = "#6BAED6") +
    ggplot2::labs(x = NULL, y = NULL, fill = "Score") +
    ggplot2::theme_minimal() +
    ggplot2::theme(axis.text.x = ggplot2::element_text(angle = 45, hjust = 1), panel.grid = ggplot2::element_blank())
}

#' @rdname PlotHistory
#' @param x A model, the table of [ScoreIntegration()], or the network of [GeneNetwork()].
#' @export
plot.ScduetModel <- function(x, ...) PlotHistory(x, ...)

#' @rdname PlotHistory
#' @export
plot.scduet_scores <- function(x, ...) PlotScores(x, ...)

#' @rdname PlotHistory
#' @export
plot.scduet_network <- function(x, ...) PlotGeneNetwork(x, ...)
