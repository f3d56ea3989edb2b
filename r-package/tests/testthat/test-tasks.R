# Three kinds of cells that a model can tell apart: each counts a third of the genes five times as often.
kinds_of_cells <- function(n = 150, from = 0) {
  kind <- rep(c("T", "B", "NK"), length.out = n)
  base <- outer(rep(c("T", "B", "NK"), length.out = 30), kind, "==") * 4 + 1
  x <- matrix(qpois(((seq_len(30 * n) + from) * 0.618034) %% 1, base), 30, n)
  dimnames(x) <- list(paste0("gene-", 1:30), paste0("cell", from + seq_len(n)))
  data <- data.frame(kind = kind, donor = rep(c("a", "a", "a", "b", "b", "b"), length.out = n), row.names = colnames(x))
  suppressWarnings(SeuratObject::CreateSeuratObject(methods::as(x, "CsparseMatrix"), meta.data = data))
}

test_that("cells are annotated as a reference knows them, and the honest table is kept", {
  skip_if_no_engine()
  skip_if_no_seurat()
  query <- suppressWarnings(AnnotateCells(kinds_of_cells(120, 1000), kinds_of_cells(), "kind",
    max_epochs = 20, n_hidden = 32, n_latent = 4, verbose = FALSE
  ))
  expect_gt(mean(query$predicted.kind == query$kind), 0.9)
  expect_true(all(query$predicted.kind.score > 1 / 3 & query$predicted.kind.score <= 1))
  scores <- as.matrix(layer_blocks(query[["prediction.score.kind"]], "data")[[1]])
  expect_setequal(rownames(scores), c("T", "B", "NK"))
  expect_equal(unname(colSums(scores)), rep(1, 120), tolerance = 1e-5)
  expect_equal(unname(apply(scores, 2, max)), unname(query$predicted.kind.score), tolerance = 1e-6)
  table <- SeuratObject::Misc(query, "scduet.annotation")
  expect_true(all(c("method", "accuracy", "n_cells") %in% names(table)))
  expect_gte(nrow(table), 3)
  expect_identical(table$method[table$used], "scanvi")
})

test_that("cells can be annotated with the labels of a baseline", {
  skip_if_no_engine()
  skip_if_no_seurat()
  query <- suppressWarnings(AnnotateCells(kinds_of_cells(60, 1000), kinds_of_cells(), "kind",
    use = "knn", max_epochs = 1, n_hidden = 16, n_latent = 4, verbose = FALSE
  ))
  expect_gt(mean(query$predicted.kind == query$kind), 0.9) # which a model of one epoch does not reach
  expect_equal(query$predicted.kind.score * 15, round(query$predicted.kind.score * 15), tolerance = 1e-5) # 15 neighbors
  table <- SeuratObject::Misc(query, "scduet.annotation")
  expect_identical(table$method[table$used], "knn on pca")
  expect_error(AnnotateCells(query, kinds_of_cells(), "kind", use = "svm"), class = "scduet_error_option")
})

test_that("mapping leaves the reference as it is and gives new batches an embedding and a model", {
  skip_if_no_engine()
  skip_if_no_seurat()
  reference <- run(kinds_of_cells(), batch = "donor")
  query <- kinds_of_cells(120, 1000)
  query$donor <- "c"
  query <- MapToReference(query, reference, max_epochs = 2, verbose = FALSE)
  expect_identical(dim(query[["ref.scvi"]]), c(120L, 4L))
  expect_identical(SeuratObject::Key(query[["ref.scvi"]]), "refscvi_")
  grown <- ScduetModel(query, "ref.scvi")
  expect_false(grown$sha256 == ScduetModel(reference)$sha256)
  again <- MapToReference(reference, grown, train = FALSE, verbose = FALSE)
  expect_equal(
    unname(SeuratObject::Embeddings(again, "ref.scvi")), unname(SeuratObject::Embeddings(reference, "scvi")),
    tolerance = 1e-6
  )
  query$donor <- NULL
  expect_error(MapToReference(query, reference), class = "scduet_error_column")
})

test_that("denoised expression becomes an assay whose cells sum to the library size", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- NormalizeExpression(run(kinds_of_cells(), batch = "donor"), library.size = 1000)
  expression <- layer_blocks(object[["denoised"]], "data")[[1]]
  expect_identical(dimnames(expression), list(rownames(object), colnames(object)))
  expect_equal(unname(Matrix::colSums(expression)), rep(1000, 150), tolerance = 1e-4)
  expect_error(NormalizeExpression(object, features = "zz"), class = "scduet_error_features")
})

