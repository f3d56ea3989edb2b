test_that("arguments of SeuratWrappers' scVIIntegration() have their names here", {
  expect_message(
    given <- from_seurat_wrappers(list(ndims = 30, max_epochs = 5, nlayers = 2, conda_env = "env"), verbose = TRUE),
    "conda_env", class = "scduet_message"
  )
  expect_identical(given, list(n_latent = 30, max_epochs = 5, n_layers = 2))
  expect_no_message(from_seurat_wrappers(list(conda_env = NULL), verbose = FALSE))
  expect_error(from_seurat_wrappers(list(ndims = 30, n_latent = 10), TRUE), "n_latent", class = "scduet_error_option")
})

test_that("an SCTAssay is integrated by the groups it was normalized in, and told what its counts are", {
  skip_if_no_engine()
  skip_if_no_seurat()
  loadNamespace("Seurat") # has the class
  plain <- suppressWarnings(SeuratObject::CreateAssayObject(counts_of_two_batches()))
  assay <- methods::as(plain, "SCTAssay")
  groups <- data.frame(group = rep(c("a", "b"), length.out = ncol(assay)), row.names = colnames(assay))
  train <- function(groups) {
    SCVIIntegration(assay, groups = groups, max_epochs = 2, n_latent = 4, n_hidden = 16, verbose = FALSE)
  }
  expect_warning(found <- train(groups), "RNA", class = "scduet_warning")
  expect_identical(dim(SeuratObject::Embeddings(found$integrated.scvi)), c(ncol(assay), 4L))
  expect_identical(ScduetModel(found$integrated.scvi)$name, "scvi")
  expect_error(train(NULL), class = "scduet_error_layers")
})
