#' RNA velocity, and whether the data support it
#'
#' Estimates where cells are going from spliced and unspliced counts. `RunVelocity()` takes any of four models;
#' `RunVeloVI()` is `RunVelocity(model = "velovi")`.
#'
#' Arrows look convincing whatever the data are: the confidence is high for a reversed field too, and a network smooths more.
#' The message says whether the data support a direction: whether within cell types the fit is better than of shuffled cells,
#' and whether the arrows follow transitions that you know. On the mouse pancreas, with known order, veloVI's direction was
#' no better than that of the steady-state model, at a thousand times the cost; its times are what it is good for.
#'
#' @param object A Seurat object with an assay for each kind of counts, or a SingleCellExperiment with the assays (as
#'   velociraptor has them), 100 cells or more.
#' @param spliced,unspliced Names of the assays with raw counts.
#' @param model "steady_state" (La Manno et al. 2018) and "stochastic" (Bergen et al. 2020) take seconds; "dynamical" (Bergen
#'   et al. 2020) takes minutes, "velovi" minutes to an hour.
#' @param labels Column of the metadata with cell types, within which cells are shuffled to judge the fit; `NULL` for clusters.
#' @param transitions Known transitions between types, a list of pairs, e.g. `list(c("Ductal", "Ngn3 low EP"))`.
#' @param reduction Reduction to draw arrows on, e.g. "umap"; `NULL` for principal components made here.
#' @param assay.name Name of the new assay with the velocities.
#' @inheritParams NormalizeExpression
#' @param verbose Show the progress of training, and say whether the data support a direction.
#' @param ... Options of `scduet.velocity` in Python, e.g. `n_neighbors`, `n_samples`; of "velovi" also those of training,
#'   e.g. `max_epochs`.
#' @returns The object with an assay of velocities (its layer `data`; genes that have one), the columns `velocity.confidence`
#'   and `velocity.length`, with "dynamical" and "velovi" also `latent.time`, with "velovi" `velocity.uncertainty`, and a reduction
#'   `velocity_<reduction>` with the arrows, a row for each cell. `Misc(object, "scduet.velocity")` or
#'   `metadata(object)$scduet.velocity` has `scores`, `genes` (slope, fit and permutation score of each) and `verdict`.
#' @references La Manno et al. (2018), RNA velocity of single cells, \doi{10.1038/s41586-018-0414-6}; Bergen et al. (2020),
#'   \doi{10.1038/s41587-020-0591-3}; Gayoso, Weiler et al. (2024), \doi{10.1038/s41592-023-01994-w}
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' rate <- outer(1:50, 1:120, function(gene, time) ifelse(gene > 25, time, 120 - time) / 10)
#' names <- list(paste0("gene", 1:50), paste0("cell", 1:120))
#' spliced <- Matrix::Matrix(rpois(50 * 120, rate + 1), 50, sparse = TRUE, dimnames = names)
#' unspliced <- Matrix::Matrix(rpois(50 * 120, rate), 50, sparse = TRUE, dimnames = names)
#' obj <- SeuratObject::CreateSeuratObject(spliced, assay = "spliced")
#' obj[["unspliced"]] <- SeuratObject::CreateAssayObject(counts = unspliced)
#' umap <- cbind(UMAP_1 = 1:120, UMAP_2 = 0)
#' rownames(umap) <- colnames(obj)
#' obj[["umap"]] <- SeuratObject::CreateDimReducObject(umap, assay = "spliced", key = "UMAP_")
#' obj <- RunVelocity(obj, reduction = "umap")
#' summary(obj$velocity.confidence)
#'
#' \dontrun{
#' obj <- RunVeloVI(obj, spliced = "spliced", unspliced = "unspliced", labels = "cell_type")
#' FeaturePlot(obj, "latent.time")
#' }
RunVelocity <- function(object, spliced = "spliced", unspliced = "unspliced", model = "steady_state", labels = NULL,
                        transitions = NULL, reduction = NULL, assay.name = "velocity", seed.use = 42, verbose = TRUE, ...) {
  check_text(spliced, "spliced")
  check_text(unspliced, "unspliced")
  check_text(model, "model")
  check_text(assay.name, "assay.name")
  check_text(reduction, "reduction", optional = TRUE)
  check_flag(verbose, "verbose")
  options <- list(...)
  check_option_names(options, rlang::current_env())
  check_assay_name(object, assay.name)
  parts <- velocity_parts(object, spliced, unspliced)
  check_column(parts$cells, labels, "labels")
  if (!is.null(reduction) && !reduction %in% names(parts$embeddings)) {
    have <- paste0("It has ", some(names(parts$embeddings), 12), ".")
    abort_scduet(sprintf("The object has no reduction \"%s\".", reduction), have, "reduction")
  }
  adata <- anndata_of(parts, columns = labels)
  put_input(adata, parts$unspliced, "unspliced", parts$genes, rownames(parts$cells))
  parts$embeddings <- parts$embeddings[reduction]
  put_embeddings(adata, parts, reduction, verbose)
  fixed <- list(labels_key = labels, transitions = lapply(transitions, as.list), seed = check_whole(seed.use, "seed.use"))
  found <- ask("velocity",
    adata = adata, model = model, basis = if (!is.null(reduction)) embedding_name(reduction),
    options = c(Filter(length, fixed), lapply(options, as_option)), callback = py_callback(new_reporter(verbose))
  )
  put_velocity(object, found, rownames(parts$cells), assay.name, reduction, spliced, verbose)
}