test_that("denoised expression replaces what it made before, and nothing else", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- run(kinds_of_cells(), batch = "donor")
  for (taken in c("RNA", "scvi")) expect_error(NormalizeExpression(object, assay.name = taken), class = "scduet_error_exists")
  object <- NormalizeExpression(object, library.size = 1000)[, 1:100]
  object <- NormalizeExpression(object, library.size = 10)
  expect_equal(unname(Matrix::colSums(layer_blocks(object[["denoised"]], "data")[[1]])), rep(10, 100), tolerance = 1e-4)
  expect_identical(counts_in(object), counts_in(kinds_of_cells()[, 1:100]))
  skip_if_not_installed("SingleCellExperiment")
  sce <- SingleCellExperiment::SingleCellExperiment(list(counts = counts_in(kinds_of_cells())))
  SingleCellExperiment::altExp(sce, "ADT") <- SummarizedExperiment::SummarizedExperiment(list(counts = counts_in(kinds_of_cells())))
  sce <- NormalizeExpression(NormalizeExpression(run(sce)))
  expect_error(NormalizeExpression(sce, assay.name = "ADT"), class = "scduet_error_exists")
})

test_that("genes that mark a kind of cells are found, without p-values, beside the calls of permuted labels", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- RunSCVI(kinds_of_cells(), max_epochs = 60, n_hidden = 32, n_latent = 4, verbose = FALSE)
  markers <- FindModelMarkers(object, "T", group.by = "kind", verbose = FALSE)
  expect_named(markers, c("avg_log2FC", "model_log2FC", "pct.1", "pct.2", "proba_de", "bayes_factor", "is_de", "tested"))
  marking <- paste0("gene-", seq(1, 30, 3))
  expect_setequal(rownames(markers)[order(-markers$avg_log2FC)][1:10], marking)
  expect_setequal(rownames(markers)[order(-markers$model_log2FC)][1:10], marking)
  expect_gt(min(markers[marking, "pct.1"]), max(markers[setdiff(rownames(markers), marking), "avg_log2FC"]))
  check <- attr(markers, "calibration")
  expect_identical(as.integer(check$n_called), sum(markers$is_de))
  expect_equal(check$fdr_permuted, check$n_called_permuted / max(check$n_called, 1))
  expect_error(FindModelMarkers(object, "zz", group.by = "kind"), class = "scduet_error_group")
  expect_error(FindModelMarkers(object, "T", group.by = "kind", min_pc = 1), class = "scduet_error_option")
  expect_named(
    FindModelMarkers(object, "T", group.by = "kind", mode = "vanilla", verbose = FALSE),
    c("avg_log2FC", "pct.1", "pct.2", "proba_m1", "bayes_factor", "tested")
  )
})

test_that("min.pct, logfc.threshold and only.pos are those of FindMarkers; groups may be numbers", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- kinds_of_cells()
  object$cluster <- match(object$kind, c("T", "B", "NK")) - 1
  SeuratObject::Idents(object) <- "cluster"
  SeuratObject::VariableFeatures(object) <- rownames(object)[1:20] # the model knows some genes, totals are of all
  object <- RunSCVI(object, max_epochs = 2, n_hidden = 16, n_latent = 4, verbose = FALSE)
  markers <- FindModelMarkers(object, 0, 1, min.pct = 0.95, verbose = FALSE)
  expect_identical(markers, FindModelMarkers(object, "0", "1", min.pct = 0.95, verbose = FALSE))
  expect_identical(markers$tested, pmax(markers$pct.1, markers$pct.2) >= 0.95)
  expect_true(any(markers$tested) && !all(markers$tested))
  expect_false(any(markers$is_de & !markers$tested))
  expect_false(is.unsorted(!markers$tested)) # tested ones first
  positive <- FindModelMarkers(object, 0, 1, only.pos = TRUE, logfc.threshold = 0.5, verbose = FALSE)
  expect_true(all(positive$avg_log2FC > 0 & positive$model_log2FC > 0))
  expect_identical(positive$tested, positive$avg_log2FC >= 0.5 & pmax(positive$pct.1, positive$pct.2) >= 0.1)
  skip_if_no_seurat(v5 = TRUE)
  theirs <- Seurat::FindMarkers(Seurat::NormalizeData(object, verbose = FALSE), "0", "1", logfc.threshold = 0, min.pct = 0)
  expect_equal(markers$avg_log2FC, theirs[rownames(markers), "avg_log2FC"], tolerance = 1e-5)
  expect_equal(markers$pct.1, theirs[rownames(markers), "pct.1"], tolerance = 1e-3)
})

