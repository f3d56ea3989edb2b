# Objects with proteins or peaks: predicted assays, assays of unknown classes, alternative experiments.

cite_seq <- function(n = 200) {
  x <- counts_of_two_batches(n)
  kind <- rep(1:2, length.out = n)
  x[1:10, kind == 1] <- x[1:10, kind == 1] * 6
  proteins <- matrix(qpois((seq_len(4 * n) * 0.618034) %% 1, 10), 4, n, dimnames = list(paste0("CD", 1:4), colnames(x)))
  proteins[1:2, kind == 1] <- proteins[1:2, kind == 1] * 9
  object <- suppressWarnings(SeuratObject::CreateSeuratObject(x))
  object[["ADT"]] <- SeuratObject::CreateAssayObject(counts = methods::as(proteins, "CsparseMatrix"))
  object
}

trained_on <- function(object) {
  suppressWarnings(RunTotalVI(object, "ADT", max_epochs = 20, n_latent = 3, n_hidden = 16, batch_size = 32, verbose = FALSE))
}

test_that("an assay is predicted from RNA, and judged beside simple methods", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- trained_on(cite_seq())
  query <- cite_seq()[, 1:60]
  truth <- log1p(as.matrix(counts_in(query, "ADT")))
  query[["ADT"]] <- NULL
  for (use in c("model", "knn")) {
    query <- suppressWarnings(PredictAssay(query, object, "ADT", use = use, verbose = FALSE))
    values <- as.matrix(layer_blocks(query[["predicted.ADT"]], "data")[[1]])
    expect_identical(dimnames(values), dimnames(truth))
    expect_gt(cor(values["CD1", ], truth["CD1", ]), 0.8)
    table <- query@misc$scduet.prediction
    expect_identical(table$method, c("totalvi", "knn", "ridge", "kernel_ridge", "mean"))
    expect_identical(table$method[table$used], if (use == "model") "totalvi" else "knn")
  }
  by_name <- suppressWarnings(PredictAssay(query, ScduetModel(object),
    reference = object, assay.name = "x", spread = TRUE, verbose = FALSE
  ))
  deviations <- as.matrix(layer_blocks(by_name[["x.sd"]], "data")[[1]])
  expect_identical(dimnames(deviations), dimnames(truth))
  expect_true(all(deviations > 0))
  expect_equal(dim(by_name[["x"]]), dim(query[["predicted.ADT"]]))
  expect_error(PredictAssay(query, ScduetModel(object), "ADT"), class = "scduet_error_reference")
  expect_error(PredictAssay(query, object, "HTO"), "HTO.*ADT", class = "scduet_error_assay")
  expect_error(PredictAssay(query, object, "ADT", use = "lasso"), "lasso", class = "scduet_error_option")
  expect_error(PredictAssay(query, object, assay.name = "RNA"), "RNA", class = "scduet_error_exists")
  expect_error(PredictAssay(query, object[, 1:100], "ADT"), "100", class = "scduet_error_data")
})

test_that("PredictAssay() of Seurat can still be called", {
  skip_if_no_seurat()
  object <- cite_seq()
  SeuratObject::DefaultAssay(object) <- "ADT"
  object <- suppressWarnings(Seurat::NormalizeData(object, normalization.method = "CLR", margin = 2, verbose = FALSE))
  neighbors <- matrix(c(2:200, 1, 3:200, 1, 2), 200)
  expected <- as.matrix(layer_blocks(object[["ADT"]], "data")[[1]])
  proteins <- rownames(expected)
  slot <- if (is_v5()) list(layer = "data") else list(slot = "data")
  call <- c(list(object, assay = "ADT", features = proteins, verbose = FALSE), slot)
  skip_if(is_v5() && !"layer" %in% names(formals(Seurat::PredictAssay)), "this Seurat takes no layer")
  for (given in list(list(nn.idx = neighbors), list(model = neighbors))) {
    found <- do.call(PredictAssay, c(call, given))
    values <- as.matrix(layer_blocks(found, "data")[[1]])
    expect_equal(unname(values[, 1]), unname(rowMeans(expected[, 2:3])))
  }
})

