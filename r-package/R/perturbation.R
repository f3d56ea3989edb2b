#' Predict perturbed cells, and score predictions of them
#'
#' `PredictPerturbation()` predicts the mean expression of perturbed cells: of a perturbation in cell types or donors that
#' did not see it, of a combination, or of a gene that was not perturbed. `ScorePerturbation()` scores the predictions of any
#' method. Both predict observed perturbations from the others and give the same table: simple rules first, and as a ceiling
#' what a perfect prediction would get from a truth as noisy as this one.
#'
#' The truth is measured against one half of the control cells, and everything is predicted from the other half: with the
#' same controls on both sides, even perturbations that do nothing correlate. Perturbations whose change does not repeat
#' itself in two halves of the cells are left out of the means.
#'
#' @param object A Seurat object or SingleCellExperiment with log-normalized values, or counts, which are normalized.
#' @param perturbation Column of the metadata with the perturbations, such as "A", "A+B", "A+ctrl", "A|B", or the classes
#'   of Mixscape ("IFNGR2 KO"). The order of a combination does not matter.
#' @param targets Perturbations to predict; `NULL` for those that some `contexts` did not see. Observed ones are predicted
#'   as if they were not.
#' @param control Level of the control cells; `NULL` for "ctrl", "control", "NT", "non-targeting", "vehicle" or "DMSO".
#' @param context Column of the metadata with the cell types, donors or other contexts.
#' @param contexts Values of `context` to predict for; `NULL` for those that did not see the target, or all of them.
#' @param batch Column of the metadata within which controls are matched.
#' @param dose Column of the metadata with doses; targets are then "drug@0.5".
#' @param model "auto", or "mean", "additive", "weighted" (by the likeness of the contexts), "matching mean", "linear",
#'   "neighbors", "interpolation", "no change", or a model that is trained for it. "auto" is "weighted" for contexts,
#'   "additive" for combinations, and for unseen genes "linear" or "neighbors" if they beat the mean on held-out genes.
#' @param gene.embedding What is known of genes: a data frame or matrix of dimensions by gene (genes as row names), a named
#'   list of gene sets, or the path of a GMT, CSV or TSV file.
#' @param drop.escaped Column of the metadata with Mixscape's classes, e.g. "mixscape_class.global": "NP" cells are left out
#'   of training, not of the truth.
#' @param evaluate Predict observed perturbations too, for the table.
#' @param n.splits Splits of the control cells that scores are averaged over.
#' @param layer Layer (SingleCellExperiment: assay) with the values; `NULL` for "data" ("logcounts").
#' @param predictions Matrix of genes x perturbations with predicted mean expression, log-normalized like the object; the
#'   columns are named by the perturbations, with `context` as "context|perturbation".
#' @param change Whether `predictions` are changes instead of means.
#' @param trained.on Perturbations that the predictor has seen: the rules learn from these alone, and a predicted one
#'   among them is an error. `NULL`: each is predicted by the rules from all others.
#' @param assay Assay to take the values from; `NULL` for the default one.
#' @inheritParams RunModel
#' @param ... For `PredictPerturbation()`: options of the model, e.g. `n_components`, `ridge`, `temperature`, `max_epochs`,
#'   and for `model = "scgpt"` `transformer`, the folder of a scGPT.
#'   For `ScorePerturbation()`: not used.
#' @returns `PredictPerturbation()`: the object with a list in `Misc(object, "perturbation")` (SingleCellExperiment:
#'   `metadata(object)$perturbation`): `mean` and `change`, matrices of genes x predictions; `support`, a data frame with
#'   the task, the model, what was seen and a verdict for each; `table`, `held.out` and `notes`.
#'
#'   `ScorePerturbation()`: a list of `table`, `held.out` and `notes`. `table` has a row for each task and method:
#'   `relative_error` (1 is no better than no change), `delta` (correlation of changes), `delta_vs_mean`, `discrimination`
#'   (0 is best, 0.5 is chance), `size` (1 is right), `r2` and `delta_shared` as they are often published.
#'
#'   `PlotPerturbation()`: a ggplot of the errors.
#' @references Ahlmann-Eltze, Huber and Anders (2025), \doi{10.1038/s41592-025-02772-6}
#' @family tasks
#' @export
#' @examples
#' \dontrun{
#' obj <- PredictPerturbation(
#'   obj, "gene", targets = c("STAT1+IRF1"), control = "NT", batch = "replicate"
#' )
#' SeuratObject::Misc(obj, "perturbation")$table
#' PlotPerturbation(obj)
#' }
PredictPerturbation <- function(object, perturbation, targets = NULL, control = NULL, context = NULL, contexts = NULL,
                                batch = NULL, dose = NULL, model = "auto", gene.embedding = NULL, drop.escaped = NULL,
                                evaluate = TRUE, n.splits = 5, assay = NULL, layer = NULL, seed.use = 42, verbose = TRUE,
                                ...) {
  check_text(model, "model")
  check_text(control, "control", optional = TRUE)
  check_flag(evaluate, "evaluate")
  check_flag(verbose, "verbose")
  check_option_names(list(...), rlang::current_env())
  columns <- c(perturbation = perturbation, context = context, batch = batch, dose = dose, drop.escaped = drop.escaped)
  fixed <- list(
    targets = if (!is.null(targets)) as.list(as_level(targets)), control = control, context_key = context,
    contexts = if (!is.null(contexts)) as.list(as_level(contexts)), batch_key = batch, dose_key = dose, model = model,
    drop_escaped = drop.escaped, n_splits = check_whole(n.splits, "n.splits"), seed = check_whole(seed.use, "seed.use")
  )
  options <- c(Filter(Negate(is.null), fixed), lapply(list(...), as_option))
  if (!evaluate) options <- c(options, list(evaluate = NULL))
  found <- ask("predict_perturbation",
    adata = perturbed_cells(object, assay, layer, columns), key = perturbation,
    gene_embedding = send_knowledge(gene.embedding), options = options, callback = py_callback(new_reporter(verbose))
  )
  inform_notes(found$scores, verbose)
  support <- receive_frame(found$support)
  names <- if (is.null(context)) support$target else paste(support$context, support$target, sep = "|")
  kept <- c(
    list(mean = receive_predicted(found$mean, names), change = receive_predicted(found$change, names), support = support),
    receive_scored(found$scores)
  )
  put_perturbation(object, kept)
}