test_that("scANVI uses labels; as a method of IntegrateLayers() it wants them by name", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- RunSCANVI(kinds_of_cells(), batch = "donor", labels = "kind", max_epochs = 2, n_hidden = 16, verbose = FALSE)
  expect_identical(ScduetModel(object)$labels, "kind")
  expect_identical(dim(object[["scanvi"]]), c(150L, 10L))
  expect_error(SCANVIIntegration(object[["RNA"]], labels = object$kind[1:3]), class = "scduet_error_labels")
  skip_if_no_seurat(v5 = TRUE)
  object[["RNA"]] <- split(object[["RNA"]], f = object$donor)
  object <- Seurat::NormalizeData(object, verbose = FALSE)
  layers <- suppressWarnings(Seurat::IntegrateLayers(object,
    method = SCANVIIntegration, orig.reduction = NULL, features = rownames(object), labels = object$kind,
    new.reduction = "integrated.scanvi", max_epochs = 2, n_hidden = 16, verbose = FALSE
  ))
  expect_equal(
    unname(SeuratObject::Embeddings(layers, "integrated.scanvi")), unname(SeuratObject::Embeddings(object, "scanvi"))
  )
})

test_that("scANVI predicts the types of cells without one, from a scVI in the object or on its own", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- RunSCVI(kinds_of_cells(), batch = "donor", max_epochs = 30, n_hidden = 32, n_latent = 4, verbose = FALSE)
  unknown <- seq_len(150) %% 4 == 0
  object$known <- replace(object$kind, unknown, NA)
  object$told <- replace(object$kind, unknown, "Unknown")
  scanvi <- function(...) RunSCANVI(..., max_epochs = 20, verbose = FALSE)
  found <- scanvi(object, labels = "known", start = "scvi")
  expect_gt(mean((found$predicted.known == found$kind)[unknown]), 0.9)
  expect_true(all(found$predicted.known.score > 1 / 3 & found$predicted.known.score <= 1))
  model <- ScduetModel(found, "scanvi")
  expect_identical(model[c("batch", "labels", "genes")], list(batch = "donor", labels = "known", genes = rownames(object)))
  expect_identical(ncol(found[["scanvi"]]), 4L) # n_latent of the scVI
  again <- scanvi(object, labels = "told", start = ScduetModel(object))
  expect_identical(unname(again$predicted.told), unname(found$predicted.known)) # "Unknown" and NA are the same
  expect_identical(methods::slot(again[["RunSCANVI.RNA"]], "params")$start, "scvi")
  other <- scanvi(object, labels = "kind", n_hidden = 16)
  expect_gt(mean(other$predicted.kind == other$kind), 0.9)
  matrix <- scanvi(counts_in(object), labels = unname(object$kind), n_hidden = 16)
  expect_identical(attr(matrix, "predicted")$predicted, unname(other$predicted.kind))
  assay <- scanvi(object[["RNA"]], labels = object$kind, n_hidden = 16)
  expect_identical(methods::slot(assay, "misc")$scduet.predicted$score, unname(other$predicted.kind.score))
})

test_that("a start that does not fit is refused before training", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- run(kinds_of_cells(), batch = "donor")
  refused <- function(class, ..., object, start = "scvi") {
    expect_error(
      RunSCANVI(object, labels = "kind", start = start, max_epochs = 1, verbose = FALSE, ...),
      class = paste0("scduet_error_", class)
    )
  }
  refused("no_model", object = object, start = "pca")
  refused("argument", object = object, features = rownames(object)[1:3])
  refused("argument", object = counts_in(object))
  refused("option", object = object, batch = "kind")
  refused("option", object = object, n_latent = 7)
  expect_error(RunLDVAE(object, start = "scvi", verbose = FALSE), class = "scduet_error_option")
})

test_that("a linear decoder leaves its loadings in the reduction, and they survive a file", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- RunLDVAE(kinds_of_cells(), max_epochs = 100, n_latent = 3, n_hidden = 32, lr = 0.03, verbose = FALSE)
  loadings <- SeuratObject::Loadings(object[["ldvae"]])
  expect_identical(dimnames(loadings), list(rownames(object), paste0("ldvae_", 1:3)))
  marks <- rep(c("T", "B", "NK"), length.out = 30)
  latent <- SeuratObject::Embeddings(object, "ldvae")
  for (kind in unique(marks)) { # from other cells to these the loadings move the genes that mark them most
    moved <- loadings %*% (colMeans(latent[object$kind == kind, ]) - colMeans(latent[object$kind != kind, ]))
    expect_gt(min(moved[marks == kind]), max(moved[marks != kind]))
  }
  path <- WriteH5AD(object, tempfile(fileext = ".h5ad"), verbose = FALSE)
  read <- suppressMessages(ReadH5AD(path))
  expect_equal(unname(SeuratObject::Loadings(read[["ldvae"]])), unname(loadings))
  matrix <- RunLDVAE(counts_in(object), max_epochs = 1, n_latent = 3, n_hidden = 8, verbose = FALSE)
  expect_identical(dim(attr(matrix, "rotation")), c(30L, 3L))
})

