test_that("arguments of the wrong kind are refused", {
  x <- counts_of_two_batches()
  expect_refused("argument", RunSCVI(x, verbose = NA))
  expect_refused("argument", RunSCVI(x, seed.use = 1.5))
  expect_refused("argument", RunModel(x, model = ""))
  expect_refused("argument", check_option_names(list(3), NULL))
  expect_refused("class", RunSCVI("text"))
  expect_refused("class", as_anndata(1:3))
  expect_refused("class", ScoreIntegration(x))
  expect_refused("batch", RunSCVI(x, batch = 1:3))
  expect_refused("missing_package", check_installed("nosuchpackage", "This"))
})

test_that("an object without counts, without the assay, or with its counts in parts that are none, is refused", {
  skip_if_no_seurat()
  object <- small_seurat()
  expect_refused("assay", RunSCVI(object, assay = "ADT"))
  expect_refused("layers", SCVIIntegration(object[["RNA"]]))
  expect_refused("labels", SCANVIIntegration(object[["RNA"]], labels = object$kind[1:3]))
  data <- SeuratObject::CreateAssayObject(data = log1p(as.matrix(counts_in(object))))
  bare <- suppressWarnings(SeuratObject::CreateSeuratObject(data))
  expect_refused("no_counts", RunSCVI(bare, verbose = FALSE))
  skip_if_not_installed("SingleCellExperiment")
  sce <- SingleCellExperiment::SingleCellExperiment(list(logcounts = log1p(counts_in(object))))
  expect_refused("no_counts", RunSCVI(sce))
  expect_refused("argument", groups_of(sce, data.frame(kind = "T"), NULL))
})

test_that("places that cannot be written to are refused before work starts", {
  x <- counts_of_two_batches()
  expect_refused("cannot_write", RunSCVI(x, model.path = "/no/such/folder/model"))
  expect_refused("cannot_write", with_mocked("may_write", function(folder) FALSE, WriteH5AD(x, file.path(tempdir(), "x.h5ad"))), tempdir())
  path <- tempfile(fileext = ".h5ad")
  file.create(path)
  expect_refused("exists", WriteH5AD(x, path), path)
  expect_refused("exists", RunSCVI(x, model.path = path), path)
})

test_that("cells, groups and reductions that are not there are refused", {
  skip_if_no_seurat()
  object <- small_seurat()
  expect_refused("reduction", ScoreIntegration(object, "umap"))
  expect_refused("column", ScoreIntegration(object, batch = "zz"))
  expect_refused("group", check_level("zz", c("a", "b")))
  expect_refused("features", shared_features(NULL, object, c("a", "b"), c("c", "d"), FALSE))
  expect_refused("names", unique_cells(c("a", "a", "b"), c("a", "b"), FALSE))
  expect_refused("no_model", pick_model(list(scvi = 1, scanvi = 2), NULL))
  parts <- list(genes = "X", cells = data.frame(row.names = "a"))
  expect_refused("features", anndata_for(parts, list(genes = c("A", "B"))))
  expect_refused("column", anndata_for(parts, list(genes = "X", columns = "donor")))
})

test_that("cells without counts in the assay are refused in R's words", {
  skip_if_no_engine()
  x <- counts_of_two_batches()
  x[, 5] <- 0
  expect_refused("data", run(x))
})

test_that("models that are not there, moved or changed are refused", {
  skip_if_no_engine()
  folder <- tempfile("none")
  dir.create(folder)
  expect_refused("format", LoadModel(folder), c(normalizePath(folder), folder))
  old <- options(scduet.largest_inside = 1000)
  on.exit(options(old))
  path <- tempfile("model")
  object <- run(counts_of_two_batches(), model.path = path)
  real <- normalizePath(path)
  cat(" ", file = file.path(path, "scduet.json"), append = TRUE)
  expect_refused("format", SaveModel(object, tempfile()), real)
  unlink(path, recursive = TRUE)
  expect_refused("format", SaveModel(object, tempfile()), real)
})

test_that("warnings have a class and say what to do", {
  skip_if_no_engine()
  x <- counts_of_two_batches()
  expect_told("large_model", local({
    options(scduet.largest_inside = 1000)
    on.exit(options(scduet.largest_inside = NULL))
    expect_warning(run(x), class = "scduet_warning_large_model")
    run(x)
  }))
  expect_told("warning", run(x[, 1:60]))
})

test_that("messages say what was done and what was left out", {
  skip_if_no_engine()
  skip_if_no_seurat()
  x <- counts_of_two_batches()
  rownames(x)[1:2] <- c("HLA_A", "a|b")
  expect_told("message", as_seurat(as_anndata(x)))
  expect_told("message", as_anndata(SeuratObject::UpdateSeuratObject(SeuratObject::pbmc_small)))
  data <- data.frame(a = 1:2)
  data$things <- list(1, "b")
  expect_told("message", send_frame(data))
  expect_told("message", unique_cells(c("a", "a"), c("a", "a.1"), TRUE))
  object <- small_seurat()
  expect_told("message", choose_features(NULL, c("gene-1", "gene-2"), rownames(object), TRUE))
  expect_told("message", choose_features(NULL, NULL, rownames(object), TRUE))
  reporter <- new_reporter(TRUE)
  expect_told("message", for (epoch in 1:20) reporter("progress", "loss 3.14", epoch, 20, "epoch", 2 * (20 - epoch)))
  expect_told("message", tell_unused(list(layers = "smooth", other = "neighbors", unusable = "X_none"), TRUE))
})