#' @rdname PredictPerturbation
#' @export
ScorePerturbation <- function(object, predictions, perturbation, control = NULL, context = NULL, batch = NULL,
                              change = FALSE, trained.on = NULL, gene.embedding = NULL, n.splits = 5, assay = NULL,
                              layer = NULL, seed.use = 42, verbose = TRUE, ...) {
  check_no_options(...)
  check_text(control, "control", optional = TRUE)
  check_flag(change, "change")
  check_flag(verbose, "verbose")
  check_predictions(predictions)
  columns <- c(perturbation = perturbation, context = context, batch = batch)
  names <- colnames(predictions)
  contexts <- if (!is.null(context)) as.list(sub("\\|.*$", "", names))
  options <- list(
    kind = if (change) "change" else "mean", control = control, context_key = context, batch_key = batch,
    trained_on = if (!is.null(trained.on)) as.list(as_level(trained.on)),
    n_splits = check_whole(n.splits, "n.splits"), seed = check_whole(seed.use, "seed.use")
  )
  given <- methods::as(as.matrix(predictions), "CsparseMatrix")
  rows <- make.unique(names)
  found <- ask("score_perturbation",
    predictions = new_anndata(list(given), rownames(given), empty_frame(rows), empty_frame(rownames(given))),
    names = as.list(if (is.null(context)) names else sub("^[^|]*\\|", "", names)), contexts = contexts,
    adata = perturbed_cells(object, assay, layer, columns), key = perturbation,
    gene_embedding = send_knowledge(gene.embedding), options = Filter(Negate(is.null), options),
    callback = py_callback(new_reporter(verbose))
  )
  inform_notes(found, verbose)
  receive_scored(found)
}

