test_that("deleting a gene moves cells as much as cells without its counts lie apart", {
  skip_if_no_engine()
  skip_if_no_seurat()
  folder <- checkpoint("geneformer")
  counts <- as.matrix(counts_in(two_kinds()))
  counts[31:90, ] <- 0 # few genes, so that all are read
  counts[1, ] <- 3
  table <- PerturbGenes(as_object(counts), folder, c("GENE0", "GENE7"), n.random = 3, max.cells = NULL, verbose = FALSE)
  expect_setequal(rownames(table), c("GENE0", "GENE7"))
  expect_true(all(c("shift", "random_shift", "p_value", "fdr") %in% names(table)))
  expect_identical(table["GENE0", "n_expressed"], 30L)
  before <- RunGeneformer(counts, folder, verbose = FALSE)
  counts[1, ] <- 0
  after <- RunGeneformer(counts, folder, verbose = FALSE)
  cosine <- rowSums(before * after) / sqrt(rowSums(before^2) * rowSums(after^2))
  cells <- attr(table, "cells")
  shift <- cells$shift[cells$gene == "GENE0"]
  expect_equal(shift, unname(1 - cosine[cells$cell[cells$gene == "GENE0"]]), tolerance = 1e-4)
})

test_that("sets, goals, and genes that no cell holds", {
  skip_if_no_engine()
  skip_if_no_seurat()
  folder <- checkpoint("geneformer")
  object <- two_kinds()
  table <- PerturbGenes(object, folder, list(both = c("GENE1", "GENE2")),
    labels = "kind", start = "T", goal = "B", n.random = 2, max.cells = 5, verbose = FALSE
  )
  expect_identical(rownames(table), "both")
  expect_identical(table$n_cells, 5L)
  expect_true(all(c("towards", "p_towards") %in% names(table)))
  counts <- as.matrix(counts_in(object))
  counts[10, ] <- 0
  expect_error(PerturbGenes(as_object(counts), folder, "GENE9", verbose = FALSE), "0 of 30 cells", class = "scduet_error_data")
  expect_error(PerturbGenes(object, folder, "GENE9", how = "inhibit", verbose = FALSE), class = "scduet_error_option")
  expect_error(PerturbGenes(object, folder, "GENE9", labels = "zz"), class = "scduet_error_column")
  expect_error(PerturbGenes(object, checkpoint("scgpt"), "GENE9", verbose = FALSE), class = "scduet_error_option")
})