test_that("messages of the tasks say what was used, what it gave, and what could not be done", {
  expect_told("message", shared_features(NULL, NULL, c("a", "b", "c"), c("c", "b"), TRUE))
  expect_told("message", tell_scores(data.frame(bio = c(0.5, 0.75), row.names = c("pca_hvg", "scgpt")), TRUE))
  tell <- new_reporter(TRUE)
  expect_told("message", for (done in 1:4) tell("progress", "scgpt", done, 4, "cell", 0))
  expect_told("message", with_mocked("is_v5", function() FALSE, covered_cells(c(TRUE, FALSE), "pca", TRUE)))
  expect_refused("no_counts", check_matrices(list()))
  expect_refused("class", PlotGeneNetwork(data.frame()))
  expect_refused("argument", known_genes("x"))
  expect_refused("argument", named_anndata(list(genes = c("a", "b")), character(), "x"))
  model <- structure(list(history = data.frame(epoch = 0:1, loss_train = 2:1)), class = "ScduetModel")
  skip_if_not_installed("ggplot2")
  expect_refused("argument", PlotHistory(model, terms = "kl"))
})

test_that("a reduction of a part of the cells is refused where it is asked for, else left out", {
  parts <- list(cells = data.frame(row.names = c("a", "b")), embeddings = list(part = matrix(1, 1, 2)))
  expect_refused("reduction", put_embeddings(NULL, parts, "part"))
  expect_told("message", put_embeddings(NULL, parts, NULL))
  skip_if_no_engine()
  skip_if_no_seurat(v5 = TRUE)
  object <- run(small_seurat(), batch = "donor")
  half <- SeuratObject::Embeddings(object, "scvi")[1:60, ]
  object[["half"]] <- SeuratObject::CreateDimReducObject(half, key = "half_", assay = "RNA")
  score <- function(...) ScoreIntegration(object, ..., batch = "donor", metrics = "batch_entropy", with_baselines = FALSE)
  expect_error(score("half"), "60 of 120 cells", class = "scduet_error_reduction")
  expect_message(scores <- score(), "half", class = "scduet_message")
  expect_identical(rownames(scores), "scvi")
})

test_that("an error names the function that the user called, not a helper of it", {
  error <- tryCatch(RunSCVI(counts_of_two_batches(), batch = 1:3), error = identity)
  expect_identical(as.character(conditionCall(error)[[1]]), "RunSCVI")
})

test_that("new cells are placed on a UMAP that was made of the model's reduction, quietly; else the reason is told", {
  skip_if_no_seurat()
  object <- small_seurat()
  spread <- matrix(stats::qnorm((seq_len(480) * 0.618034) %% 1), 120, 4)
  for (name in c("scvi", "other", "ref.scvi")) object[[name]] <- make_reduction(spread, colnames(object), name, "RNA")
  place <- function(...) project_umap(object, "ref.scvi", object, "scvi", ...)
  expect_told("message", place(list(), "umap"))
  object[["umap"]] <- make_reduction(spread[, 1:2], colnames(object), "umap", "RNA")
  expect_told("message", place(list(), "umap"))
  object[["umap"]] <- NULL
  umap <- function(from) {
    suppressWarnings(Seurat::RunUMAP(object, reduction = from, dims = 1:4, umap.method = "uwot", return.model = TRUE, verbose = FALSE))
  }
  object <- umap("other")
  expect_told("message", place(list(), "umap"))
  object <- umap("scvi")
  expect_identical(capture.output(placed <- place(list(), "umap")), character())
  expect_identical(dim(placed[["ref.umap"]]), c(120L, 2L))
})

test_that("a reduction on a part of the cells is kept by Seurat 5, and filled up with NA for Seurat 4", {
  skip_if_no_engine()
  skip_if_no_seurat()
  adata <- as_anndata(small_seurat(), verbose = FALSE)
  half <- matrix(c(1:60, rep(NA, 60)) + 0, 120, 2)
  ask("put", adata = adata, place = "obsm", key = "X_pca", value = send_dense(half))
  if (is_v5()) {
    expect_identical(dim(as_seurat(adata)[["pca"]]), c(60L, 2L))
  } else {
    expect_message(object <- as_seurat(adata), "60 of 120 cells", class = "scduet_message")
    expect_identical(unname(SeuratObject::Embeddings(object, "pca")), half)
  }
})

test_that("in a console a bar runs from the first epoch to the last, and is then gone", {
  bars <- cli::cli_progress_num()
  show <- show_bar(new.env())
  for (epoch in 1:3) {
    show(sprintf("loss %d", 4 - epoch), epoch, 3, "epoch", 3 - epoch)
    expect_identical(cli::cli_progress_num() - bars, if (epoch < 3) 1L else 0L)
  }
})

test_that("what was named, written otherwise or left out is told", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  object$day <- as.Date("2024-01-01") + 0:119
  expect_told("message", WriteH5AD(object, tempfile(fileext = ".h5ad")))
  said <- capture_messages(AnnotateCells(object[, 1:30], object, "kind", max_epochs = 1, verbose = TRUE))
  expect_words(gsub("[0-9.]+(,|\\.)", "<share>\\1", grep("Accuracy", said, value = TRUE)))
  trained <- structure("folder", history = data.frame(epoch = 0:1), class = "scduet_transformer")
  expect_words(capture.output(print(trained)))
})

test_that("what alternative experiments have beside counts is named when it is not carried over", {
  skip_if_no_engine()
  skip_if_not_installed("SingleCellExperiment")
  x <- counts_of_two_batches()
  object <- SingleCellExperiment::SingleCellExperiment(list(counts = x))
  proteins <- SummarizedExperiment::SummarizedExperiment(list(counts = x[1:3, ], logcounts = log1p(x[1:3, ])))
  SummarizedExperiment::rowData(proteins)$clone <- c("A1", "B2", "C3")
  SingleCellExperiment::altExp(object, "ADT") <- proteins
  expect_told("message", as_anndata(object))
})
