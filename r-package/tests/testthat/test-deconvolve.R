# Three types with 20 genes each, 20 cells a type, and spots that are sums of known numbers of cells.
planted <- function() {
  kind <- rep(c("B", "NK_1", "T"), each = 20)
  rate <- outer(rep(1:3, each = 20), as.integer(factor(kind)), function(gene, cell) ifelse(gene == cell, 8, 1))
  cells <- matrix(qpois((seq_along(rate) * 0.618034) %% 1, rate), 60, 60)
  dimnames(cells) <- list(paste0("gene-", 1:60), paste0("cell_", 1:60))
  share <- t(vapply(1:30, function(i) c(i %% 5, (i * 2) %% 7, 1 + i %% 3), numeric(3)))
  members <- matrix(0, 60, 30)
  for (spot in 1:30) for (type in 1:3) members[20 * (type - 1) + seq_len(share[spot, type]), spot] <- 1
  spots <- cells %*% members
  colnames(spots) <- paste0("spot_", 1:30)
  list(cells = cells, kind = kind, spots = spots, truth = share / rowSums(share))
}

objects <- function(known) {
  made <- lapply(known[c("cells", "spots")], function(x) {
    suppressWarnings(SeuratObject::CreateSeuratObject(methods::as(x, "CsparseMatrix")))
  })
  made$cells$kind <- known$kind
  made
}

test_that("proportions of types in spots are an assay, with what is told beside them", {
  skip_if_no_engine()
  skip_if_no_seurat()
  known <- planted()
  made <- objects(known)
  found <- suppressWarnings(DeconvolveSpots(made$spots, made$cells, labels = "kind", verbose = FALSE))
  told <- methods::slot(found, "misc")$scduet.deconvolution
  expect_identical(dimnames(told$proportions), list(colnames(known$spots), c("B", "NK_1", "T")))
  expect_equal(unname(rowSums(told$proportions)), rep(1, 30), tolerance = 1e-6)
  expect_lt(mean(abs(told$proportions - known$truth)), 0.08)
  expect_identical(rownames(found[["proportions"]]), c("B", "NK-1", "T"))
  shown <- suppressWarnings(SeuratObject::FetchData(found, SeuratObject::Key(found[["proportions"]]) |> paste0(c("B", "NK-1", "T"))))
  expect_equal(unname(as.matrix(shown)), unname(told$proportions), tolerance = 1e-6)
  expect_identical(told$agreement$method, c("poisson", "weighted_nnls", "nnls", "one composition"))
  expect_identical(told$types$n_cells, rep(20L, 3))
  expect_true(any(grepl("cells", told$notes)))
  again <- suppressWarnings(DeconvolveSpots(found, made$cells, labels = "kind", per = "rna", assay = "RNA", verbose = FALSE))
  expect_true(any(grepl("RNA", methods::slot(again, "misc")$scduet.deconvolution$notes)))
  expect_error(DeconvolveSpots(made$spots, made$cells, labels = "kinds"), class = "scduet_error_column")
  expect_error(DeconvolveSpots(made$spots, made$cells, labels = "kind", model = "rctd"), class = "scduet_error_option")
  expect_error(DeconvolveSpots(made$spots, made$cells, labels = "kind", assay.name = "RNA"), class = "scduet_error")
})

test_that("bulk samples come as a matrix and go back as matrices", {
  skip_if_no_engine()
  skip_if_no_seurat()
  known <- planted()
  found <- suppressWarnings(DeconvolveBulk(known$spots, objects(known)$cells, labels = "kind"))
  expect_identical(dimnames(found$proportions), list(colnames(known$spots), c("B", "NK_1", "T")))
  expect_lt(mean(abs(found$proportions - known$truth)), 0.08)
  expect_true(all(found$spread >= 0) && identical(dim(found$spread), dim(found$proportions)))
  parts <- suppressWarnings(DeconvolveBulk(known$spots, objects(known)$cells, labels = "kind", expression = c("T", "B")))$expression
  expect_identical(names(parts), c("T", "B"))
  expect_identical(dimnames(parts$B), dimnames(known$spots))
  expect_true(all(parts$B >= 0 & parts$B + parts$T <= known$spots + 1e-6))
  own <- 1:20 # genes of type B
  expect_gt(sum(parts$B[own, ]) / sum(parts$B), 2 * sum(known$spots[own, ]) / sum(known$spots))
  expect_error(DeconvolveBulk(known$spots, objects(known)$cells, labels = "kind", expression = "X"), class = "scduet_error_option")
  scaden <- suppressWarnings(DeconvolveBulk(known$spots, objects(known)$cells,
    labels = "kind", model = "scaden", max_epochs = 60, verbose = FALSE
  ))
  expect_lt(mean(abs(scaden$proportions - known$truth)), mean(abs(rep(colMeans(known$truth), each = 30) - known$truth)))
  expect_error(DeconvolveBulk(known$spots, objects(known)$cells, labels = "kind", max_epochs = 3), class = "scduet_error_option")
  logs <- log2(sweep(known$spots, 2, colSums(known$spots), "/") * 1000 + 1)
  expect_error(DeconvolveBulk(logs, objects(known)$cells, labels = "kind"), class = "scduet_error")
})

test_that("one call trains the reference of DestVI and DestVI", {
  skip_if_no_engine()
  skip_if_no_seurat()
  known <- planted()
  made <- objects(known)
  quick <- list(max_epochs = 2, n_hidden = 16, verbose = FALSE)
  found <- suppressWarnings(RunDestVI(made$spots, made$cells,
    labels = "kind", reference.options = quick, max_epochs = 2, verbose = FALSE
  ))
  shares <- SeuratObject::Embeddings(found, "destvi")
  expect_identical(dim(shares), c(30L, 3L))
  expect_equal(unname(rowSums(shares)), rep(1, 30), tolerance = 1e-5)
  cells <- suppressWarnings(RunCondSCVI(made$cells, labels = "kind", max_epochs = 2, n_hidden = 16, verbose = FALSE))
  again <- suppressWarnings(RunDestVI(made$spots, start = ScduetModel(cells), max_epochs = 2, verbose = FALSE))
  expect_equal(SeuratObject::Embeddings(again, "destvi"), shares, tolerance = 1e-4)
  near <- as.matrix(counts_in(made$spots))
  smoothed <- suppressWarnings(RunDestVI(made$spots,
    start = ScduetModel(cells), smoothed.assay = (near + near[, c(2:30, 1)]) / 2, max_epochs = 2, verbose = FALSE
  ))
  expect_true("smoothing_train" %in% names(ScduetModel(smoothed)$history))
  expect_error(RunDestVI(made$spots), class = "scduet_error_option")
  expect_error(RunDestVI(made$spots, made$cells, labels = "kinds"), class = "scduet_error_column")
  other <- suppressWarnings(SeuratObject::CreateSeuratObject(methods::as(`rownames<-`(known$spots, paste0("x", 1:60)), "CsparseMatrix")))
  expect_error(RunDestVI(other, made$cells, labels = "kind"), class = "scduet_error_data")
})
