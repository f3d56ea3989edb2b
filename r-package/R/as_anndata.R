#' Convert to AnnData
#'
#' Converts the object to an in-memory Python AnnData of cells x genes: counts in `X`, normalized values in
#' `layers["data"]`, metadata in `obs` and `var`, reductions in `obsm`, loadings in `varm`, neighbor graphs in `obsp`, places
#' of spots in `obsm["spatial"]` (x is the column, y the row), and pictures of Visium images with their scale factors in
#' `uns["spatial"]`, as scanpy has them. If there are several, the column `library_id` says which one a spot is in.
#' Sparse matrices are passed without transposing, and names and missing values are kept. A message lists what AnnData
#' cannot store.
#'
#' @param object A Seurat object (v3, v4 or v5, layers split or not), a SingleCellExperiment, an AnnData of the R package
#'   anndataR, a matrix of genes x cells (dense, sparse or on disk), or the path of an `.h5ad` file.
#' @param assay Assay whose counts become `X`; `NULL` for the default one. Other assays, and alternative experiments of a
#'   SingleCellExperiment, go to `obsm`. An assay of a class that no installed package defines, such as Signac's
#'   ChromatinAssay, is read by its slots.
#' @param layers Layers to convert in addition to the counts.
#' @param verbose Report what could not be converted.
#' @param ... Passed on to methods.
#' @returns A Python object of class `anndata.AnnData`.
#' @seealso [as_seurat()], [WriteH5AD()]
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' adata <- as_anndata(SeuratObject::pbmc_small)
#' adata
as_anndata <- function(object, ...) UseMethod("as_anndata")

#' @rdname as_anndata
#' @export
as_anndata.default <- function(object, ...) {
  if (is_anndata(object)) {
    return(object)
  }
  if (length(dim(object)) != 2) {
    abort_scduet(
      sprintf("Cannot convert an object of class %s to AnnData.", class(object)[1]),
      "Pass a Seurat object, a SingleCellExperiment, a matrix of genes x cells, or the path of an .h5ad file.", "class"
    )
  }
  genes <- names_or(rownames(object), nrow(object), "gene")
  cells <- names_or(colnames(object), ncol(object), "cell")
  new_anndata(list(object), genes, empty_frame(cells), empty_frame(genes))
}

#' @rdname as_anndata
#' @export
as_anndata.character <- function(object, ...) {
  check_text(object, "object")
  ask("read_h5ad", path = path.expand(object))
}

#' @rdname as_anndata
#' @export
as_anndata.Seurat <- function(object, assay = NULL, layers = "data", verbose = TRUE, ...) {
  check_no_options(...)
  check_installed("SeuratObject", "as_anndata()")
  object <- with_known_assays(object)
  assay <- default_assay(object, assay)
  main <- object[[assay]]
  from <- if (length(layers_named(main, "counts"))) "counts" else "data"
  cells <- assay_cells(main, object)
  if (length(cells) < ncol(object)) {
    inform_scduet(sprintf("The assay \"%s\" has %d of %d cells; only these are converted.", assay, length(cells), ncol(object)), verbose)
  }
  obs <- cell_data(object)[cells, , drop = FALSE]
  if (is.null(obs$library_id)) obs$library_id <- library_of_cells(object, cells)
  adata <- new_anndata(need_layer(main, from, raw = FALSE), rownames(main), obs, gene_data(main), verbose)
  for (layer in setdiff(layers, from)) put_layer(adata, main, layer, cells)
  notes <- list(
    assay = assay, x = from, whole = py_value(ask("whole", adata = adata)), ident = ident_column(object),
    project = methods::slot(object, "project.name")
  )
  notes$reductions <- put_reductions(adata, object, rownames(main), cells)
  notes$assays <- put_assays(adata, object, assay, cells, verbose)
  notes$graphs <- put_graphs(adata, object, cells)
  if (put_coordinates(adata, object, cells)) put_images(adata, object, cells)
  ask("put", adata = adata, place = "uns", key = "scduet", value = notes)
  tell_left_out(object, assay, layers, verbose)
  adata
}

