#' Differential expression with a model
#'
#' Computes the posterior probability that the absolute log2 fold change of a gene between two groups of cells exceeds
#' delta. These are not p-values: the model treats cells as independent, which cells of the same donor are not.
#'
#' `attr(, "calibration")` reports how many genes are still called when the cell labels are permuted
#' (`n_called_permuted`, and as a fraction of all calls `fdr_permuted`). This measures the sampling noise of cells, but
#' not errors of the model or differences between donors or batches that are confounded with the groups.
#' @param object Seurat object or SingleCellExperiment with a model: see [ScduetModel()].
#' @param ident.1,ident.2 Groups to compare; `ident.2 = NULL` for all other cells.
#' @param group.by Column of the metadata with the groups; `NULL` for the active identity of a Seurat object.
#' @param reduction Name of the reduction whose model is wanted; `NULL` where there is only one.
#' @param mode "change" or "vanilla"; for probabilities, such as those of peaks by PeakVI, also "difference".
#' @param delta Smallest log2 fold change of interest; in mode "difference" the smallest difference, e.g. 0.05.
#' @param fdr.target Expected share of false calls among `is_de`.
#' @param min.pct Genes are tested that have counts in at least this share of the cells of either group, as in
#'   `Seurat::FindMarkers()`; 0 for all. The default is that of Seurat 4: models decode some expression for genes that
#'   were hardly measured, and most calls of such genes are not confirmed by replicates.
#' @param logfc.threshold Genes are tested whose `avg_log2FC` is at least this, up or down.
#' @param only.pos Test and return only genes that are higher in `ident.1`, by the counts and by the model.
#' @param modality Another matrix that the model decodes, such as "protein", to compare; `NULL` for the main one.
#' @param assay Assay to take the counts from; `NULL` for the one that the model was trained on, else the default one.
#' @param verbose Show how many genes were tested and called.
#' @param ... Further options of the engine, e.g. `batch_correction = TRUE`.
#' @inheritParams RunModel
#' @returns A data frame with a row for each gene, tested ones first and the surest on top: `avg_log2FC`, of the counts, as
#'   `Seurat::FindMarkers()` of Seurat 5 computes it; `model_log2FC`, the median under the model, or in
#'   mode "difference" `model_difference`, of the means; `pct.1`, `pct.2`, `proba_de` (in mode "vanilla" `proba_m1`),
#'   `bayes_factor`, `is_de` and `tested`. Genes that are not tested are never called.
#' @references Lopez et al. (2018); Boyeau et al. (2019), \doi{10.1101/794289}
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- RunSCVI(SeuratObject::pbmc_small, features = genes, max_epochs = 2, verbose = FALSE)
#' head(FindModelMarkers(obj, ident.1 = "A", group.by = "letter.idents"))
FindModelMarkers <- function(object, ident.1, ident.2 = NULL, group.by = NULL, reduction = NULL, assay = NULL,
                             layer = "counts", mode = "change", delta = 0.25, fdr.target = 0.05, min.pct = 0.1,
                             logfc.threshold = 0, only.pos = FALSE, modality = NULL, seed.use = 42, verbose = TRUE, ...) {
  check_flag(only.pos, "only.pos")
  check_option_names(list(...), rlang::current_env())
  model <- ScduetModel(object, reduction = reduction)
  parts <- parts_of(object, trained_assay(object, model, assay), layer)
  parts$cells$scduet_group <- as_level(groups_of(object, parts$cells, group.by))
  parts$cells$scduet_total <- total_counts(parts$blocks, rownames(parts$cells)) # the model may not use all genes
  ident.1 <- as_level(ident.1) # clusters may be given as numbers
  if (!is.null(ident.2)) ident.2 <- as_level(ident.2)
  for (level in c(ident.1, ident.2)) check_level(level, parts$cells$scduet_group)
  options <- list(
    groupby = "scduet_group", group1 = as_option(ident.1), group2 = as_option(ident.2), mode = mode, delta = delta,
    fdr_target = fdr.target, min_pct = min.pct, lfc_threshold = logfc.threshold, only_pos = only.pos,
    total_key = if (is.null(modality)) "scduet_total", modality = modality, seed = check_whole(seed.use, "seed.use")
  )
  found <- ask("markers",
    folder = model_folder(model), sha256 = model$sha256,
    adata = anndata_for(parts, model, c("scduet_group", "scduet_total")),
    options = c(Filter(Negate(is.null), options), lapply(list(...), as_option))
  )
  inform_scduet(py_value(found$summary), verbose)
  as_markers(receive_frame(found$genes), receive_frame(found$calibration))
}

as_markers <- function(table, calibration) {
  if ("proba_de" %in% names(table) && !"lfc_median" %in% names(table)) table$difference <- table$scale1 - table$scale2
  names <- c(
    avg_log2FC = "raw_lfc", model_log2FC = "lfc_median", model_difference = "difference", pct.1 = "non_zeros_proportion1", pct.2 = "non_zeros_proportion2",
    proba_de = "proba_de", proba_m1 = "proba_m1", bayes_factor = "bayes_factor", is_de = "is_de", tested = "tested"
  )
  names <- names[names %in% names(table)]
  out <- table[names]
  names(out) <- names(names)
  rownames(out) <- make.unique(table$gene)
  structure(out, calibration = calibration)
}

# Total count of each cell over all genes.
total_counts <- function(blocks, cells) {
  pieces <- unlist(lapply(unname(blocks), as_blocks), recursive = FALSE)
  totals <- unlist(lapply(pieces, function(piece) unname(Matrix::colSums(as_dgc(piece)))))
  names <- unlist(lapply(unname(blocks), colnames))
  if (is.null(names) || anyDuplicated(names)) totals else totals[match(cells, names)]
}

groups_of <- function(object, cells, group.by, call = rlang::caller_env()) {
  if (is.null(group.by) && inherits(object, "Seurat")) {
    return(SeuratObject::Idents(object)[rownames(cells)])
  }
  if (is.null(group.by)) {
    abort_scduet("`group.by` must be the name of the column with the groups.", class = "argument", call = call)
  }
  check_column(cells, group.by, "group.by", call = call)
  cells[[group.by]]
}

check_level <- function(level, groups, call = rlang::caller_env()) {
  if (!level %in% groups) {
    have <- paste0("There are ", some(unique(groups), 12), ".")
    abort_scduet(sprintf("Group \"%s\" has no cells.", level), have, "group", call)
  }
}
