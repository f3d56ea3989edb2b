test_that("doublets are scored in each capture, and as many are called as the rate says", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat(240)
  object$lane <- rep(c("first", "second"), length.out = 240)
  found <- FindDoublets(object, batch = "lane", rate = c(first = 0.1, second = 0.2), labels = "kind", verbose = FALSE)
  table <- methods::slot(found, "misc")$scduet.doublets
  expect_identical(table$capture, c("first", "second"))
  expect_equal(table$rate, c(0.1, 0.2))
  expect_identical(sum(found$doublet.class == "doublet"), as.integer(sum(table$n_called)))
  called <- found$lane == "first" & found$doublet.class == "doublet"
  expect_equal(min(found$doublet.score[called]), table$cutoff[1])
  expect_error(FindDoublets(object, batch = "lanes"), class = "scduet_error_column")
  expect_error(FindDoublets(object, method = "slo", verbose = FALSE), class = "scduet_error_option")
  expect_error(FindDoublets(object, rate = 2, verbose = FALSE), class = "scduet_error_option")
})
