# Two modules of 15 genes that cells have more or less of; the spatial cells show ten genes of each.
modules <- function(n, shift) {
  amount <- vapply(1:2, function(i) sin(seq_len(n) * (i + 0.3) + shift), numeric(n))
  rate <- exp(1 + 1.2 * t(amount)[rep(1:2, each = 15), ])
  x <- matrix(qpois((seq_along(rate) * 0.618034 + shift) %% 1, rate), 30, n)
  dimnames(x) <- list(paste0("gene_", 1:30), paste0("cell", shift, ".", seq_len(n)))
  x
}

seurat_of <- function(x) suppressWarnings(SeuratObject::CreateSeuratObject(methods::as(x, "CsparseMatrix")))

test_that("genes that spatial data lack are an assay, with the scores of held-out genes beside it", {
  skip_if_no_engine()
  skip_if_no_seurat()
  shown <- setdiff(1:30, c(1:5, 16:20))
  whole <- modules(80, 1)
  spatial <- seurat_of(whole[shown, ])
  reference <- seurat_of(modules(90, 0))
  found <- suppressWarnings(ImputeGenes(spatial, reference, n.folds = 2, verbose = FALSE))
  told <- methods::slot(found, "misc")$scduet.imputation
  expect_setequal(rownames(found[["imputed"]]), paste0("gene-", c(1:5, 16:20)))
  expect_identical(rownames(told$table), c("ridge", "knn", "knn_10", "depth", "mean"))
  expect_gt(told$table[told$model, "beyond_depth"], 0.4)
  expect_true(told$model %in% rownames(told$table) && is.character(told$notes))
  values <- SeuratObject::FetchData(found, paste0(SeuratObject::Key(found[["imputed"]]), "gene-1"))[, 1]
  expect_gt(stats::cor(values, log1p(whole["gene_1", ] / colSums(whole) * 1e4)), 0.4)
  one <- suppressWarnings(ImputeGenes(found, reference, genes = "gene-2", model = "ridge", assay = "RNA", verbose = FALSE))
  expect_identical(rownames(one[["imputed"]]), "gene-2")
  expect_error(ImputeGenes(spatial, reference, genes = "nobody"), class = "scduet_error_data")
  expect_error(ImputeGenes(spatial, reference, model = "tangram"), class = "scduet_error_option")
  expect_error(ImputeGenes(spatial, reference, model = "ridge", max_epochs = 3), class = "scduet_error_option")
  expect_error(ImputeGenes(spatial, reference, assay.name = "RNA"), class = "scduet_error")
})

test_that("gimVI is judged beside the others", {
  skip_if_no_engine()
  skip_if_no_seurat()
  spatial <- seurat_of(modules(80, 1)[setdiff(1:30, 1:3), ])
  found <- suppressWarnings(ImputeGenes(spatial, seurat_of(modules(90, 0)),
    model = "gimvi", n.folds = 2, max_epochs = 2, verbose = FALSE
  ))
  told <- methods::slot(found, "misc")$scduet.imputation
  expect_identical(told$model, "gimvi")
  expect_true("gimvi" %in% rownames(told$table) && sum(told$scores$method == "gimvi") == 27)
})
