#' Sum counts over the cells of a sample
#'
#' Sums the raw counts of the cells of each sample, within each cell type, for tests whose replicates are samples. Cells
#' of one donor are not independent, so that tests on cells call far too many genes between conditions.
#'
#' @param object A Seurat object or SingleCellExperiment with raw counts.
#' @param sample Column of the metadata with the sample, e.g. the donor.
#' @param group.by Column of the metadata with the cell type; `NULL` sums all cells of a sample.
#' @param min.cells Sums of fewer cells are left out.
#' @inheritParams NormalizeExpression
#' @returns A list for `DESeq2::DESeqDataSetFromMatrix()` and `edgeR::DGEList()`: `counts`, a matrix of genes and sums,
#'   and `samples`, a data frame with a row for each sum: `sample`, `group.by`, `n.cells`, and the columns of the metadata
#'   that do not differ within a sum, such as the condition. Cells without a sample or type are left out.
#' @references Squair et al. (2021), Confronting false discoveries in single-cell differential expression,
#'   \doi{10.1038/s41467-021-25960-2}
#' @family tasks
#' @export
#' @examples
#' counts <- matrix(rpois(20 * 60, 2), 20, 60)
#' dimnames(counts) <- list(paste0("gene", 1:20), paste0("cell", 1:60))
#' if (requireNamespace("SingleCellExperiment", quietly = TRUE)) {
#'   cells <- SingleCellExperiment::SingleCellExperiment(
#'     list(counts = counts),
#'     colData = data.frame(donor = rep(c("a", "b", "c"), 20), condition = rep(c("x", "y"), each = 30))
#'   )
#'   sums <- Pseudobulk(cells, sample = "donor", group.by = "condition")
#'   sums$samples
#' }
Pseudobulk <- function(object, sample, group.by = NULL, min.cells = 10, assay = NULL, layer = "counts") {
  min.cells <- check_whole(min.cells, "min.cells")
  parts <- parts_of(object, assay, layer)
  keys <- c(sample, group.by)
  for (key in keys) check_column(parts$cells, key, if (identical(key, sample)) "sample" else "group.by", may_miss = TRUE)
  levels <- lapply(parts$cells[keys], as_level)
  name <- ifelse(Reduce(`|`, lapply(levels, is.na)), NA, do.call(paste, c(unname(levels), sep = "_")))
  n.cells <- table(name)
  kept <- names(n.cells)[n.cells >= min.cells]
  if (!length(kept)) {
    said <- sprintf("No sample has %d cells.", min.cells)
    abort_scduet(said, "Set `min.cells` lower, or check `sample` and `group.by`.", "too_few")
  }
  cells <- which(name %in% kept)
  sums <- summed(parts$blocks, parts$genes, rownames(parts$cells)[cells], match(name[cells], kept), length(kept))
  dimnames(sums) <- list(parts$genes, kept)
  of_sum <- parts$cells[cells, , drop = FALSE]
  same <- vapply(of_sum, function(column) is_constant(column, name[cells]), TRUE)
  samples <- of_sum[match(kept, name[cells]), union(keys, names(same)[same]), drop = FALSE]
  rownames(samples) <- kept
  samples$n.cells <- as.integer(n.cells[kept])
  list(counts = sums, samples = samples)
}

# Sums of the columns of matrices that hold these cells, by place.
summed <- function(blocks, genes, cells, place, n) {
  total <- matrix(0, length(genes), n)
  for (piece in unlist(lapply(unname(blocks), as_blocks), recursive = FALSE)) {
    block <- as_dgc(piece)
    here <- match(colnames(block), cells)
    columns <- which(!is.na(here))
    member <- Matrix::sparseMatrix(seq_along(columns), place[here[columns]], x = 1, dims = c(length(columns), n))
    rows <- match(rownames(block), genes)
    total[rows, ] <- total[rows, ] + as.matrix(block[, columns, drop = FALSE] %*% member)
  }
  check_whole_sums(total)
  storage.mode(total) <- "integer"
  total
}

check_whole_sums <- function(total, call = rlang::caller_env(2)) {
  if (any(total < 0) || any(abs(total - round(total)) > 1e-3)) {
    said <- "The sums of the values are not whole numbers: these are no raw counts."
    abort_scduet(said, "Name the layer with raw counts with `layer`.", "not_counts", call)
  }
}

# Does a column have one value in each group?
is_constant <- function(column, group) {
  if (is.list(column)) {
    return(FALSE)
  }
  value <- match(column, unique(column))
  all(value == value[match(group, group)])
}
