test_that("arguments of SeuratWrappers' scVIIntegration() have their names here", {
  expect_message(
    given <- from_seurat_wrappers(list(ndims = 30, max_epochs = 5, nlayers = 2, conda_env = "env"), verbose = TRUE),
    "conda_env", class = "scduet_message"
  )
  expect_identical(given, list(n_latent = 30, max_epochs = 5, n_layers = 2))
  expect_no_message(from_seurat_wrappers(list(conda_env = NULL), verbose = FALSE))
  expect_error(from_seurat_wrappers(list(ndims = 30, n_latent = 10), TRUE), "n_latent", class = "scduet_error_option")
})
