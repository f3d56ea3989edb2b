# Pictures of a tissue and their scale factors: Seurat's VisiumV1 and VisiumV2 <-> uns["spatial"] of scanpy.

FIDUCIAL <- 55 / 89 # diameter of a Visium spot over that of a fiducial one, as Space Ranger gives them

put_images <- function(adata, object, cells) {
  for (name in names(seurat_pictures(object, cells))) {
    image <- methods::slot(object, "images")[[name]]
    picture <- methods::slot(image, "image")
    factors <- scale_factors(image)
    same <- isTRUE(factors$tissue_lowres_scalef == factors$tissue_hires_scalef) # the large one, with its scale for both
    ask("put_picture",
      adata = adata, name = name, kind = if (same) "hires" else "lowres", scales = factors,
      values = send_dense(matrix(picture, nrow(picture))), n_channels = dim(picture)[3]
    )
  }
}

# Images with a picture that show some of the cells. Of several, a column says which image a spot is in.
seurat_pictures <- function(object, cells) {
  if (!inherits(object, "Seurat")) {
    return(list())
  }
  Filter(function(image) {
    methods::.hasSlot(image, "image") && length(dim(methods::slot(image, "image"))) == 3 &&
      any(rownames(image_coordinates(image)) %in% cells)
  }, methods::slot(object, "images"))
}

# Which image each cell is in, if there are several; NULL otherwise.
library_of_cells <- function(object, cells) {
  shown <- seurat_pictures(object, cells)
  if (length(shown) < 2) {
    return(NULL)
  }
  found <- rep(NA_character_, length(cells))
  for (name in rev(names(shown))) found[cells %in% rownames(image_coordinates(shown[[name]]))] <- name
  factor(found, levels = names(shown))
}

# By the names of Space Ranger. Seurat 4 reads the scale of the large picture as the diameter of the spots.
scale_factors <- function(image) {
  own <- lapply(unclass(methods::slot(image, "scale.factors")), as.numeric)
  if (isTRUE(own$spot == own$hires)) own$spot <- own$fiducial * FIDUCIAL
  found <- list(
    spot_diameter_fullres = own$spot, fiducial_diameter_fullres = own$fiducial, tissue_hires_scalef = own$hires,
    tissue_lowres_scalef = own$lowres
  )
  Filter(function(value) length(value) == 1 && is.finite(value), found)
}

# The pictures of an AnnData as images of the object, of spots whose coordinates it has.
set_images <- function(object, adata, info, assay) {
  if (!"spatial" %in% unlist(info$obsm) || !rlang::is_installed("Seurat")) {
    return(object)
  }
  pictures <- py_list(ask("pictures", adata = adata))
  if (!length(pictures)) {
    return(object)
  }
  places <- receive_matrix(ask("part", adata = adata, place = "obsm", key = "spatial"))
  library <- object[[]]$library_id
  for (picture in pictures) {
    name <- py_value(picture$name)
    shown <- if (length(pictures) > 1 && !is.null(library)) which(library == name) else seq_len(ncol(object))
    if (!length(shown)) next
    image <- seurat_image(picture, as.matrix(places)[shown, 1:2, drop = FALSE], object[[]][shown, , drop = FALSE], assay, name)
    quiet_layers(object[[make.names(name)]] <- image)
  }
  object
}

seurat_image <- function(picture, places, spots, assay, name) {
  kind <- py_value(picture$kind)
  scales <- py_value(picture$scales)
  flat <- receive_matrix(picture$values)
  shown <- array(flat, c(nrow(flat), ncol(flat) / py_value(picture$n_channels), py_value(picture$n_channels)))
  factor <- scales[[paste0("tissue_", kind, "_scalef")]]
  spot <- first_of(scales$spot_diameter_fullres, NA_real_)
  fiducial <- first_of(scales$fiducial_diameter_fullres, spot / FIDUCIAL)
  factors <- Seurat::scalefactors(spot, fiducial, first_of(scales$tissue_hires_scalef, factor), factor)
  key <- key_of(tolower(gsub("[^[:alnum:]]", "", name)))
  rows <- data.frame(imagerow = places[, 2], imagecol = places[, 1], row.names = rownames(spots))
  if (is_v5()) {
    fov <- v5("CreateFOV")(rows, type = "centroids", radius = if (is.finite(spot)) spot else 1, assay = assay, key = key)
    return(methods::new(structure("VisiumV2", package = "Seurat"),
      boundaries = fov@boundaries, molecules = fov@molecules, assay = assay, key = key, image = shown, scale.factors = factors
    ))
  }
  column <- function(name, otherwise) if (is.numeric(spots[[name]])) as.integer(spots[[name]]) else otherwise
  methods::new(structure("VisiumV1", package = "Seurat"),
    image = shown, scale.factors = factors, spot.radius = fiducial * factor / max(dim(shown)), assay = assay, key = key,
    coordinates = cbind(data.frame(
      tissue = column("in_tissue", 1L), row = column("array_row", NA_integer_), col = column("array_col", NA_integer_)
    ), rows)
  )
}