#' @rdname PredictPerturbation
#' @param scores An object with predictions, or what `ScorePerturbation()` gave.
#' @export
PlotPerturbation <- function(scores) {
  check_installed("ggplot2", "PlotPerturbation()")
  held <- perturbation_in(scores)$held.out
  if (!NROW(held)) {
    abort_scduet("No perturbation was held out.", "Use `evaluate = TRUE`.", "argument")
  }
  held <- held[held$measurable & !is.na(held$relative_error), ]
  floor <- held[held$method == "ceiling", ]
  floor <- stats::aggregate(relative_error ~ task, floor, mean)
  held <- held[held$method != "ceiling", ]
  mean <- stats::aggregate(relative_error ~ task + method, held, mean)
  order <- tapply(held$relative_error, held$method, mean)
  levels <- names(order)[order(-order)]
  mean$method <- factor(mean$method, levels)
  held$method <- factor(held$method, levels)
  ggplot2::ggplot(mean, ggplot2::aes(x = .data$relative_error, y = .data$method)) +
    ggplot2::geom_col(fill = "#BBBBBB", width = 0.6) +
    ggplot2::geom_point(data = held, size = 0.8, alpha = 0.5) +
    ggplot2::geom_vline(xintercept = 1, linetype = "dashed") +
    ggplot2::geom_vline(ggplot2::aes(xintercept = .data$relative_error), floor, colour = "#D55E00") +
    ggplot2::facet_wrap("task", scales = "free_y") +
    ggplot2::labs(x = "Error relative to no change (orange: the best that noise allows)", y = NULL) +
    ggplot2::theme_minimal()
}

#' Rank known perturbations by how well they explain a change
#'
#' `RankPerturbations()` compares an observed change of expression, e.g. of a disease or of an unknown compound, with the
#' changes of the perturbations in an object, by correlation over the shared genes but the targets. Changes of known
#' perturbations are measured against halves of the control cells.
#'
#' @inheritParams PredictPerturbation
#' @param object A Seurat object or SingleCellExperiment with control cells and known perturbations.
#' @param profile Named vector: the change of log-normalized mean expression of each gene.
#' @param mechanisms Named vector with the mechanism or class of each perturbation; `NULL` for none.
#' @param n.splits Splits of the control cells that similarities are averaged over.
#' @param ... Not used.
#' @returns A data frame with a row for each perturbation, the most alike first: `perturbation`, `rank`, `similarity`
#'   (Pearson correlation), `similarity_vs_mean` (of what is left beyond the mean of all perturbations),
#'   `half_correlation` (how far its change repeats itself; below 0.2 it cannot be recognized), `n_cells` and
#'   `measurable`; with `mechanisms` also `mechanism`. Attributes: `chance.rank`, the mean rank of the right perturbation
#'   if nothing is known, and `mechanisms`, a data frame of the mechanisms by the mean similarity of their perturbations.
#' @seealso [PredictPerturbation()]
#' @export
#' @examples
#' \dontrun{
#' markers <- Seurat::FindMarkers(patients, ident.1 = "severe", ident.2 = "mild")
#' change <- setNames(markers$avg_log2FC, rownames(markers))
#' RankPerturbations(screen, change, "gene", control = "NT")
#' }
RankPerturbations <- function(object, profile, perturbation, control = NULL, batch = NULL, mechanisms = NULL,
                              n.splits = 5, assay = NULL, layer = NULL, seed.use = 42, verbose = TRUE, ...) {
  check_no_options(...)
  check_text(control, "control", optional = TRUE)
  check_flag(verbose, "verbose")
  if (!is.numeric(profile) || is.null(names(profile))) {
    hint <- "Its names are those of the genes."
    abort_scduet("`profile` must be a named vector of numbers.", hint, "argument")
  }
  if (!is.null(mechanisms) && is.null(names(mechanisms))) {
    hint <- "Its names are those of the perturbations."
    abort_scduet("`mechanisms` must be a named vector.", hint, "argument")
  }
  columns <- c(perturbation = perturbation, batch = batch)
  options <- list(
    control = control, batch_key = batch, n_splits = check_whole(n.splits, "n.splits"),
    seed = check_whole(seed.use, "seed.use")
  )
  given <- methods::as(matrix(profile, ncol = 1), "CsparseMatrix")
  found <- ask("rank_perturbations",
    profile = new_anndata(list(given), names(profile), empty_frame("profile"), empty_frame(names(profile))),
    adata = perturbed_cells(object, assay, layer, columns), key = perturbation,
    mechanisms = as.list(vapply(mechanisms, as.character, "")), options = Filter(Negate(is.null), options)
  )
  inform_notes(found, verbose)
  table <- receive_frame(found$table)
  attr(table, "chance.rank") <- py_value(found$chance_rank)
  if (!is.null(mechanisms)) attr(table, "mechanisms") <- receive_frame(found$mechanisms)
  table
}

