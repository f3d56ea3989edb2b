# A reference of six groups of cells with a UMAP, and cells of it as a query, whose true places are known.
reference_with_umap <- function(n = 300) {
  spread <- function(k, seed) matrix(stats::qnorm((seq_len(k * 5) * seed) %% 1), k, 5)
  latent <- 6 * spread(6, 0.754877)[rep(1:6, length.out = n), ] + spread(n, 0.618034)
  object <- small_seurat(n)
  for (name in c("scvi", "ref.scvi")) object[[name]] <- make_reduction(latent, colnames(object), name, "RNA")
  draw(object)
}

draw <- function(object) {
  suppressWarnings(Seurat::RunUMAP(object, reduction = "scvi", dims = 1:5, umap.method = "uwot", return.model = TRUE, verbose = FALSE))
}

places <- function(object, reduction) SeuratObject::Embeddings(object, reduction)

# Correlation of where the cells of `query` are placed with their true places in the reference; NULL if it is refused.
agreement <- function(query, reference) {
  placed <- project_umap(query, "ref.scvi", reference, "scvi", list(), "umap", verbose = FALSE)
  if ("ref.umap" %in% SeuratObject::Reductions(placed)) {
    both <- intersect(colnames(query), colnames(reference))
    diag(stats::cor(places(placed, "ref.umap")[both, ], places(reference, "umap")[both, ]))
  }
}

test_that("cells are placed where they belong, or not at all: whatever was done to the reference since its UMAP", {
  skip_if_no_seurat()
  reference <- reference_with_umap()
  query <- reference[, seq(2, 300, 7)]
  expect_gt(min(agreement(query, reference)), 0.9)
  less <- reference[, -(1:50)]
  expect_null(agreement(query, less))
  expect_gt(min(agreement(query, draw(less))), 0.9)
  expect_null(agreement(query, reference[, reference$donor == "a"]))
  for (order in list(rev(colnames(reference)), 300:1)) {
    found <- agreement(query, reference[, order])
    expect_true(is.null(found) || min(found) > 0.9)
  }
  names <- paste0("q", colnames(reference))
  expect_gt(min(diag(stats::cor(
    places(project_umap(query, "ref.scvi", SeuratObject::RenameCells(reference, new.names = names), "scvi", list(), "umap"), "ref.umap"),
    places(reference, "umap")[colnames(query), ]
  ))), 0.9)
  merged <- suppressWarnings(merge(reference[, 1:150], reference[, 151:300], merge.dr = c("scvi", "umap")))
  expect_null(agreement(query, merged))
})

test_that("rows of a UMAP's model are compared with its drawing, and this with what it was made of", {
  drawn <- matrix(1:6 + 0, 3, 2, dimnames = list(c("a", "b", "c"), NULL))
  model <- list(embedding = unname(drawn))
  expect_true(has_rows_of(model, drawn, drawn))
  expect_false(has_rows_of(model, drawn[3:1, ], drawn[3:1, ]))
  expect_false(has_rows_of(model, drawn, drawn[3:1, ]))
  expect_false(has_rows_of(model, drawn[1:2, ], drawn[1:2, ]))
  expect_false(has_rows_of(list(), drawn, drawn))
})

test_that("a UMAP older than the embedding is not used", {
  skip_if_no_engine()
  skip_if_no_seurat()
  draw <- function(object) suppressWarnings(Seurat::RunUMAP(object, reduction = "scvi", dims = 1:4, return.model = TRUE, verbose = FALSE))
  reference <- draw(run(small_seurat(), batch = "donor"))
  query <- small_seurat()
  expect_true("ref.umap" %in% SeuratObject::Reductions(MapToReference(query, reference, verbose = FALSE)))
  later <- run(reference, batch = "donor", seed.use = 7)
  expect_words(unfit_umap(later, "umap", "scvi"))
  expect_false("ref.umap" %in% SeuratObject::Reductions(MapToReference(query, later, verbose = FALSE)))
})
