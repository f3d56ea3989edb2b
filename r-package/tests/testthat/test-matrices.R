# Matrices go where their values belong, whatever the AnnData calls them; assays, reductions and columns come back.

values_in <- function(object, layer, assay = "RNA") {
  found <- layer_blocks(object[[assay]], layer)
  if (length(found)) as.matrix(found[[1]])
}

# An AnnData with these matrices (genes x cells); raw: a matrix that becomes `raw`.
anndata_with <- function(x, layers = list(), raw = NULL) {
  adata <- as_anndata(x)
  for (name in names(layers)) ask("put", adata = adata, place = "layers", key = name, value = as_anndata(layers[[name]])$X)
  if (!is.null(raw)) adata$raw <- as_anndata(raw)
  adata
}

logged <- function(x) {
  x@x <- log1p(x@x) / 3
  x
}

scaled <- function(x) as.matrix(x) - rowMeans(as.matrix(x))

expect_values <- function(object, layer, x, assay = "RNA") expect_equal(values_in(object, layer, assay), as.matrix(x), tolerance = 1e-6)

test_that("whole numbers are counts, others data, those below zero scale.data, wherever they are", {
  skip_if_no_engine()
  skip_if_no_seurat()
  x <- counts_of_two_batches()
  for (adata in list(anndata_with(logged(x), list(counts = x)), anndata_with(logged(x), raw = x), anndata_with(logged(x), list(raw_counts = x)))) {
    expect_message(object <- as_seurat(adata), "counts from .*data from X", class = "scduet_message")
    expect_values(object, "counts", x)
    expect_values(object, "data", logged(x))
  }
  alone <- as_seurat(anndata_with(logged(x)), verbose = FALSE)
  expect_null(values_in(alone, "counts"))
  expect_values(alone, "data", logged(x))
  all <- as_seurat(anndata_with(scaled(x), list(counts = x, logcounts = logged(x))), verbose = FALSE)
  expect_values(all, "counts", x)
  expect_values(all, "data", logged(x))
  expect_values(all, "scale.data", scaled(x))
})

test_that("a file keeps to the same rule", {
  skip_if_no_engine()
  skip_if_no_seurat()
  x <- counts_of_two_batches()
  path <- tempfile(fileext = ".h5ad")
  ask("write_h5ad", adata = anndata_with(logged(x), raw = x), path = path)
  object <- ReadH5AD(path, verbose = FALSE)
  expect_values(object, "counts", x)
  expect_values(object, "data", logged(x))
})

test_that("scaled values of some genes stand beside raw values of all", {
  skip_if_no_engine()
  skip_if_no_seurat()
  x <- counts_of_two_batches()
  object <- as_seurat(anndata_with(scaled(x[5:20, ]), raw = logged(x)), verbose = FALSE)
  expect_identical(rownames(object), rownames(x))
  expect_values(object, "data", logged(x))
  expect_values(object, "scale.data", scaled(x[5:20, ]))
  expect_null(values_in(object, "counts"))
})

test_that("what raw holds beside X becomes an assay of its own", {
  skip_if_no_engine()
  skip_if_no_seurat()
  x <- counts_of_two_batches()
  expect_message(object <- as_seurat(anndata_with(x[1:10, ], raw = logged(x))), "raw", class = "scduet_message")
  expect_values(object, "counts", x[1:10, ])
  expect_values(object, "data", logged(x)[1:10, ])
  expect_values(object, "data", logged(x), "raw")
})

test_that("an object without counts, and one with estimated counts, come back as they were", {
  skip_if_no_engine()
  skip_if_no_seurat()
  x <- counts_of_two_batches()
  object <- suppressWarnings(SeuratObject::CreateSeuratObject(new_assay(data = logged(x)), assay = "RNA"))
  back <- as_seurat(as_anndata(object, verbose = FALSE), verbose = FALSE)
  expect_null(values_in(back, "counts"))
  expect_values(back, "data", logged(x))
  estimated <- x
  estimated@x <- x@x + 0.25
  object <- suppressWarnings(SeuratObject::CreateSeuratObject(estimated))
  expect_identical(counts_in(as_seurat(as_anndata(object))), estimated)
  adata <- as_anndata(small_seurat())
  adata$X <- as_anndata(logged(x))$X # changed in Python since
  expect_null(values_in(as_seurat(adata, verbose = FALSE), "counts"))
})

