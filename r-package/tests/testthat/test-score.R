test_that("scores come beside the unintegrated PCA, and are those of Python", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- run(small_seurat(), batch = "donor")
  scores <- ScoreIntegration(object, "scvi",
    batch = "donor", labels = "kind", metrics = c("silhouette_label", "batch_entropy"), with_baselines = TRUE
  )
  expect_true(all(c("scvi", "pca") %in% rownames(scores)))
  expect_true(all(c("silhouette_label", "batch_entropy", "bio", "batch", "total") %in% names(scores)))
  expect_true(all(scores$batch_entropy >= 0 & scores$batch_entropy <= 1))
  skip_if_not_installed("ggplot2")
  drawn <- PlotScores(scores)
  expect_setequal(levels(drawn$data$reduction), rownames(scores))
  expect_equal(plot(scores)$data, drawn$data)
  model <- ScduetModel(object)
  expect_equal(plot(model)$data, PlotHistory(object)$data)
})

test_that("reasons for missing values are told", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- run(small_seurat())
  scores <- ScoreIntegration(object, "scvi", batch = "donor", metrics = c("silhouette_label", "batch_entropy"), with_baselines = FALSE)
  expect_true(is.na(scores["scvi", "silhouette_label"]))
  reasons <- attr(scores, "reasons")
  expect_match(reasons$reason[reasons$metric == "silhouette_label"], "labels")
  expect_setequal(reasons$metric, c("silhouette_label", "bio", "batch", "total", "rank"))
})

test_that("a reduction or column that is not there is an error", {
  skip_if_no_seurat()
  object <- small_seurat()
  expect_error(ScoreIntegration(object, "umap"), class = "scduet_error_reduction")
  expect_error(ScoreIntegration(object, batch = "zz"), class = "scduet_error_column")
})

test_that("a reduction that learned the labels is told of, and one that did not is not", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  object$other <- rep(c("p", "q"), each = 60)
  quick <- list(batch = "donor", labels = "kind", max_epochs = 2, n_hidden = 16, verbose = FALSE)
  for (fun in c(RunSCVI, RunSCANVI)) object <- do.call(fun, c(list(object), quick))
  score <- function(...) {
    ScoreIntegration(object, batch = "donor", metrics = c("silhouette_label", "ilisi"), with_baselines = FALSE, ...)
  }
  expect_message(scores <- score(labels = "kind"), "scanvi was trained on the labels 'kind'", class = "scduet_message")
  expect_length(attr(scores, "notes"), 1)
  expect_match(attr(scores, "notes"), "^scanvi ")
  expect_no_message(scores <- score(labels = "other"))
  expect_length(attr(scores, "notes"), 0)
})

test_that("a score needs batches or labels", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  object[["pca"]] <- make_reduction(matrix(stats::qnorm((seq_len(480) * 0.618034) %% 1), 120, 4), colnames(object), "pca", "RNA")
  expect_error(ScoreIntegration(object), "`?batch`?.*`?labels`?", class = "scduet_error_option")
})
