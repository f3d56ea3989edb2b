test_that("a Seurat object gets a reduction, its model, and an entry in the command log", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- run(small_seurat(), batch = "donor")
  reduction <- object[["scvi"]]
  expect_s4_class(reduction, "DimReduc")
  expect_identical(dim(reduction), c(120L, 4L))
  expect_identical(SeuratObject::Key(reduction), "scvi_")
  expect_identical(SeuratObject::DefaultAssay(reduction), "RNA")
  expect_identical(rownames(SeuratObject::Embeddings(reduction)), colnames(object))
  expect_identical(colnames(SeuratObject::Embeddings(reduction)), paste0("scvi_", 1:4))
  command <- object[["RunSCVI.RNA"]]
  expect_identical(methods::slot(command, "params")$batch, "donor")
  expect_identical(methods::slot(command, "params")$n_latent, 4)
  expect_identical(ScduetModel(object)$batch, "donor")
})

test_that("the seed alone decides: same seed, same embedding; another, another", {
  skip_if_no_engine()
  x <- counts_of_two_batches()
  expect_identical(c(run(x)), c(run(x)))
  expect_gt(max(abs(run(x) - run(x, seed.use = 1))), 1e-3)
})

test_that("assays, matrices, Seurat and SingleCellExperiment agree", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  from_seurat <- unname(SeuratObject::Embeddings(run(object, batch = "donor"), "scvi"))
  donor <- object$donor
  expect_identical(unname(SeuratObject::Embeddings(run(object[["RNA"]], batch = donor))), from_seurat)
  from_matrix <- run(counts_in(object), batch = unname(donor))
  expect_identical(rownames(from_matrix), colnames(object))
  expect_equal(unname(from_matrix), from_seurat, ignore_attr = TRUE)
  skip_if_not_installed("SingleCellExperiment")
  sce <- SingleCellExperiment::SingleCellExperiment(list(counts = counts_in(object)), colData = S4Vectors::DataFrame(donor = donor))
  sce <- run(sce, batch = "donor")
  expect_equal(unname(SingleCellExperiment::reducedDim(sce, "SCVI")), from_seurat, ignore_attr = TRUE)
  expect_s3_class(ScduetModel(sce), "ScduetModel")
})

test_that("split layers give what joined ones give, through RunSCVI() and through IntegrateLayers()", {
  skip_if_no_engine()
  skip_if_no_seurat(v5 = TRUE)
  object <- small_seurat()
  joined <- SeuratObject::Embeddings(run(object, batch = "donor"), "scvi")
  object[["RNA"]] <- split(object[["RNA"]], f = object$donor)
  expect_identical(SeuratObject::Embeddings(run(object, batch = "donor"), "scvi"), joined)
  object <- Seurat::NormalizeData(object, verbose = FALSE)
  layers <- suppressWarnings(Seurat::IntegrateLayers(object,
    method = SCVIIntegration, orig.reduction = NULL, features = rownames(object), new.reduction = "integrated.scvi",
    max_epochs = 2, ndims = 4, n_hidden = 16, verbose = FALSE
  ))
  expect_identical(SeuratObject::Key(layers[["integrated.scvi"]]), "integratedscvi_")
  expect_equal(unname(SeuratObject::Embeddings(layers, "integrated.scvi")), unname(joined))
})

test_that("variable features are used, in the order of the object, and a message says so", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  chosen <- rev(rownames(object)[c(3, 9, 20, 33)])
  SeuratObject::VariableFeatures(object) <- chosen
  expect_message(
    trained <- RunSCVI(object, max_epochs = 1, n_hidden = 8), "4 variable features of 40",
    class = "scduet_message"
  )
  expect_identical(ScduetModel(trained)$genes, rev(chosen))
  expect_identical(ScduetModel(run(object, features = rownames(object)[1:10]))$genes, rownames(object)[1:10])
})

test_that("progress is told as messages where there is no terminal", {
  skip_if_no_engine()
  told <- character()
  withCallingHandlers(
    RunSCVI(counts_of_two_batches(), max_epochs = 3, n_hidden = 8),
    scduet_message = function(m) {
      told <<- c(told, conditionMessage(m))
      invokeRestart("muffleMessage")
    }
  )
  expect_match(told[1], "all 40 features")
  expect_match(told[length(told)], "epoch 3 of 3: .*loss")
})

test_that("warnings of the engine are R warnings with a class", {
  skip_if_no_engine()
  x <- counts_of_two_batches(n = 60)
  expect_warning(run(x), "60 cells", class = "scduet_warning")
  expect_warning(RunSCVI(x, max_epochs = 1, n_hidden = 8, verbose = FALSE), class = "scduet_warning")
})

test_that("wrong input is refused before Python is asked, with a class and a remedy", {
  skip_if_no_seurat()
  object <- small_seurat()
  object$gap <- replace(object$donor, 7, NA)
  expect_error(RunSCVI(object, batch = "dono"), class = "scduet_error_column")
  expect_error(RunSCVI(object, batch = "gap"), class = "scduet_error_missing_values")
  expect_error(RunSCVI(object, features = c("gene-1", "zz")), class = "scduet_error_features")
  expect_error(RunSCVI(object, layer = "spliced", verbose = FALSE), class = "scduet_error_no_counts")
  expect_error(RunSCVI(object, assay = "ADT"), class = "scduet_error_assay")
  expect_error(RunSCVI(object, seed.use = 1.5), class = "scduet_error_argument")
  expect_error(RunSCVI(object, verbose = NA), class = "scduet_error_argument")
  expect_error(RunSCVI(object, batch_key = "donor"), class = "scduet_error_argument")
  expect_error(RunSCVI(object, model.path = "/no/such/folder/model"), class = "scduet_error_cannot_write")
  expect_error(RunSCVI(counts_in(object), batch = 1:3), class = "scduet_error_batch")
  expect_error(RunSCVI("text"), class = "scduet_error_class")
  expect_text(RunSCVI(object, batch = "dono"))
  expect_text(RunSCVI(object, batch = "gap"))
  expect_text(RunSCVI(object, features = c("gene-1", "zz")))
  expect_text(RunSCVI(object, layer = "spliced", verbose = FALSE))
  expect_text(RunSCVI(object, batch_key = "donor"))
})

test_that("what the engine refuses is a classed error with its hint", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat()
  object$one <- "x"
  expect_error(RunSCVI(object, n_laten = 3, verbose = FALSE), "n_latent", class = "scduet_error_option")
  expect_error(RunSCVI(object, batch = "one", verbose = FALSE), class = "scduet_error_data")
  expect_error(RunModel(object, model = "scv", verbose = FALSE), class = "scduet_error_option")
  object <- Seurat::NormalizeData(object, verbose = FALSE)
  expect_error(RunSCVI(object, layer = "data", verbose = FALSE), "log-normalized", class = "scduet_error_data")
  expect_text(RunSCVI(object, n_laten = 3, verbose = FALSE))
  expect_text(RunSCVI(object, batch = "one", verbose = FALSE))
  expect_text(RunSCVI(object, layer = "data", verbose = FALSE))
})