#' @rdname as_anndata
#' @export
as_anndata.SingleCellExperiment <- function(object, layers = NULL, verbose = TRUE, ...) {
  check_no_options(...)
  check_installed("SingleCellExperiment", "as_anndata()")
  present <- SummarizedExperiment::assayNames(object)
  if (is.null(present)) present <- rep("", length(SummarizedExperiment::assays(object)))
  if (!length(present)) abort_scduet("The SingleCellExperiment has no assay.", class = "no_counts")
  from <- if ("counts" %in% present) match("counts", present) else 1
  genes <- names_or(rownames(object), nrow(object), "gene")
  cells <- names_or(colnames(object), ncol(object), "cell")
  obs <- plain_frame(SummarizedExperiment::colData(object), cells)
  var <- plain_frame(SummarizedExperiment::rowData(object), genes)
  adata <- new_anndata(list(unnamed(SummarizedExperiment::assay(object, from), cells)), genes, obs, var, verbose)
  wanted <- setdiff(if (is.null(layers)) seq_along(present) else match(layers, present), from)
  for (place in wanted[!is.na(wanted)]) {
    x <- send_counts(list(SummarizedExperiment::assay(object, place)), genes)
    key <- if (nzchar(present[place])) present[place] else paste0("assay", place)
    ask("put", adata = adata, place = "layers", key = if (key == "logcounts") "data" else key, value = x)
  }
  reductions <- SingleCellExperiment::reducedDimNames(object)
  keys <- make.unique(as.character(embedding_name(sce_reduction(reductions))))
  for (place in seq_along(reductions)) {
    x <- send_dense(as.matrix(SingleCellExperiment::reducedDim(object, place)))
    ask("put", adata = adata, place = "obsm", key = keys[place], value = x)
  }
  put_coordinates(adata, object, cells)
  left <- c(put_alternatives(adata, object, cells), left_models(object))
  if (length(left)) inform_scduet(paste0("Not converted: ", paste(left, collapse = "; "), "."), verbose)
  adata
}

# Alternative experiments, such as proteins, as entries of obsm with names of their features. Returns what is left out.
put_alternatives <- function(adata, object, cells) {
  left <- lapply(SingleCellExperiment::altExpNames(object), function(name) {
    part <- SingleCellExperiment::altExp(object, name)
    block <- unnamed(assay_matrix(object, name)[[1]], cells)
    features <- names_or(rownames(block), nrow(block), "feature")
    rownames(block) <- features
    whole <- new_anndata(list(block), features, empty_frame(cells), empty_frame(features))
    ask("put", adata = adata, place = "obsm", key = name, value = whole$X, names = as.list(features))
    present <- SummarizedExperiment::assayNames(part)
    further <- setdiff(present, if ("counts" %in% present) "counts" else present[1])
    columns <- c(names(SummarizedExperiment::colData(part)), names(SummarizedExperiment::rowData(part)))
    c(
      if (length(further)) sprintf("assays %s of \"%s\"", some(further, 9), name),
      if (length(columns)) sprintf("columns %s of \"%s\"", some(columns, 9), name)
    )
  })
  unlist(left)
}

# Cells named as in the metadata, which SingleCellExperiment does not require.
unnamed <- function(x, cells) {
  if (is.null(colnames(x))) colnames(x) <- cells
  x
}

# "PCA" in a SingleCellExperiment is "pca" in Seurat and "X_pca" in AnnData.
sce_reduction <- function(name) ifelse(toupper(name) == name, tolower(name), name)

new_anndata <- function(blocks, genes, obs, var, verbose = TRUE) {
  cells <- unlist(lapply(blocks, colnames), use.names = FALSE)
  cells <- if (is.null(cells)) rownames(obs) else unique_cells(cells, rownames(obs), verbose)
  empty <- setdiff(rownames(obs), cells) # cells missing from this layer
  if (length(empty)) blocks <- c(blocks, list(no_counts(genes, empty)))
  cells <- c(cells, empty)
  x <- send_counts(blocks, genes)
  adata <- ask("new", x = x, obs = send_frame(obs[cells, , drop = FALSE], verbose), var = send_frame(var, verbose))
  ask("select", adata = adata, order = as.list(rownames(obs)))
}