test_that("a SingleCellExperiment of logcounts alone, without names, or with unnamed assays keeps its values", {
  skip_if_no_engine()
  skip_if_no_seurat()
  skip_if_not_installed("SingleCellExperiment")
  x <- counts_of_two_batches()
  make <- function(...) SingleCellExperiment::SingleCellExperiment(list(...))
  object <- as_seurat(make(logcounts = logged(x)), verbose = FALSE)
  expect_null(values_in(object, "counts"))
  expect_values(object, "data", logged(x))
  bare <- unname(as.matrix(x))
  object <- as_seurat(make(counts = bare))
  expect_identical(unname(as.matrix(counts_in(object))), unname(as.matrix(x)))
  expect_identical(c(rownames(object)[40], colnames(object)[120]), c("gene40", "cell120"))
  expect_identical(unname(as.matrix(counts_in(as_seurat(make(bare))))), unname(as.matrix(x)))
  sce <- run(make(counts = bare))
  expect_identical(dim(SingleCellExperiment::reducedDim(sce, "SCVI")), c(120L, 4L))
  expect_equal(unname(SingleCellExperiment::reducedDim(sce, "SCVI")), unname(unclass(run(x)))[, 1:4], tolerance = 1e-5, ignore_attr = TRUE)
  expect_error(run(make(bare)), "assayNames", class = "scduet_error_no_counts")
  rownames(x)[2] <- rownames(x)[1]
  expect_error(run(make(counts = x)), "gene-1", class = "scduet_error_names")
  expect_error(run(x), "gene-1", class = "scduet_error_names")
})

test_that("a feature that is asked for twice is named", {
  expect_error(run(small_seurat(), features = c("gene-3", "gene-4", "gene-3")), "gene-3", class = "scduet_error_features")
})

# As the vignette of Seurat on weighted nearest neighbors leaves it.
cite_seq <- function() {
  object <- small_seurat()
  adt <- as.matrix(counts_of_two_batches(genes = 6)) + 1
  rownames(adt) <- paste0("CD", 1:6)
  object[["ADT"]] <- new_assay(counts = methods::as(adt, "CsparseMatrix"))
  cells <- colnames(object)
  object[["pca"]] <- make_reduction(matrix(sin(1:240), 120), cells, "pca", "RNA")
  loadings <- matrix(cos(1:18), 6, dimnames = list(rownames(adt), paste0("apca_", 1:3)))
  object[["apca"]] <- make_reduction(matrix(cos(1:360), 120), cells, "apca", "ADT", loadings = loadings)
  object
}

test_that("an object with reductions of several assays comes back, and what is lost is named", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- cite_seq()
  path <- tempfile(fileext = ".h5ad")
  expect_message(WriteH5AD(object, path), "apca", class = "scduet_message")
  for (back in list(as_seurat(as_anndata(object, verbose = FALSE)), ReadH5AD(path))) {
    expect_setequal(SeuratObject::Reductions(back), c("pca", "apca"))
    expect_identical(SeuratObject::Embeddings(back, "apca"), SeuratObject::Embeddings(object, "apca"))
    expect_identical(SeuratObject::DefaultAssay(back[["apca"]]), "ADT")
    expect_equal(as.matrix(counts_in(back, "ADT")), as.matrix(counts_in(object, "ADT")))
  }
  SeuratObject::DefaultAssay(object) <- "ADT" # as SCT: the reductions are of an assay that is not the default one
  back <- as_seurat(as_anndata(object, verbose = FALSE))
  expect_identical(SeuratObject::DefaultAssay(back[["pca"]]), "RNA")
  expect_identical(SeuratObject::Loadings(back[["apca"]]), SeuratObject::Loadings(object[["apca"]]))
})

test_that("names that would be the same are told apart", {
  skip_if_no_engine()
  skip_if_no_seurat()
  adata <- as_anndata(counts_of_two_batches())
  for (key in c("X_umap", "umap")) {
    ask("put", adata = adata, place = "obsm", key = key, value = send_dense(matrix(nchar(key) + 1:240, 120)))
  }
  expect_message(object <- as_seurat(adata), "umap.1", class = "scduet_message")
  expect_equal(unname(SeuratObject::Embeddings(object, "umap")[1, 1]), 7)
  expect_equal(unname(SeuratObject::Embeddings(object, "umap.1")[1, 1]), 5)
  object <- small_seurat()
  for (name in c("scvi", "scVI")) object[[name]] <- suppressWarnings(make_reduction(matrix(nchar(name) * 1:240, 120), colnames(object), name, "RNA", key = paste0(c(scvi = "a", scVI = "b")[[name]], "_")))
  back <- as_seurat(as_anndata(object, verbose = FALSE))
  expect_setequal(SeuratObject::Reductions(back), c("scvi", "scVI"))
})

test_that("entries of obsm that Seurat has no place for are named and do no harm", {
  skip_if_no_engine()
  skip_if_no_seurat()
  adata <- as_anndata(counts_of_two_batches())
  ask("put", adata = adata, place = "obsm", key = "X_none", value = send_dense(matrix(0, 120, 0)))
  text <- send_frame(data.frame(kind = rep("a", 120), row.names = colnames(counts_of_two_batches())))
  ask("put", adata = adata, place = "obsm", key = "words", value = text)
  expect_message(object <- as_seurat(adata), "X_none.*words", class = "scduet_message")
  expect_identical(SeuratObject::Reductions(object), SeuratObject::Reductions(small_seurat()))
})

