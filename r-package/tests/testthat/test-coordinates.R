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

# A picture of 20 rows and 10 columns, red growing downwards and blue to the right, of spots 100 pixels apart.
visium_object <- function(n = 6, v5 = FALSE) {
  object <- small_seurat(n)
  picture <- array(0, c(20, 10, 3))
  picture[, , 1] <- row(picture[, , 1]) / 20
  picture[, , 3] <- col(picture[, , 3]) / 10
  factors <- Seurat::scalefactors(spot = 60, fiducial = 97, hires = 0.1, lowres = 0.02)
  rows <- data.frame(imagerow = 100 * seq_len(n), imagecol = 50 + 10 * seq_len(n), row.names = colnames(object))
  image <- if (v5) {
    fov <- SeuratObject::CreateFOV(rows, type = "centroids", radius = 60, assay = "RNA", key = "slice_")
    methods::new(structure("VisiumV2", package = "Seurat"),
      boundaries = fov@boundaries, molecules = fov@molecules, assay = "RNA", key = "slice_", image = picture,
      scale.factors = factors
    )
  } else {
    methods::new(structure("VisiumV1", package = "Seurat"),
      image = picture, scale.factors = factors, spot.radius = 0.05, assay = "RNA", key = "slice_",
      coordinates = cbind(data.frame(tissue = 1L, row = seq_len(n), col = seq_len(n)), rows)
    )
  }
  methods::slot(object, "images") <- list(slice = image)
  object
}

test_that("pictures of Visium go to where scanpy has them, and come back as an image that Seurat draws", {
  skip_if_no_engine()
  skip_if_no_seurat()
  skip_if_not_installed("Seurat")
  v5 <- is_v5()
  object <- visium_object(v5 = v5)
  adata <- suppressMessages(as_anndata(object, verbose = FALSE))
  library <- adata$uns["spatial"]["slice"]
  expect_equal(py_value(library["scalefactors"]), list(
    spot_diameter_fullres = 60, fiducial_diameter_fullres = 97, tissue_hires_scalef = 0.1, tissue_lowres_scalef = 0.02
  ))
  shown <- library["images"]["lowres"]
  expect_equal(unlist(py_value(shown$shape)), c(20, 10, 3))
  expect_equal(unlist(lapply(py_value(shown$tolist())[[20]], `[[`, 1)), rep(255, 10)) # red of the last row
  expect_equal(unlist(lapply(py_value(shown$tolist())[[1]], `[[`, 3)), round(255 * 1:10 / 10)) # blue of the first
  back <- suppressWarnings(as_seurat(adata, verbose = FALSE))
  expect_identical(names(back@images), "slice")
  image <- back@images$slice
  expect_s4_class(image, if (v5) "VisiumV2" else "VisiumV1")
  expect_equal(image@image, object@images$slice@image, tolerance = 0.01)
  expect_equal(unclass(image@scale.factors), unclass(object@images$slice@scale.factors))
  expect_equal(SeuratObject::GetTissueCoordinates(image), SeuratObject::GetTissueCoordinates(object@images$slice))
  expect_false("spatial" %in% SeuratObject::Reductions(back))
  expect_equal(places_of(back), places_of(object))
  back <- Seurat::NormalizeData(back, verbose = FALSE)
  drawn <- suppressMessages(Seurat::SpatialFeaturePlot(back, features = rownames(back)[1]))
  expect_equal(nrow(drawn[[1]]$data), 6)
})

test_that("the spot size that Seurat 4 reads wrongly is told from that of the fiducial spots", {
  skip_if_no_engine()
  skip_if_no_seurat()
  skip_if_not_installed("Seurat")
  object <- visium_object()
  object@images$slice@scale.factors$spot <- 0.1
  factors <- scale_factors(object@images$slice)
  expect_equal(factors$spot_diameter_fullres, 97 * 55 / 89)
  expect_equal(factors$tissue_hires_scalef, 0.1)
})

test_that("of several pictures a column says which one a spot is in", {
  skip_if_no_engine()
  skip_if_no_seurat()
  skip_if_not_installed("Seurat")
  object <- visium_object()
  one <- object@images$slice
  cells <- colnames(object)
  object@images <- list(first = one[cells[1:2]], second = one[cells[3:6]])
  adata <- suppressMessages(as_anndata(object, verbose = FALSE))
  expect_setequal(unlist(py_value(ask("contents", adata = adata))$other), "spatial")
  expect_equal(unlist(py_value(adata$obs["library_id"]$tolist())), rep(c("first", "second"), c(2, 4)))
  back <- suppressWarnings(as_seurat(adata, verbose = FALSE))
  expect_identical(lapply(back@images, function(image) rownames(image_coordinates(image))), list(first = cells[1:2], second = cells[3:6]))
})