test_that("clusters that a model learned are a column of the metadata, or come with a matrix", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- kinds_of_cells()
  how <- list(model = "cardec", n_clusters = 3, max_epochs = 20, lr = 5e-3, verbose = FALSE)
  object <- do.call(RunModel, c(list(object), how))
  clusters <- table(object$cardec_cluster, object$kind)
  expect_identical(rownames(clusters), c("0", "1", "2"))
  expect_gt(min(apply(clusters, 1, max) / rowSums(clusters)), 0.9)
  expect_false("predicted." %in% colnames(object[[]]))
  matrix <- do.call(RunModel, c(list(counts_in(object)), how))
  expect_identical(attr(matrix, "predicted")$predicted, unname(object$cardec_cluster))
})

test_that("AutoZI says which genes were given zeros beside their counts", {
  skip_if_no_engine()
  skip_if_no_seurat()
  even <- function(step) matrix((seq_len(40 * 600) * step) %% 1, 40, 600)
  x <- matrix(qpois(even(0.618034), 15), 40, 600)
  inflated <- 1:20
  x[inflated, ] <- x[inflated, ] * (even(0.754877)[inflated, ] > 0.6)
  dimnames(x) <- list(paste0("gene-", 1:40), paste0("cell", 1:600))
  object <- suppressWarnings(SeuratObject::CreateSeuratObject(methods::as(x, "CsparseMatrix")))
  object <- RunAutoZI(object,
    features = rownames(object), n_latent = 2, max_epochs = 40, lr = 0.02, recipe = "scvi-tools", adam_eps = 1e-8, verbose = FALSE
  )
  found <- ZeroInflation(object)
  expect_identical(rownames(found), rownames(object))
  expect_gt(mean(outer(found$probability[inflated], found$probability[-inflated], ">")), 0.95)
  expect_error(ZeroInflation(run(object)[["scvi"]]), class = "scduet_error_option")
})

test_that("counts corrected by SCTransform() are warned of where a model wants raw ones", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- suppressWarnings(Seurat::SCTransform(kinds_of_cells(), verbose = FALSE))
  expect_warning(run(object), class = "scduet_warning_corrected_counts")
  expect_silent(run(object, assay = "RNA", features = rownames(object[["RNA"]])))
  expect_silent(as_anndata(object, verbose = FALSE))
})

test_that("what is left behind is told: models by WriteH5AD(), and by merge()", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- run(kinds_of_cells(), batch = "donor")
  expect_message(WriteH5AD(object, tempfile(fileext = ".h5ad")), "SaveModel", class = "scduet_message")
  merged <- merge(object, SeuratObject::RenameCells(object, add.cell.id = "b"))
  expect_error(ScduetModel(merged), "merge", class = "scduet_error_no_model")
})

test_that("a report of an object with two models describes both", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- RunSCVI(kinds_of_cells(), batch = "donor", max_epochs = 2, n_latent = 2, n_hidden = 16, verbose = FALSE)
  object <- RunLDVAE(object, batch = "donor", max_epochs = 3, n_latent = 2, n_hidden = 16, verbose = FALSE)
  titles <- function(...) {
    path <- WriteReport(object, tempfile(fileext = ".html"), ...)
    page <- paste(readLines(path, warn = FALSE), collapse = "\n")
    gsub("<[^>]*>", "", regmatches(page, gregexpr("<h2[^>]*>[^<]*</h2>", page))[[1]])
  }
  both <- titles()
  expect_true(all(c("Model: scvi", "Training: scvi", "Model: ldvae", "Training: ldvae") %in% both))
  expect_true("Model" %in% titles(reductions = "ldvae"))
})

test_that("the report is one page that names batch and labels", {
  skip_if_no_engine()
  skip_if_no_seurat()
  # two dimensions are drawn as they are: UMAP of Python is not what is tested here, and takes long to load
  object <- RunSCVI(kinds_of_cells(), batch = "donor", max_epochs = 2, n_latent = 2, n_hidden = 16, verbose = FALSE)
  counts <- as.matrix(counts_in(object))
  logged <- log1p(t(t(counts) / colSums(counts)) * 1e4)
  object[["pca"]] <- make_reduction(stats::prcomp(t(logged), rank. = 2)$x, colnames(object), "pca", "RNA")
  path <- tempfile(fileext = ".html")
  WriteReport(object, path, labels = "kind", title = "Three kinds <of> cells")
  page <- paste(readLines(path, warn = FALSE), collapse = "\n")
  expect_match(page, "Three kinds &lt;of&gt; cells", fixed = TRUE)
  expect_match(page, "donor")
  expect_error(WriteReport(object, path), class = "scduet_error_exists")
})
