# Spots 100, 200, ... pixels down, and 1, 2, ... to the right.
places_of <- function(object) {
  adata <- suppressMessages(as_anndata(object, verbose = FALSE))
  do.call(rbind, lapply(py_value(adata$obsm["spatial"]$tolist()), as.numeric))
}

test_that("coordinates of Seurat's images are x and y, whatever the class calls them", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_seurat(6)
  cells <- colnames(object)
  expected <- cbind(1:6, 100 * 1:6)
  visium <- data.frame(tissue = 1L, row = 1:6, col = 1:6, imagerow = 100 * 1:6, imagecol = 1:6, row.names = cells)
  images <- list(
    VisiumV1 = list(
      image = array(0, c(2, 2, 3)), scale.factors = Seurat::scalefactors(1, 1, 1, 1), coordinates = visium[6:1, ],
      spot.radius = 0.1, assay = "RNA", key = "slice_"
    ),
    SlideSeq = list(coordinates = data.frame(x = 1:6, y = 100 * 1:6, row.names = cells), assay = "RNA", key = "slice_")
  )
  for (class in names(images)) {
    with_image <- object
    image <- do.call(methods::new, c(list(structure(class, package = "Seurat")), images[[class]]))
    methods::slot(with_image, "images") <- list(slice = image)
    expect_equal(places_of(with_image), expected, info = class)
    expect_equal(places_of(suppressWarnings(with_image[, 2:4])), expected[2:4, ], info = class)
  }
})

test_that("coordinates of Seurat 5's FOV are as stored, and VisiumV2 has the row first", {
  skip_if_no_engine()
  skip_if_no_seurat(v5 = TRUE)
  object <- small_seurat(6)
  xy <- data.frame(x = 1:6, y = 100 * 1:6, cell = colnames(object))
  fov <- SeuratObject::CreateFOV(xy, type = "centroids", assay = "RNA", key = "fov_")
  methods::slot(object, "images") <- list(fov = fov)
  expect_equal(places_of(object), cbind(1:6, 100 * 1:6))
  visium <- methods::new(
    structure("VisiumV2", package = "Seurat"),
    boundaries = methods::slot(fov, "boundaries"), assay = "RNA", key = "fov_", image = array(0, c(2, 2, 3)),
    scale.factors = Seurat::scalefactors(1, 1, 1, 1)
  )
  methods::slot(object, "images") <- list(slice = visium)
  expect_equal(places_of(object), cbind(100 * 1:6, 1:6))
})

test_that("coordinates of a SpatialExperiment are read from where it keeps them", {
  skip_if_no_engine()
  skip_if_not_installed("SingleCellExperiment")
  if (!methods::isClass("SpatialExperiment")) {
    methods::setClass("SpatialExperiment", contains = "SingleCellExperiment", where = globalenv())
  }
  x <- counts_of_two_batches(6)
  made <- methods::new("SpatialExperiment", SingleCellExperiment::SingleCellExperiment(list(counts = x)))
  inner <- SingleCellExperiment::int_colData(made)
  inner$spatialCoords <- cbind(pxl_row_in_fullres = 100 * 1:6, pxl_col_in_fullres = 1:6)
  made@int_colData <- inner
  expect_equal(places_of(made), cbind(1:6, 100 * 1:6))
})
