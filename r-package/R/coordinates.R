# Places of spots and cells in a tissue, as scanpy and squidpy hold them: obsm["spatial"] with x (column) and y (row).

put_coordinates <- function(adata, object, cells) {
  places <- if (inherits(object, "Seurat")) seurat_coordinates(object) else spatial_experiment_coordinates(object)
  places <- places[rownames(places) %in% cells, , drop = FALSE] # subsetting keeps images of cells that are gone
  if (is.null(places) || !nrow(places)) {
    return(invisible(FALSE))
  }
  known <- py_value(ask("contents", adata = adata))$obsm
  if ("spatial" %in% unlist(known)) { # a reduction of this name
    return(invisible(FALSE))
  }
  ask("put", adata = adata, place = "obsm", key = "spatial", value = send_dense(unname(places[match(cells, rownames(places)), , drop = FALSE])))
  invisible(TRUE)
}

# Of all images of the object, (cell, 2) with names of cells; NULL without images. A cell of two images counts in the first.
seurat_coordinates <- function(object) {
  found <- do.call(rbind, unname(lapply(methods::slot(object, "images"), image_coordinates)))
  found[!duplicated(rownames(found)), , drop = FALSE]
}

# Seurat 4 has VisiumV1 (imagerow, imagecol) and SlideSeq (x, y); Seurat 5 FOV (x, y), and VisiumV2, whose x is the row.
image_coordinates <- function(image) {
  found <- if (methods::.hasSlot(image, "coordinates")) methods::slot(image, "coordinates") else SeuratObject::GetTissueCoordinates(image)
  found <- as.data.frame(found)
  own <- intersect(c("cell", "cells"), names(found))
  cells <- if (length(own)) as.character(found[[own[1]]]) else rownames(found)
  columns <- if ("imagecol" %in% names(found)) c("imagecol", "imagerow") else if (methods::is(image, "VisiumV2")) c("y", "x") else c("x", "y")
  if (!all(columns %in% names(found))) {
    return(NULL)
  }
  places <- rowsum(as.matrix(found[columns]), cells, reorder = FALSE) # the corners of a segmented cell
  places / as.vector(table(cells)[rownames(places)])
}

# A SpatialExperiment keeps them beside its colData, columns named by axis.
spatial_experiment_coordinates <- function(object) {
  if (!methods::is(object, "SpatialExperiment")) {
    return(NULL)
  }
  places <- as.matrix(SingleCellExperiment::int_colData(object)$spatialCoords)
  if (ncol(places) < 2) {
    return(NULL)
  }
  rownames(places) <- names_or(colnames(object), ncol(object), "cell")
  row_first <- grepl("row|^y", colnames(places)[1], ignore.case = TRUE)
  places[, if (isTRUE(row_first)) 2:1 else 1:2, drop = FALSE]
}