#' @rdname RunVelocity
#' @export
RunVeloVI <- function(object, spliced = "spliced", unspliced = "unspliced", ...) {
  RunVelocity(object, spliced = spliced, unspliced = unspliced, model = "velovi", ...)
}

#' Draw RNA velocity on a reduction
#'
#' Arrows are averages over the cells nearby. They look smooth whatever the data are: read the message of [RunVelocity()] before
#' you read a direction from them.
#'
#' @param object The result of [RunVelocity()].
#' @param reduction The reduction that [RunVelocity()] drew on.
#' @param group.by Column of the metadata to color cells by; `NULL` for none.
#' @param arrow.size Length of the longest arrow, in steps between arrows.
#' @returns A ggplot.
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE) && requireNamespace("ggplot2", quietly = TRUE)
#' rate <- outer(1:50, 1:120, function(gene, time) ifelse(gene > 25, time, 120 - time) / 10)
#' names <- list(paste0("gene", 1:50), paste0("cell", 1:120))
#' spliced <- Matrix::Matrix(rpois(50 * 120, rate + 1), 50, sparse = TRUE, dimnames = names)
#' unspliced <- Matrix::Matrix(rpois(50 * 120, rate), 50, sparse = TRUE, dimnames = names)
#' obj <- SeuratObject::CreateSeuratObject(spliced, assay = "spliced")
#' obj[["unspliced"]] <- SeuratObject::CreateAssayObject(counts = unspliced)
#' umap <- cbind(UMAP_1 = 1:120, UMAP_2 = 0)
#' rownames(umap) <- colnames(obj)
#' obj[["umap"]] <- SeuratObject::CreateDimReducObject(umap, assay = "spliced", key = "UMAP_")
#' obj <- RunVelocity(obj, reduction = "umap")
#' PlotVelocity(obj, reduction = "umap")
PlotVelocity <- function(object, reduction = "umap", group.by = NULL, arrow.size = 1.5) {
  check_installed("ggplot2", "PlotVelocity()")
  check_text(reduction, "reduction")
  check_text(group.by, "group.by", optional = TRUE)
  seurat <- inherits(object, "Seurat")
  cells <- if (seurat) object[[]] else as.data.frame(SummarizedExperiment::colData(object))
  check_column(cells, group.by, "group.by", may_miss = TRUE)
  known <- if (seurat) SeuratObject::Reductions(object) else SingleCellExperiment::reducedDimNames(object)
  wanted <- c(reduction, paste0("velocity_", reduction))
  if (!all(wanted %in% known)) {
    said <- sprintf("The object has no reduction \"%s\".", setdiff(wanted, known)[1])
    remedy <- sprintf("Run `RunVelocity(object, reduction = \"%s\")` first.", reduction)
    abort_scduet(said, remedy, "reduction")
  }
  places <- lapply(wanted, function(name) {
    if (seurat) SeuratObject::Embeddings(object, name) else SingleCellExperiment::reducedDim(object, name)
  })
  table <- data.frame(x = places[[1]][, 1], y = places[[1]][, 2], dx = places[[2]][, 1], dy = places[[2]][, 2])
  arrows <- receive_frame(ask("velocity_grid", cells = send_frame(table)))
  step <- max(diff(range(table$x)), diff(range(table$y))) / 29
  factor <- arrow.size * step / max(sqrt(arrows$dx^2 + arrows$dy^2), 1e-12)
  if (!is.null(group.by)) table$group <- cells[[group.by]]
  ends <- ggplot2::aes(xend = .data$x + factor * .data$dx, yend = .data$y + factor * .data$dy)
  points <- if (!is.null(group.by)) {
    ggplot2::geom_point(ggplot2::aes(colour = .data$group), size = 0.8, alpha = 0.5)
  } else {
    ggplot2::geom_point(colour = "#BBBBBB", size = 0.8)
  }
  ggplot2::ggplot(table, ggplot2::aes(x = .data$x, y = .data$y)) +
    points +
    ggplot2::geom_segment(ends, arrows, arrow = ggplot2::arrow(length = ggplot2::unit(0.06, "inches")), linewidth = 0.4) +
    ggplot2::labs(x = paste(reduction, 1), y = paste(reduction, 2), colour = group.by) +
    ggplot2::theme_minimal()
}

