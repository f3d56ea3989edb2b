# anndataR needs R >= 4.5 and is in neither R that the tests run: an environment of its class with the fields that its AnnData
# objects have (X, layers, obs, var, obsm of cells x genes, names apart) stands in for them.

stand_in <- function(x, obs = data.frame(row.names = seq_len(ncol(x))), layers = list(), obsm = list(), class = "InMemoryAnnData") {
  plain <- methods::as(unname(Matrix::t(x)), "RsparseMatrix")
  var <- data.frame(chromosome = rep(c("1", "X"), length.out = nrow(x)))
  fields <- list(X = plain, obs_names = colnames(x), var_names = rownames(x), obs = obs, var = var, layers = layers, obsm = obsm)
  structure(list2env(fields), class = c(class, "AbstractAnnData", "R6"))
}

test_that("an AnnData of anndataR comes across whole", {
  skip_if_no_engine()
  skip_if_not_installed("SingleCellExperiment")
  x <- counts_of_two_batches(30, 8)
  obs <- data.frame(donor = factor(rep(c("b", "a"), 15)), depth = c(NA, 2:30))
  pca <- matrix(seq_len(60) / 7, 30)
  given <- stand_in(x, obs, list(data = as.matrix(Matrix::t(x)) / 2), list(X_pca = pca))
  back <- as_anndata(given)
  genes <- receive_text(ask("names", adata = back, axis = "var"))
  cells <- receive_text(ask("names", adata = back, axis = "obs"))
  expect_identical(list(genes, cells), list(rownames(x), colnames(x)))
  expect_equal(as.matrix(fetch_matrix(back, "X", genes, cells)), as.matrix(x))
  expect_equal(as.matrix(fetch_matrix(back, "layers/data", genes, cells)), as.matrix(x) / 2)
  table <- receive_frame(ask("table", adata = back, place = "obs"), cells)
  expect_identical(table$donor, obs$donor)
  expect_equal(table$depth, obs$depth)
  seurat <- if (requireNamespace("SeuratObject", quietly = TRUE)) as_seurat(back, verbose = FALSE)
  skip_if(is.null(seurat))
  expect_equal(unname(SeuratObject::Embeddings(seurat, "pca")), pca)
})

test_that("training and tasks give for an AnnData what they give for the matrix, in a SingleCellExperiment", {
  skip_if_no_engine()
  skip_if_not_installed("SingleCellExperiment")
  x <- counts_of_two_batches()
  donor <- rep(c("a", "b"), length.out = ncol(x))
  given <- stand_in(x, data.frame(donor = donor), class = "HDF5AnnData")
  expect_error(suppressWarnings(run(given, batch = "sample")), "donor", class = "scduet_error_column")
  trained <- suppressWarnings(run(given, batch = "donor"))
  expect_s4_class(trained, "SingleCellExperiment")
  own <- suppressWarnings(run(x, batch = donor, metadata = data.frame(donor, row.names = colnames(x))))
  expect_equal(unname(SingleCellExperiment::reducedDim(trained, "SCVI")), unname(own), tolerance = 1e-5, ignore_attr = TRUE)
  expect_identical(ScduetModel(trained)$genes, rownames(x))
  sums <- Pseudobulk(given, sample = "donor")
  expect_equal(unname(sums$counts[, "a"]), unname(Matrix::rowSums(x[, donor == "a"])))
  called <- suppressMessages(suppressWarnings(FindDoublets(given, verbose = FALSE)))
  expect_true(all(c("donor", "doublet.score") %in% names(SummarizedExperiment::colData(called))))
  expect_error(ScduetModel(given), class = "scduet_error_no_model")
})

# Seurat 6 keeps counts in layers of a class derived from StdAssay, as Seurat 5 does, and has no `slot =` any more.
test_that("an assay of a class derived from Assay5 is treated as one", {
  skip_if_no_seurat(v5 = TRUE)
  skip_if_no_engine()
  methods::setClass("AssayOfTomorrow", contains = "Assay5", where = globalenv())
  on.exit(methods::removeClass("AssayOfTomorrow", where = globalenv()))
  object <- small_seurat()
  newer <- object
  newer@assays$RNA <- methods::as(split(object[["RNA"]], f = object$donor), "AssayOfTomorrow")
  expect_equal(SeuratObject::Embeddings(run(newer, batch = "donor"), "scvi"), SeuratObject::Embeddings(run(object, batch = "donor"), "scvi"), tolerance = 1e-5)
})

test_that("no code uses arguments and functions of Seurat that are gone in later versions", {
  code <- vapply(ls(asNamespace("scduet")), function(name) paste(deparse(get(name, asNamespace("scduet"))), collapse = " "), "")
  gone <- "(GetAssayData|SetAssayData|FetchData)\\([^)]*slot *="
  expect_identical(names(code)[grepl(gone, code)], character())
})
