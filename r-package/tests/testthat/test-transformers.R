test_that("a Seurat object gets the embedding that Python computes, for each family", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- two_kinds()
  runs <- list(geneformer = RunGeneformer, scgpt = RunScGPT, scfoundation = RunScFoundation)
  for (family in names(runs)) {
    folder <- checkpoint(family)
    found <- runs[[family]](object, folder, verbose = FALSE)
    reduction <- found[[family]]
    expect_identical(SeuratObject::Key(reduction), paste0(family, "_"))
    expect_identical(rownames(SeuratObject::Embeddings(reduction)), colnames(object))
    model <- reticulate::import("scduet", convert = FALSE)$load(folder)
    expected <- reticulate::py_to_r(model$embed(as_anndata(object))$tolist())
    expect_equal(unname(SeuratObject::Embeddings(reduction)), do.call(rbind, lapply(expected, unlist)), tolerance = 1e-6)
    expect_identical(methods::slot(reduction, "misc")$scduet.transformer$model, family)
    expect_true(any(startsWith(SeuratObject::Command(found), c("RunGeneformer.", "RunScGPT.", "RunScFoundation."))))
  }
})

test_that("the family is found out, a wrong one refused, and options are passed on", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- two_kinds()
  folder <- checkpoint("geneformer")
  default <- SeuratObject::Embeddings(RunPretrained(object, folder, verbose = FALSE), "geneformer")
  last <- RunPretrained(object, folder, emb_layer = 0, reduction.name = "last", verbose = FALSE)
  expect_gt(max(abs(default - SeuratObject::Embeddings(last, "last"))), 1e-3)
  expect_error(RunScGPT(object, folder, verbose = FALSE), "RunGeneformer", class = "scduet_error_option")
  expect_error(RunGeneformer(object, folder, poling = "cls", verbose = FALSE), "pooling", class = "scduet_error_option")
  expect_error(RunGeneformer(object, tempfile(), verbose = FALSE), class = "scduet_error_format")
  expect_error(RunGeneformer(object, folder, labels = "kin"), class = "scduet_error_column")
  expect_error(RunGeneformer(object, folder, gene.names = c("a", "b")), class = "scduet_error_argument")
  expect_error(RunGeneformer("text", folder), class = "scduet_error_class")
  strange <- two_kinds(paste0("gene", 1:90))
  expect_error(RunScGPT(strange, checkpoint("scgpt"), verbose = FALSE), "0 of 90 genes", class = "scduet_error_data")
})

test_that("genes may be named in another place, and a matrix gives a matrix", {
  skip_if_no_engine()
  skip_if_no_seurat()
  folder <- checkpoint("geneformer")
  expected <- SeuratObject::Embeddings(RunGeneformer(two_kinds(), folder, verbose = FALSE), "geneformer")
  numbered <- two_kinds(paste0("feature", 1:90))
  ids <- sprintf("ENSG%011d", 0:89)
  named <- RunGeneformer(numbered, folder, gene.names = ids, verbose = FALSE)
  expect_equal(SeuratObject::Embeddings(named, "geneformer"), expected)
  plain <- RunGeneformer(counts_in(two_kinds()), folder, verbose = FALSE)
  expect_equal(unclass(plain), expected, ignore_attr = TRUE)
  expect_identical(dimnames(plain), dimnames(expected))
  skip_if_not_installed("SingleCellExperiment")
  sce <- SingleCellExperiment::SingleCellExperiment(list(counts = counts_in(two_kinds())))
  sce <- RunGeneformer(sce, folder, verbose = FALSE)
  expect_equal(SingleCellExperiment::reducedDim(sce, "GENEFORMER"), expected)
})

test_that("with labels the scores stand beside those of principal components", {
  skip_if_no_engine()
  skip_if_no_seurat()
  told <- character()
  withCallingHandlers(
    object <- suppressWarnings(RunScGPT(two_kinds(), checkpoint("scgpt"), labels = "kind")),
    scduet_message = function(m) {
      told <<- c(told, conditionMessage(m))
      invokeRestart("muffleMessage")
    }
  )
  scores <- SeuratObject::Misc(object, "scduet.scores")
  expect_true(all(c("scgpt", "pca_hvg") %in% rownames(scores)))
  expect_gt(scores["pca_hvg", "bio"], 0.5)
  expect_true(any(grepl("90 of 90 genes", told)))
  expect_true(any(grepl("cell 30 of 30", told)))
  expect_match(told[length(told)], "pca_hvg")
})

test_that("genes have vectors: those learned, and those in the cells that express them", {
  skip_if_no_engine()
  skip_if_no_seurat()
  folder <- checkpoint("geneformer")
  learned <- GeneEmbeddings(folder)
  expect_identical(dim(learned), c(90L, 16L))
  expect_identical(rownames(learned)[1], "ENSG00000000000")
  inside <- GeneEmbeddings(folder, two_kinds())
  expect_gt(max(abs(inside - learned[rownames(inside), ])), 0.01)
})
