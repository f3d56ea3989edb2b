# Three modules of ten genes, each on in a third of the cells.
three_modules <- function(n = 240) {
  on <- rep(1:3, length.out = n)
  base <- outer(rep(1:3, each = 10), on, "==") * 7 + 0.7
  x <- matrix(qpois((seq_len(30 * n) * 0.618034) %% 1, base), 30, n)
  dimnames(x) <- list(paste0("gene-", 1:30), paste0("cell", seq_len(n)))
  data <- data.frame(kind = c("a", "b", "c")[on], row.names = colnames(x))
  suppressWarnings(SeuratObject::CreateSeuratObject(methods::as(x, "CsparseMatrix"), meta.data = data))
}

sets <- list(first = paste0("gene-", 1:10), second = paste0("gene-", 11:20), third = paste0("gene-", 21:30))

test_that("planted modules are the programs of the model in the object, beside co-expression", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- RunSCVI(three_modules(), max_epochs = 100, n_latent = 4, n_hidden = 32, verbose = FALSE)
  network <- GeneNetwork(object, n.neighbors = 8, resolution = 1, gene.sets = sets)
  expect_s3_class(network, "scduet_network")
  expect_true(all(c("group", "gene", "other", "weight", "coexpression", "by_model") %in% names(network)))
  counts <- as.matrix(counts_in(object))
  logged <- log1p(t(t(counts) / colSums(counts)) * 1e4)
  expect_equal(network$coexpression[1], stats::cor(logged[network$gene[1], ], logged[network$other[1], ]), tolerance = 1e-6)
  programs <- attr(network, "programs")
  expect_setequal(programs$method, c("model", "coexpression"))
  own <- programs[programs$method == "model", ]
  expect_setequal(own$term, names(sets))
  expect_true(all(own$fdr < 1e-4))
  links <- attr(network, "links")
  expect_gt(links$in_common_set[links$method == "model"], 0.9)
  expect_equal(links$in_common_set[links$method == "random pairs"], 9 / 29)
  skip_if_not_installed("ggplot2")
  drawn <- PlotGeneNetwork(network, genes = "gene-1", n.links = 4)
  expect_true("gene-1" %in% drawn$data$gene)
  expect_identical(nrow(drawn$layers[[1]]$data), 4L)
})

test_that("a gene sets file is read, and a wrong one is an error with a class", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- RunLDVAE(three_modules(150), max_epochs = 2, n_hidden = 8, verbose = FALSE)
  path <- tempfile(fileext = ".gmt")
  writeLines(vapply(names(sets), function(name) paste(c(name, "", sets[[name]]), collapse = "\t"), ""), path)
  by_file <- GeneNetwork(object, genes = unlist(sets)[1:20], resolution = 1, gene.sets = path)
  by_list <- GeneNetwork(object, genes = unlist(sets)[1:20], resolution = 1, gene.sets = sets)
  expect_equal(by_file, by_list)
  expect_setequal(c(by_file$gene, by_file$other), unlist(sets)[1:20])
  writeLines("nothing here", path)
  expect_error(GeneNetwork(object, gene.sets = path), class = "scduet_error_format")
  expect_error(GeneNetwork(object, genes = "zz"), class = "scduet_error_features")
  expect_error(GeneNetwork(object, method = "attention"), class = "scduet_error_option")
  expect_error(GeneNetwork(object, group.by = "zz"), class = "scduet_error_column")
  expect_error(GeneNetwork(three_modules(150)), class = "scduet_error_no_model")
  expect_error(PlotGeneNetwork(data.frame()), class = "scduet_error_class")
})

test_that("a transformer's attention by condition differs from the control", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- two_kinds(n = 240)[paste0("GENE", 0:39), ] # enough cells of each kind in which both genes of a pair are read
  network <- GeneNetwork(object, model = checkpoint("geneformer"), genes = paste0("GENE", 0:11), method = "attention",
    group.by = "kind", control = "B", n.neighbors = NULL, max_length = 48)
  expect_identical(unique(network$group), "T")
  expect_gt(sum(network$by_model), 20)
  expect_false(is.unsorted(-abs(network$difference[network$by_model])))
  expect_true(all(abs(network$difference[network$by_model]) <= 1))
})