test_that("an assay of a class that is not installed is read from its slots, and said once", {
  skip_if_no_engine()
  skip_if_no_seurat()
  rlang::reset_message_verbosity("scduet_class_ChromatinAssay")
  object <- cite_seq()
  assay <- object[["ADT"]]
  attr(assay, "ranges") <- "chr1:1-100"
  attr(assay, "class") <- structure("ChromatinAssay", package = "Signac")
  object@assays[["ADT"]] <- assay
  skip_if(is_defined(class(assay)), "Signac is installed")
  expect_message(adata <- as_anndata(object, verbose = FALSE), "ChromatinAssay.*ADT", class = "scduet_message")
  expect_message(main <- as_anndata(object, assay = "ADT", verbose = FALSE), NA)
  expect_equal(unname(as.matrix(receive_matrix(ask("part", adata = main, place = "X")))), unname(as.matrix(counts_in(cite_seq(), "ADT"))))
  peaks <- suppressWarnings(RunPeakVI(object, assay = "ADT", max_epochs = 1, n_latent = 2, n_hidden = 8, verbose = FALSE))
  expect_equal(dim(SeuratObject::Embeddings(peaks[["peakvi"]])), c(200L, 2L))
  expect_identical(attr(peaks@assays$ADT, "ranges"), "chr1:1-100")
  peaks <- NormalizeAccessibility(peaks, assay = "ADT")
  expect_equal(nrow(peaks@assays$accessibility), 4)
  expect_identical(class(peaks@assays$ADT), class(assay))
  setClass("ChromatinLike", contains = "Assay", slots = c(ranges = "character"), where = globalenv())
  on.exit(removeClass("ChromatinLike", where = globalenv()))
  like <- methods::new("ChromatinLike", cite_seq()[["ADT"]], ranges = "chr1:1-100")
  object@assays[["ADT"]] <- like
  expect_equal(py_value(ask("contents", adata = as_anndata(object, verbose = FALSE)))$obsm, "ADT", ignore_attr = TRUE)
})

test_that("alternative experiments are carried with the names of their features", {
  skip_if_no_engine()
  skip_if_not_installed("SingleCellExperiment")
  x <- counts_of_two_batches()
  object <- SingleCellExperiment::SingleCellExperiment(list(counts = x))
  proteins <- x[1:3, ]
  rownames(proteins) <- c("CD3", "CD4", "CD8")
  SingleCellExperiment::altExp(object, "ADT") <- SummarizedExperiment::SummarizedExperiment(list(counts = proteins))
  adata <- as_anndata(object)
  back <- suppressWarnings(as_seurat(adata))
  expect_equal(as.matrix(counts_in(back, "ADT")), as.matrix(proteins), ignore_attr = TRUE)
  expect_identical(rownames(back[["ADT"]]), rownames(proteins))
})

test_that("proteins that are normalized values alone are refused by name", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- cite_seq()
  values <- log1p(as.matrix(counts_in(object, "ADT")))
  object[["ADT"]] <- NULL
  object[["CLR"]] <- SeuratObject::CreateAssayObject(data = methods::as(values, "CsparseMatrix"))
  expect_error(RunTotalVI(object, protein.assay = "CLR", max_epochs = 1, verbose = FALSE), "CLR.*counts", class = "scduet_error")
})

test_that("cells are matched by a model of both modalities", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- cite_seq()
  given <- list(preset = "scmm", protein.assay = "ADT", max_epochs = 40, n_latent = 3, n_hidden = 16, batch_size = 32, lr = 0.01, train_size = 0.7)
  object <- suppressWarnings(do.call(RunMMVAE, c(list(object, verbose = FALSE), given)))
  expect_identical(colnames(SeuratObject::Embeddings(object, "mmvae")), paste0("mmvae_", 1:3))
  genes <- cite_seq()[, 1:60]
  genes[["ADT"]] <- NULL
  proteins <- SeuratObject::CreateSeuratObject(counts_in(object, "ADT")[, 60:1], assay = "ADT")
  found <- suppressWarnings(MatchCells(genes, proteins, object, verbose = FALSE))
  expect_identical(dimnames(found$weights), list(colnames(genes), colnames(proteins)))
  expect_equal(unname(Matrix::rowSums(found$weights)), rep(1, 60), tolerance = 1e-5)
  kind <- rep(1:2, length.out = 60)
  partner <- kind[match(found$best$match, colnames(genes))]
  expect_gt(mean(partner == kind), 0.9)
  expect_identical(found$table$method, c("mmvae", "cca", "chance"))
  expect_identical(found$table$used, c(TRUE, FALSE, FALSE))
  expect_identical(rownames(found$best), colnames(genes))
  by_name <- suppressWarnings(MatchCells(genes, object, ScduetModel(object), c("rna", "ADT"), reference = object, use = "cca", verbose = FALSE))
  expect_equal(dim(by_name$weights), c(60, 200))
  expect_error(MatchCells(genes, proteins, ScduetModel(object)), class = "scduet_error_reference")
  expect_error(MatchCells(genes, proteins, object, c("rna", "HTO")), "HTO.*ADT", class = "scduet_error_assay")
  expect_error(MatchCells(genes, proteins, object, use = "magic"), "magic", class = "scduet_error_option")
  expect_error(MatchCells(genes, genes, object), "protein", class = "scduet_error_data")
  expect_error(RunMMVAE(object, preset = "scmm", max_epochs = 1, verbose = FALSE), "protein.assay", class = "scduet_error_option")
})