test_that("a sketch is what its assay says", {
  skip_if_no_engine()
  skip_if_no_seurat(v5 = TRUE)
  object <- small_seurat()
  x <- counts_in(object)
  object[["sketch"]] <- new_assay(counts = x[, 21:80])
  trained <- run(object, assay = "sketch", labels = NULL)
  expect_identical(rownames(SeuratObject::Embeddings(trained, "scvi")), colnames(x)[21:80])
  SeuratObject::DefaultAssay(object) <- "sketch"
  expect_message(adata <- as_anndata(object), "60 of 120", class = "scduet_message")
  expect_identical(counts_in(as_seurat(adata), "sketch"), x[, 21:80])
  SeuratObject::DefaultAssay(object) <- "RNA"
  expect_message(adata <- as_anndata(object), "sketch.*60 of 120", class = "scduet_message")
  back <- as_seurat(adata)
  expect_identical(counts_in(back, "sketch"), x[, 21:80])
  expect_identical(counts_in(back), x)
})

odd_columns <- function(object) {
  object$ident <- "mine"
  object$time <- as.POSIXct("2024-03-31 03:30:00", tz = "Europe/Paris") + 60 * seq_len(ncol(object))
  object$day <- as.Date("2024-02-29") + seq_len(ncol(object))
  object$text <- rep(c("x", NA), length.out = ncol(object))
  object$word <- rep(c("b", "a"), length.out = ncol(object))
  object$n <- rep(c(1L, NA), length.out = ncol(object))
  object$none <- NA
  object
}

test_that("columns keep their type, time and name in memory and through a file", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- odd_columns(small_seurat())
  SeuratObject::Idents(object) <- object$kind
  path <- tempfile(fileext = ".h5ad")
  expect_message(WriteH5AD(object, path), "time.*day", class = "scduet_message")
  for (back in list(as_seurat(as_anndata(object)), ReadH5AD(path))) {
    expect_identical(back[[]][names(object[[]])], object[[]])
    expect_identical(SeuratObject::Idents(back), SeuratObject::Idents(object))
  }
})

test_that("columns that AnnData has no place for are named", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  data <- object@meta.data
  data$pair <- matrix(1, nrow(data), 2)
  data$spent <- as.difftime(rep(1, nrow(data)), units = "mins")
  data$z <- complex(nrow(data), 1, 1)
  data$byte <- as.raw(rep(1, nrow(data)))
  object@meta.data <- data
  expect_message(back <- as_seurat(as_anndata(object)), "pair.*spent.*z.*byte", class = "scduet_message")
  expect_setequal(names(back[[]]), names(small_seurat()[[]]))
})

test_that("run-length encoded columns and arrays of one dimension are columns", {
  skip_if_no_engine()
  skip_if_not_installed("SingleCellExperiment")
  x <- counts_of_two_batches()
  data <- S4Vectors::DataFrame(
    run = S4Vectors::Rle(c("a", "b"), c(20, 100)), kind = S4Vectors::Rle(factor(c("v", "u"), levels = c("v", "u")), c(60, 60)),
    flat = array(1:120, 120), row.names = colnames(x)
  )
  adata <- as_anndata(SingleCellExperiment::SingleCellExperiment(list(counts = x), colData = data))
  back <- receive_frame(ask("table", adata = adata, place = "obs"))
  expect_identical(back$run, rep(c("a", "b"), c(20, 100)))
  expect_identical(back$kind, factor(rep(c("v", "u"), each = 60), levels = c("v", "u")))
  expect_identical(back$flat, 1:120)
})

test_that("numbers and TRUE are levels, and come back as they are", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  object$number <- rep(c(0, 1, 2.5), 40)
  object$whole <- rep(c(2L, 10L), 60)
  object$flag <- rep(c(TRUE, FALSE), 60)
  for (column in c("number", "whole", "flag")) {
    found <- RunSCANVI(object, labels = column, max_epochs = 2, n_latent = 4, verbose = FALSE)
    predicted <- found[[]][[paste0("predicted.", column)]]
    expect_identical(typeof(predicted), typeof(object[[]][[column]]))
    expect_true(all(predicted %in% object[[]][[column]]))
  }
  trained <- run(object, batch = "whole")
  compare <- function(...) FindModelMarkers(trained, ..., verbose = FALSE)
  expect_identical(compare(ident.1 = 0, group.by = "number"), compare(ident.1 = "0", group.by = "number"))
  expect_identical(compare(ident.1 = 0L, ident.2 = 2.5, group.by = "number"), compare(ident.1 = "0", ident.2 = "2.5", group.by = "number"))
  expect_identical(nrow(compare(ident.1 = c(0, 1), group.by = "number")), 80L)
  expect_identical(compare(ident.1 = TRUE, group.by = "flag"), compare(ident.1 = "True", group.by = "flag"))
  expect_error(compare(ident.1 = 7, group.by = "number"), "\"7\"", class = "scduet_error_group")
  decoded <- function(batch) values_in(NormalizeExpression(trained, batch = batch), "data", "denoised")
  expect_identical(decoded(2), decoded("2"))
  expect_identical(decoded(2L), decoded("2"))
  expect_false(identical(decoded(10), decoded(2)))
})

test_that("`seed` is `seed.use`", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  expect_identical(run(object, seed = 3)[["scvi"]]@cell.embeddings, run(object, seed.use = 3)[["scvi"]]@cell.embeddings)
  expect_false(identical(run(object, seed = 3)[["scvi"]]@cell.embeddings, run(object)[["scvi"]]@cell.embeddings))
})