# The values and columns that the engine reads. Mixscape's classes and others may miss in no cell but the escaped ones.
perturbed_cells <- function(object, assay, layer, columns, call = rlang::caller_env()) {
  if (is.null(layer)) layer <- if (methods::is(object, "SingleCellExperiment")) "logcounts" else "data"
  parts <- parts_of(object, assay, layer, raw = FALSE, call = call)
  for (argument in names(columns)) check_column(parts$cells, columns[[argument]], argument, call = call)
  anndata_of(parts, parts$genes, unique(unname(columns)))
}

send_knowledge <- function(x, call = rlang::caller_env()) {
  if (is.null(x) || is.character(x)) {
    return(if (!is.null(x)) path.expand(x))
  }
  if (is.matrix(x)) x <- as.data.frame(x)
  if (is.data.frame(x)) {
    return(send_frame(x))
  }
  if (!is.list(x) || is.null(names(x))) {
    abort_scduet("`gene.embedding` must be a table, a named list of gene sets, or a path.", class = "argument", call = call)
  }
  lapply(x, as.list)
}

check_predictions <- function(x, call = rlang::caller_env()) {
  if (length(dim(x)) != 2 || is.null(rownames(x)) || is.null(colnames(x))) {
    hint <- "Its rows are named by genes, its columns by perturbations."
    abort_scduet("`predictions` must be a matrix with names.", hint, "argument", call)
  }
}

receive_predicted <- function(found, names) {
  x <- as.matrix(receive_matrix(found$values))
  if (!length(x)) x <- matrix(numeric(), length(receive_text(found$names)), 0)
  dimnames(x) <- list(receive_text(found$names), as.character(names))
  x
}

receive_scored <- function(found) {
  list(table = receive_frame(found$table), held.out = receive_frame(found$held_out), notes = receive_text(found$notes))
}

# What the engine assumed, e.g. that it normalized counts.
inform_notes <- function(found, verbose) {
  for (note in receive_text(found$notes)) inform_scduet(paste0(note, "."), verbose)
}

put_perturbation <- function(object, kept) {
  if (inherits(object, "Seurat")) {
    suppressWarnings(SeuratObject::Misc(object, "perturbation") <- kept) # warns where it replaces
    return(object)
  }
  all <- S4Vectors::metadata(object)
  all$perturbation <- kept
  methods::slot(object, "metadata") <- all
  object
}

perturbation_in <- function(x, call = rlang::caller_env()) {
  found <- if (inherits(x, "Seurat")) {
    SeuratObject::Misc(x, "perturbation")
  } else if (methods::is(x, "SingleCellExperiment")) {
    S4Vectors::metadata(x)$perturbation
  } else {
    x
  }
  if (!is.list(found) || is.null(found$held.out)) {
    abort_scduet("There are no scores of perturbations.", "Run `PredictPerturbation()` first.", "argument", call)
  }
  found
}
