test_that("what the engine says is R's, without the syntax of Python", {
  expect_identical(in_r_words("it takes ['a', 'b_c'] or None"), "it takes 'a', 'b_c' or NULL")
  expect_identical(in_r_words("[1, 2.5] and ('x', 'y') and ('x',) and []"), "1, 2.5 and 'x', 'y' and 'x' and none")
  expect_identical(in_r_words("var['highly_variable'] (see obs['x'])"), "var['highly_variable'] (see obs['x'])")
  expect_identical(in_r_words("pass batch_key=True"), "pass batch=TRUE")
  expect_identical(in_r_words("map_query() adds new batches"), "MapToReference() adds new batches")
})

test_that("the nearest name is found, and none where none is near", {
  known <- c("batch", "labels", "batch_size", "max_epochs")
  expect_identical(nearest("bacth", known), "batch")
  expect_identical(nearest("Max.Epoch", known), "max_epochs")
  expect_null(nearest("palette", known))
  expect_null(nearest("x", character()))
})

test_that("a column that is misspelt names the nearest", {
  skip_if_no_seurat()
  object <- small_seurat()
  for (wrong in c("dnoor", "Donor", "donors")) {
    error <- tryCatch(RunSCVI(object, batch = wrong), error = identity)
    expect_s3_class(error, "scduet_error_column")
    expect_match(conditionMessage(error), "Did you mean \"donor\"", fixed = TRUE)
  }
})

# An error of this class that asks whether `meant` was meant.
expect_meant <- function(meant, code, class = "option") {
  error <- tryCatch(code, error = identity)
  expect_s3_class(error, paste0("scduet_error_", class))
  expect_match(conditionMessage(error), sprintf("`%s`", meant), fixed = TRUE)
}

test_that("an argument that is misspelt, or called so elsewhere, is an error that names the right one", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  expect_meant("batch", RunSCVI(object, bacth = "donor", verbose = FALSE))
  expect_meant("batch", RunSCVI(object, group.by.vars = "donor", verbose = FALSE))
  expect_meant("batch", RunSCVI(object, group.by = "donor", verbose = FALSE))
  expect_meant("batch", AnnotateCells(object, object, "kind", bacth = "donor", verbose = FALSE))
  expect_meant("max_epochs", RunSCVI(counts_in(object), epochs = 3, verbose = FALSE))
  expect_meant("batch", RunSCVI(object, batch_key = "donor"), "argument")
  trained <- run(object, batch = "donor")
  expect_meant("max_epochs", MapToReference(object, trained, max_epoch = 3, verbose = FALSE))
  expect_meant("fdr.target", FindModelMarkers(trained, "T", group.by = "kind", fdr_targt = 0.1))
  expect_meant("group.by", FindModelMarkers(trained, "T", groupby = "kind"), "argument")
  expect_meant("with_baselines", ScoreIntegration(trained, with.baseline = FALSE))
  expect_meant("title", WriteReport(trained, tempfile(fileext = ".html"), tittle = "x"))
  expect_meant("reduction", NormalizeExpression(trained, reducton = "scvi"), "argument")
  expect_meant("reduction", ScduetModel(trained, reducton = "scvi"), "argument")
  expect_meant("layers", WriteH5AD(trained, tempfile(fileext = ".h5ad"), layrs = "data"), "argument")
  expect_error(ScoreIntegration(trained, metrics = "zz"), class = "scduet_error_option")
  expect_error(check_no_options(3), class = "scduet_error_argument")
})

test_that("cells without counts in the features used are named, and the remedy works", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  counts <- counts_in(object)
  counts[1:10, c(3, 8:14)] <- 0
  object <- suppressWarnings(SeuratObject::CreateSeuratObject(counts))
  empty <- tryCatch(run(object, features = rownames(object)[1:10]), error = identity)
  expect_s3_class(empty, "scduet_error_data")
  expect_identical(empty$cells, colnames(object)[c(3, 8:14)])
  expect_words(conditionMessage(empty))
  object <- object[, setdiff(colnames(object), empty$cells)]
  expect_identical(nrow(run(object, features = rownames(object)[1:10])[["scvi"]]), 112L)
})
