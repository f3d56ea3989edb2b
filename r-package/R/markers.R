#' Genes that differ between groups, by a model
#'
#' The probability, under the model, that a gene's log2 fold change between two groups of cells leaves (-delta, delta).
#' These are no p-values, and none are given: cells are taken for independent, which cells of one donor are not. How many
#' calls are false is estimated by permuting the labels; see `attr(, "calibration")`.
#'
#' @param object Seurat object or SingleCellExperiment that holds a model.
#' @param ident.1,ident.2 Groups to compare; `ident.2 = NULL` for all other cells.
#' @param group.by Column of the metadata with the groups; `NULL` for the active identity of a Seurat object.
#' @param reduction Name of the reduction whose model is wanted; `NULL` where there is only one.
#' @param mode "change" or "vanilla".
#' @param delta Smallest log2 fold change of interest.
#' @param fdr.target Expected share of false calls among `is_de`.
#' @param ... Further options of the engine, e.g. `batch_correction = TRUE`.
#' @inheritParams RunModel
#' @returns A data frame with a row for each gene, the surest first: `avg_log2FC`, `pct.1`, `pct.2`, `proba_de`,
#'   `bayes_factor`, `is_de`.
#' @references Lopez et al. (2018); Boyeau et al. (2019), \doi{10.1101/794289}
#' @family tasks
#' @export
#' @examples
#' \dontrun{
#' FindModelMarkers(obj, ident.1 = "B cell", group.by = "cell_type")
#' }
FindModelMarkers <- function(object, ident.1, ident.2 = NULL, group.by = NULL, reduction = NULL, assay = NULL,
                             layer = "counts", mode = "change", delta = 0.25, fdr.target = 0.05, seed.use = 42, ...) {
  check_option_names(list(...), rlang::current_env())
  model <- ScduetModel(object, reduction = reduction)
  parts <- parts_of(object, assay, layer)
  parts$cells$scduet_group <- as.character(groups_of(object, parts$cells, group.by))
  for (level in c(ident.1, ident.2)) check_level(level, parts$cells$scduet_group)
  options <- list(
    groupby = "scduet_group", group1 = as_option(ident.1), group2 = as_option(ident.2), mode = mode, delta = delta,
    fdr_target = fdr.target, seed = check_whole(seed.use, "seed.use")
  )
  found <- ask("markers",
    folder = model_folder(model), sha256 = model$sha256, adata = anndata_for(parts, model, "scduet_group"),
    options = c(Filter(Negate(is.null), options), lapply(list(...), as_option))
  )
  as_markers(receive_frame(found$genes), receive_frame(found$calibration))
}

as_markers <- function(table, calibration) {
  names <- c(
    avg_log2FC = "lfc_mean", pct.1 = "non_zeros_proportion1", pct.2 = "non_zeros_proportion2", proba_de = "proba_de",
    bayes_factor = "bayes_factor", is_de = "is_de"
  )
  names <- names[names %in% names(table)]
  out <- table[names]
  names(out) <- names(names)
  rownames(out) <- make.unique(table$gene)
  structure(out, calibration = calibration)
}

groups_of <- function(object, cells, group.by, call = rlang::caller_env()) {
  if (is.null(group.by) && inherits(object, "Seurat")) {
    return(SeuratObject::Idents(object))
  }
  if (is.null(group.by)) {
    abort_scduet("`group.by` must name the column with the groups.", class = "argument", call = call)
  }
  check_column(cells, group.by, "group.by", call = call)
  cells[[group.by]]
}

check_level <- function(level, groups, call = rlang::caller_env()) {
  if (!level %in% groups) {
    have <- paste0("There are ", some(unique(groups), 12), ".")
    abort_scduet(sprintf("There are no cells in the group \"%s\".", level), have, "group", call)
  }
}