# The parts of an object with spliced counts as the main ones, and beside them `unspliced`, blocks of genes x cells.
velocity_parts <- function(object, spliced, unspliced, call = rlang::caller_env()) {
  if (inherits(object, "Seurat")) {
    parts <- parts_of(object, spliced, "counts", call = call)
    if (!unspliced %in% assay_names(object)) {
      have <- paste0("It has ", some(assay_names(object), 12), ".")
      abort_scduet(sprintf("The object has no assay \"%s\".", unspliced), have, "inputs", call)
    }
    parts$unspliced <- lapply(assay_matrix(object, unspliced, call), function(x) x[, rownames(parts$cells), drop = FALSE])
    return(parts)
  }
  parts <- parts_of(object, NULL, spliced, call = call)
  parts$unspliced <- list(need_assay(object, unspliced, call))
  parts
}

put_velocity <- function(object, found, cells, assay.name, reduction, assay, verbose) {
  object <- put_denoised(object, receive_denoised(found$velocity, cells), assay.name)
  table <- receive_frame(found$cells)
  arrows <- as.matrix(table[startsWith(names(table), "arrow_")])
  names <- c(
    velocity_confidence = "velocity.confidence", velocity_length = "velocity.length", latent_time = "latent.time",
    velocity_uncertainty = "velocity.uncertainty"
  )
  for (name in intersect(names(names), names(table))) object <- put_column(object, names[[name]], table[[name]], cells)
  key <- paste0("velocity_", if (is.null(reduction)) "pca" else reduction)
  if (inherits(object, "Seurat")) {
    known <- with_known_assays(object)
    known[[key]] <- make_reduction(unname(arrows), cells, key, assay)
    object <- with_own_assays(known, object)
  } else {
    SingleCellExperiment::reducedDim(object, key) <- unname(arrows)
  }
  verdict <- as.character(found$verdict)
  inform_scduet(verdict, verbose)
  scores <- unlist(receive_frame(found$scores))
  put_misc(object, "scduet.velocity", list(scores = scores, genes = receive_frame(found$genes), verdict = verdict))
}
