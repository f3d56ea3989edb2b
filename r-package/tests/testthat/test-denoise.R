denoised <- function(object, ...) suppressWarnings(DenoiseData(object, ..., verbose = FALSE), classes = "scduet_warning")

test_that("denoised counts keep the depth of the cells, and replace what was denoised before", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  expect_warning(DenoiseData(object, "walk", verbose = FALSE), class = "scduet_warning")
  object <- denoised(object, "walk", t = 2)
  values <- layer_blocks(object[["denoised"]], "data")[[1]]
  expect_identical(dimnames(values), list(rownames(object), colnames(object)))
  expect_equal(unname(Matrix::colSums(values)), unname(Matrix::colSums(counts_in(object))), tolerance = 1e-4)
  again <- denoised(denoised(object, "walk", t = 7), "walk", t = 2)
  expect_equal(layer_blocks(again[["denoised"]], "data")[[1]], values)
  expect_error(denoised(object, "walk", assay.name = "RNA"), class = "scduet_error_exists")
  expect_error(denoised(object, "wlak"), class = "scduet_error_option")
})

test_that("methods are compared beside the mean of each gene", {
  skip_if_no_engine()
  skip_if_no_seurat()
  found <- CompareDenoisers(small_seurat(), "walk", labels = "kind", verbose = FALSE)
  expect_identical(rownames(found), c("gene mean", "type means", "no denoising", "walk"))
  expect_equal(found["gene mean", "d2"], 0)
  expect_lt(found["no denoising", "d2"], found["walk", "d2"])
  expect_error(CompareDenoisers(small_seurat(), "walk", labels = "type"), class = "scduet_error_column")
})
