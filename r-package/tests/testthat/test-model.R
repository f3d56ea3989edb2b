test_that("saving and loading keep the model; a folder is not overwritten unasked", {
  skip_if_no_engine()
  object <- run(counts_of_two_batches())
  model <- ScduetModel(object)
  path <- tempfile()
  SaveModel(object, path)
  expect_identical(LoadModel(path)[c("name", "genes", "epochs")], model[c("name", "genes", "epochs")])
  expect_equal(LoadModel(path)$history, model$history)
  expect_error(SaveModel(object, path), class = "scduet_error_format")
  expect_identical(SaveModel(object, path, overwrite = TRUE), path)
})

test_that("a model that is too large stays in its folder, and is missed when that is gone", {
  skip_if_no_engine()
  old <- options(scduet.largest_inside = 1000)
  on.exit(options(old))
  expect_warning(run(counts_of_two_batches()), class = "scduet_warning_large_model")
  path <- tempfile()
  expect_silent(object <- run(counts_of_two_batches(), model.path = path))
  expect_null(ScduetModel(object)$files)
  unlink(path, recursive = TRUE)
  expect_error(SaveModel(object, tempfile()), class = "scduet_error_format")
})

test_that("an object without a model, or with several, says what to do", {
  skip_if_no_seurat()
  object <- small_seurat()
  expect_error(ScduetModel(object), class = "scduet_error_no_model")
  expect_text(ScduetModel(object))
  expect_error(pick_model(list(a = 1, b = 2), NULL), "a.*b", class = "scduet_error_no_model")
  expect_identical(pick_model(list(a = 1, b = 2), "b"), 2)
})

test_that("a folder that is no model is refused", {
  skip_if_no_engine()
  expect_error(LoadModel(tempdir()), class = "scduet_error_format")
})

test_that("a model prints what it is", {
  model <- structure(
    list(
      name = "scvi", version = "0.1.0", sha256 = "0", genes = c("A", "B", "C", "D"), batch = "donor", labels = NULL,
      epochs = 12, history = data.frame(), files = list(a = raw(2e6)), path = NULL
    ),
    class = "ScduetModel"
  )
  expect_snapshot(print(model), cran = TRUE)
})

test_that("the training curves can be drawn", {
  skip_if_not_installed("ggplot2")
  model <- structure(
    list(history = data.frame(epoch = 0:2, loss_train = 3:1, loss_validation = c(4, NA, 2), lr = 1)),
    class = "ScduetModel"
  )
  drawn <- PlotHistory(model)
  expect_identical(sort(unique(drawn$data$cells)), c("train", "validation"))
  expect_identical(drawn$data$value[drawn$data$cells == "train"], c(3, 2, 1))
  expect_error(PlotHistory(model, terms = "kl"), class = "scduet_error_argument")
})