# Old objects may hold a cell name twice in the assay, where the metadata has made the names unique.
unique_cells <- function(cells, known, verbose, call = rlang::caller_env()) {
  twice <- unique(cells[duplicated(cells)])
  if (length(twice) && length(cells) != length(known)) {
    abort_scduet(sprintf("Duplicated cell names (%d): %s.", length(twice), some(twice)), "Make them unique.", "names", call)
  }
  if (length(twice)) inform_scduet(sprintf("Made %d duplicated cell names unique.", length(twice)), verbose)
  if (length(twice)) known else cells
}

no_counts <- function(genes, cells) {
  Matrix::sparseMatrix(integer(), integer(), x = numeric(), dims = c(length(genes), length(cells)), dimnames = list(genes, cells))
}

put_layer <- function(adata, main, layer, cells) {
  blocks <- layer_blocks(main, layer)
  if (!length(blocks)) {
    return(invisible())
  }
  genes <- rownames(main)
  whole <- new_anndata(blocks, genes, empty_frame(cells), empty_frame(genes))
  ask("put", adata = adata, place = "layers", key = layer, value = whole$X)
}

# Metadata with the active identity as a column.
cell_data <- function(object) {
  data <- object[[]]
  data[[ident_column(object)]] <- SeuratObject::Idents(object)
  data
}

# Column name for the active identity: "ident", unless the metadata already has it.
ident_column <- function(object) utils::tail(make.unique(c(names(object[[]]), "ident")), 1)

gene_data <- function(main) {
  data <- as.data.frame(main[[]])
  data <- data[rownames(main), , drop = FALSE]
  rownames(data) <- rownames(main)
  variable <- SeuratObject::VariableFeatures(main)
  if (length(variable)) {
    data$highly_variable <- rownames(main) %in% variable
    data$highly_variable_rank <- match(rownames(main), variable)
  }
  data
}

# The cells of an assay in the object's order; in Seurat 5 an assay may have a subset of the cells, as in a sketch.
assay_cells <- function(assay, object) if (is_v5()) intersect(colnames(object), colnames(assay)) else colnames(object)

put_reductions <- function(adata, object, genes, cells) {
  names <- SeuratObject::Reductions(object)
  keys <- make.unique(as.character(embedding_name(names)))
  names(keys) <- names
  lapply(set_names(names), function(name) {
    reduction <- object[[name]]
    embedding <- SeuratObject::Embeddings(reduction)
    whole <- matrix(NA_real_, length(cells), ncol(embedding), dimnames = list(cells, NULL))
    covered <- intersect(cells, rownames(embedding))
    whole[covered, ] <- embedding[covered, ]
    ask("put", adata = adata, place = "obsm", key = keys[[name]], value = send_dense(whole))
    loadings <- SeuratObject::Loadings(reduction)
    loadings <- loadings[rownames(loadings) %in% genes, , drop = FALSE]
    if (length(loadings)) {
      rows <- as.list(rownames(loadings))
      ask("put", adata = adata, place = "varm", key = loadings_name(name), value = send_dense(unname(loadings)), rows = rows)
    }
    list(
      name = name, obsm = keys[[name]], key = SeuratObject::Key(reduction), assay = SeuratObject::DefaultAssay(reduction),
      stdev = as.list(SeuratObject::Stdev(reduction)), features = as.list(rownames(loadings))
    )
  })
}

loadings_name <- function(reduction) if (reduction == "pca") "PCs" else reduction

