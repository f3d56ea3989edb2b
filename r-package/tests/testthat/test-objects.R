test_that("a Seurat object survives the way to AnnData and back", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- SeuratObject::UpdateSeuratObject(SeuratObject::pbmc_small)
  back <- as_seurat(as_anndata(object, verbose = FALSE))
  expect_identical(back[[]], object[[]])
  expect_identical(counts_in(back), counts_in(object))
  expect_identical(layer_blocks(back[["RNA"]], "data")[[1]], layer_blocks(object[["RNA"]], "data")[[1]])
  expect_identical(SeuratObject::Idents(back), SeuratObject::Idents(object))
  expect_identical(SeuratObject::VariableFeatures(back), SeuratObject::VariableFeatures(object))
  expect_identical(SeuratObject::Embeddings(back, "pca"), SeuratObject::Embeddings(object, "pca"))
  expect_identical(SeuratObject::Loadings(back, "pca"), SeuratObject::Loadings(object, "pca"))
  expect_identical(SeuratObject::Stdev(back, "pca"), SeuratObject::Stdev(object, "pca"))
  expect_identical(SeuratObject::Key(back[["tsne"]]), SeuratObject::Key(object[["tsne"]]))
  expect_equal(as.matrix(back[["RNA_snn"]]), as.matrix(object[["RNA_snn"]]))
})

test_that("what AnnData has no place for is named", {
  skip_if_no_engine()
  skip_if_no_seurat()
  expect_message(as_anndata(SeuratObject::pbmc_small), "scale.data.*command log", class = "scduet_message")
})

test_that("names with _ and - and | are kept in AnnData; Seurat's changes are told and can be undone", {
  skip_if_no_engine()
  skip_if_no_seurat()
  x <- counts_of_two_batches()
  rownames(x)[1:3] <- c("HLA_A", "HLA-B", "a|b")
  adata <- as_anndata(x)
  expect_identical(receive_text(ask("names", adata = adata, axis = "var")), rownames(x))
  expect_identical(receive_text(ask("names", adata = adata, axis = "obs")), colnames(x))
  expect_message(object <- as_seurat(adata), "2 gene names", class = "scduet_message")
  expect_identical(rownames(object)[1:3], c("HLA-A", "HLA-B", "a-b"))
  expect_identical(unname(object[["RNA"]][[]][1:3, "original_name"]), c("HLA_A", "HLA-B", "a|b"))
})

test_that("several assays are carried", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  object[["ADT"]] <- SeuratObject::CreateAssayObject(counts = counts_in(object)[1:5, ] * 3)
  back <- as_seurat(as_anndata(object))
  expect_setequal(SeuratObject::Assays(back), c("RNA", "ADT"))
  expect_equal(as.matrix(counts_in(back, "ADT")), as.matrix(counts_in(object, "ADT")))
})

test_that("split layers, and layers with different genes, become one matrix in the order of the cells", {
  skip_if_no_engine()
  skip_if_no_seurat(v5 = TRUE)
  object <- small_seurat()
  whole <- counts_in(object)
  object[["RNA"]] <- split(object[["RNA"]], f = object$donor)
  expect_identical(counts_in(as_seurat(as_anndata(object, verbose = FALSE))), whole)
  merged <- suppressWarnings(merge(
    SeuratObject::CreateSeuratObject(whole[1:20, 1:50]), SeuratObject::CreateSeuratObject(whole[11:40, 51:120])
  ))
  back <- counts_in(as_seurat(as_anndata(merged, verbose = FALSE)))[rownames(whole), colnames(whole)]
  truth <- whole
  truth[21:40, 1:50] <- 0
  truth[1:10, 51:120] <- 0
  expect_equal(as.matrix(back), as.matrix(truth))
})

test_that("a version 3 assay under Seurat 5 is carried", {
  skip_if_no_engine()
  skip_if_no_seurat(v5 = TRUE)
  old <- options(Seurat.object.assay.version = "v3")
  on.exit(options(old))
  object <- small_seurat()
  back <- as_seurat(as_anndata(object))
  expect_s4_class(back[["RNA"]], "Assay")
  expect_identical(counts_in(back), counts_in(object))
})

test_that("a SingleCellExperiment becomes an AnnData and a Seurat object", {
  skip_if_no_engine()
  skip_if_no_seurat()
  skip_if_not_installed("SingleCellExperiment")
  x <- counts_of_two_batches()
  sce <- SingleCellExperiment::SingleCellExperiment(
    list(counts = x, logcounts = log1p(x)),
    colData = S4Vectors::DataFrame(donor = rep(c("a", NA), 60)), reducedDims = list(PCA = matrix(1:240 / 7, 120, 2))
  )
  object <- as_seurat(sce)
  expect_identical(counts_in(object), x)
  expect_equal(layer_blocks(object[["RNA"]], "data")[[1]], log1p(x))
  expect_identical(unname(object$donor), rep(c("a", NA), 60))
  expect_equal(unname(SeuratObject::Embeddings(object, "pca")), matrix(1:240 / 7, 120, 2))
})

test_that("a file holds what the object holds, and is never half written", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  object$text <- rep(c("x", NA), 60)
  object$day <- as.Date("2024-01-01") + 0:119
  object$maybe <- rep(c(TRUE, NA, FALSE), 40)
  folder <- tempfile()
  dir.create(folder)
  path <- file.path(folder, "x.h5ad")
  expect_message(WriteH5AD(object, path), "Dates and times.*day", class = "scduet_message")
  expect_identical(list.files(folder, all.files = TRUE, no.. = TRUE), "x.h5ad")
  back <- ReadH5AD(path)
  expect_identical(counts_in(back), counts_in(object))
  expect_identical(back$donor, object$donor)
  expect_identical(back$maybe, object$maybe)
  expect_identical(back$text, object$text)
  expect_identical(back$day, object$day)
  expect_error(WriteH5AD(object, path), class = "scduet_error_exists")
  expect_text(ReadH5AD("nowhere.h5ad"))
})

test_that("real objects of others can be converted", {
  skip_if_no_engine()
  skip_if_no_seurat()
  folder <- real_objects()
  skip_if(getRversion() < "4.1")
  space <- new.env()
  load(file.path(folder, "seurat", "pbmc_small_seuratobject_v4.0.0.rda"), space)
  object <- SeuratObject::UpdateSeuratObject(get(ls(space)[1], space))
  back <- as_seurat(as_anndata(object, verbose = FALSE))
  expect_identical(counts_in(back), counts_in(object))
  if (!is_v5()) { # names some cells twice, which SeuratObject 5 refuses
    load(file.path(folder, "seurat", "cider_pancreas_v4.0.3.RData"), space)
    object <- Filter(function(x) inherits(x, "Seurat"), as.list(space))$pancreas
    expect_message(adata <- as_anndata(object), "duplicated", class = "scduet_message")
    expect_identical(sum(counts_in(as_seurat(adata, verbose = FALSE))), sum(counts_in(object)))
  }
  skip_if(!is_v5(), "Assay5 needs SeuratObject 5")
  load(file.path(folder, "seurat", "fhil_pbmc3k_assay5_v5.0.2.rda"), space)
  object <- Filter(function(x) inherits(x, "Seurat") && inherits(x[["RNA"]], "Assay5"), as.list(space))[[1]]
  back <- as_seurat(as_anndata(object, verbose = FALSE), verbose = FALSE)
  expect_equal(sum(counts_in(back)), sum(counts_in(object)))
  expect_identical(dim(back), dim(object))
})