put_assays <- function(adata, object, main, cells, verbose) {
  names <- setdiff(SeuratObject::Assays(object), main)
  lapply(set_names(names), function(name) {
    assay <- object[[name]]
    layer <- if (length(layers_named(assay, "counts"))) "counts" else "data"
    blocks <- lapply(need_layer(assay, layer, raw = FALSE), function(block) block[, colnames(block) %in% cells, drop = FALSE])
    part <- new_anndata(blocks, rownames(assay), empty_frame(cells), empty_frame(rownames(assay)))
    ask("put", adata = adata, place = "obsm", key = name, value = part$X)
    note <- list(layer = layer, features = as.list(rownames(assay)))
    own <- intersect(cells, assay_cells(assay, object))
    if (length(own) < length(cells)) {
      inform_scduet(sprintf("The assay \"%s\" has %d of %d cells; obsm has zeros for the others.", name, length(own), length(cells)), verbose)
      note$cells <- as.list(own)
    }
    note
  })
}

put_graphs <- function(adata, object, cells) {
  names <- SeuratObject::Graphs(object)
  lapply(set_names(names), function(name) {
    graph <- methods::as(object[[name]], "CsparseMatrix")
    if (!setequal(rownames(graph), cells)) {
      return(NULL)
    }
    x <- send_counts(list(Matrix::t(graph)[cells, cells]), cells) # read as rows, a graph is its own transpose
    ask("put", adata = adata, place = "obsp", key = name, value = x)
    list(assay = SeuratObject::DefaultAssay(object[[name]]))
  })
}

tell_left_out <- function(object, assay, layers, verbose) {
  main <- object[[assay]]
  split <- Filter(function(layer) length(layers_named(main, layer)) > 1, c("counts", layers))
  others <- lapply(setdiff(SeuratObject::Assays(object), assay), function(name) {
    further <- further_layers(object[[name]], if (length(layers_named(object[[name]], "counts"))) "counts" else "data")
    if (length(further)) sprintf("layers %s of \"%s\"", some(further, 9), name)
  })
  further <- further_layers(main, c("counts", layers))
  loadings <- Filter(function(name) {
    genes <- rownames(SeuratObject::Loadings(object[[name]]))
    length(genes) && !any(genes %in% rownames(main))
  }, SeuratObject::Reductions(object))
  graphs <- Filter(function(name) !setequal(rownames(object[[name]]), assay_cells(main, object)), SeuratObject::Graphs(object))
  left <- c(
    if (length(split)) paste("the split of the layers", some(split, 9)),
    if (length(further)) paste("layers", some(further, 9)),
    unlist(others),
    if (length(loadings)) paste("the loadings, of other assays, of", some(loadings, 9)),
    if (length(graphs)) paste("graphs of other cells,", some(graphs, 9)),
    left_models(object),
    left_images(object, assay_cells(main, object)),
    if (length(object@neighbors)) paste("nearest-neighbor lists", some(names(object@neighbors), 9)),
    if (length(object@misc)) "`misc`", if (length(object@tools)) "`tools`", if (length(object@commands)) "the command log"
  )
  if (length(left)) inform_scduet(paste0("Not converted to AnnData: ", paste(left, collapse = "; "), "."), verbose)
}

# Layers of an assay other than those in `carried`.
further_layers <- function(assay, carried) {
  layered <- if (is_layered(assay)) v5("Layers")(assay) else c("counts", "data", "scale.data")
  other <- layered[!sub("\\..*", "", layered) %in% carried & !layered %in% carried]
  Filter(function(layer) length(layers_named(assay, layer)) > 0, other)
}

# Of images without a picture only the places of the cells go over.
left_images <- function(object, cells) {
  other <- setdiff(names(object@images), names(seurat_pictures(object, cells)))
  if (length(other)) paste("all but the coordinates of the images", some(other, 9))
}

left_models <- function(object) {
  names <- names(models_of(object))
  if (length(names)) sprintf("the trained models of %s (`SaveModel()` keeps them)", some(names, 9))
}

names_or <- function(names, n, what) if (is.null(names)) paste0(what, seq_len(n)) else names

empty_frame <- function(names) data.frame(row.names = names)

# A Bioconductor DataFrame as a data frame; columns of data frames or matrices are kept, and `send_frame` reports them.
plain_frame <- function(data, names) structure(as.list(data), class = "data.frame", row.names = names)
