#' Convert to AnnData
#'
#' The object becomes a Python AnnData of cells x genes, in memory: counts in `X`, normalised values in
#' `layers["data"]`, metadata in `obs` and `var`, reductions in `obsm`, loadings in `varm`, neighbour graphs in `obsp`.
#' The arrays of a sparse matrix are handed over as they are, without transposing; names and missing values are kept.
#' What AnnData has no place for is named in a message.
#'
#' @param object A Seurat object (v3, v4 or v5, layers split or not), a SingleCellExperiment, a matrix of genes x cells
#'   (dense, sparse or on disk), or the path of an `.h5ad` file.
#' @param assay Assay whose counts become `X`; `NULL` for the default one. Other assays go to `obsm`.
#' @param layers Layers to take along beside the counts.
#' @param verbose Say what could not be carried over.
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
      sprintf("Cannot make an AnnData of an object of class %s.", class(object)[1]),
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
  assay <- default_assay(object, assay)
  main <- object[[assay]]
  from <- if (length(layers_named(main, "counts"))) "counts" else "data"
  adata <- new_anndata(need_layer(main, from, raw = FALSE), rownames(main), cell_data(object), gene_data(main), verbose)
  for (layer in setdiff(layers, from)) put_layer(adata, main, layer, colnames(object))
  notes <- list(assay = assay, x = from, ident = "ident", project = methods::slot(object, "project.name"))
  notes$reductions <- put_reductions(adata, object, rownames(main))
  notes$assays <- put_assays(adata, object, assay)
  notes$graphs <- put_graphs(adata, object)
  ask("put", adata = adata, place = "uns", key = "scduet", value = notes)
  tell_left_out(object, main, layers, verbose)
  adata
}

#' @rdname as_anndata
#' @export
as_anndata.SingleCellExperiment <- function(object, layers = NULL, verbose = TRUE, ...) {
  check_no_options(...)
  check_installed("SingleCellExperiment", "as_anndata()")
  present <- SummarizedExperiment::assayNames(object)
  from <- if ("counts" %in% present) "counts" else present[1]
  genes <- names_or(rownames(object), nrow(object), "gene")
  cells <- names_or(colnames(object), ncol(object), "cell")
  obs <- plain_frame(SummarizedExperiment::colData(object), cells)
  var <- plain_frame(SummarizedExperiment::rowData(object), genes)
  adata <- new_anndata(list(SummarizedExperiment::assay(object, from)), genes, obs, var, verbose)
  for (layer in setdiff(if (is.null(layers)) present else layers, from)) {
    x <- send_counts(list(SummarizedExperiment::assay(object, layer)), genes)
    ask("put", adata = adata, place = "layers", key = if (layer == "logcounts") "data" else layer, value = x)
  }
  for (name in SingleCellExperiment::reducedDimNames(object)) {
    x <- send_dense(as.matrix(SingleCellExperiment::reducedDim(object, name)))
    ask("put", adata = adata, place = "obsm", key = embedding_name(sce_reduction(name)), value = x)
  }
  other <- SingleCellExperiment::altExpNames(object)
  left <- c(if (length(other)) paste("alternative experiments", some(other, 9)), left_models(object))
  if (length(left)) inform_scduet(paste0("Not carried over: ", paste(left, collapse = "; "), "."), verbose)
  adata
}

# "PCA" in a SingleCellExperiment is "pca" in Seurat and "X_pca" in AnnData.
sce_reduction <- function(name) ifelse(toupper(name) == name, tolower(name), name)

new_anndata <- function(blocks, genes, obs, var, verbose = TRUE) {
  cells <- unlist(lapply(blocks, colnames), use.names = FALSE)
  cells <- if (is.null(cells)) rownames(obs) else unique_cells(cells, rownames(obs), verbose)
  empty <- setdiff(rownames(obs), cells) # cells that this layer does not know
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
    abort_scduet(sprintf("%d cell names occur more than once: %s.", length(twice), some(twice)), "Make them unique.", "names", call)
  }
  if (length(twice)) inform_scduet(sprintf("%d cell names occur more than once; they were made unique.", length(twice)), verbose)
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

# Metadata, with the active identity as a column of its own.
cell_data <- function(object) {
  data <- object[[]]
  data$ident <- SeuratObject::Idents(object)
  data
}

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

put_reductions <- function(adata, object, genes) {
  names <- SeuratObject::Reductions(object)
  lapply(rlang::set_names(names), function(name) {
    reduction <- object[[name]]
    embedding <- SeuratObject::Embeddings(reduction)
    whole <- matrix(NA_real_, ncol(object), ncol(embedding), dimnames = list(colnames(object), NULL))
    whole[rownames(embedding), ] <- embedding
    ask("put", adata = adata, place = "obsm", key = embedding_name(name), value = send_dense(whole))
    loadings <- SeuratObject::Loadings(reduction)
    loadings <- loadings[rownames(loadings) %in% genes, , drop = FALSE]
    if (length(loadings)) {
      rows <- as.list(rownames(loadings))
      ask("put", adata = adata, place = "varm", key = loadings_name(name), value = send_dense(unname(loadings)), rows = rows)
    }
    list(
      key = SeuratObject::Key(reduction), assay = SeuratObject::DefaultAssay(reduction),
      stdev = as.list(SeuratObject::Stdev(reduction)), features = as.list(rownames(loadings))
    )
  })
}

loadings_name <- function(reduction) if (reduction == "pca") "PCs" else reduction

put_assays <- function(adata, object, main) {
  names <- setdiff(SeuratObject::Assays(object), main)
  lapply(rlang::set_names(names), function(name) {
    assay <- object[[name]]
    layer <- if (length(layers_named(assay, "counts"))) "counts" else "data"
    part <- new_anndata(need_layer(assay, layer, raw = FALSE), rownames(assay), empty_frame(colnames(object)), empty_frame(rownames(assay)))
    ask("put", adata = adata, place = "obsm", key = name, value = part$X)
    list(layer = layer, features = as.list(rownames(assay)))
  })
}

put_graphs <- function(adata, object) {
  names <- SeuratObject::Graphs(object)
  cells <- colnames(object)
  lapply(rlang::set_names(names), function(name) {
    graph <- methods::as(object[[name]], "CsparseMatrix")
    if (!setequal(rownames(graph), cells)) {
      return(NULL)
    }
    x <- send_counts(list(Matrix::t(graph)[cells, cells]), cells) # read as rows, a graph is its own transpose
    ask("put", adata = adata, place = "obsp", key = name, value = x)
    list(assay = SeuratObject::DefaultAssay(object[[name]]))
  })
}

tell_left_out <- function(object, main, layers, verbose) {
  layered <- if (is_layered(main)) v5("Layers")(main) else c("counts", "data", "scale.data")
  other <- layered[!sub("\\..*", "", layered) %in% c("counts", layers) & !layered %in% layers]
  other <- Filter(function(layer) length(layers_named(main, layer)) > 0, other)
  split <- Filter(function(layer) length(layers_named(main, layer)) > 1, c("counts", layers))
  left <- c(
    if (length(split)) paste("the split of the layers", some(split, 9)),
    if (length(other)) paste("layers", some(other, 9)),
    left_models(object),
    if (length(object@images)) paste("images", some(names(object@images), 9)),
    if (length(object@neighbors)) paste("nearest-neighbour lists", some(names(object@neighbors), 9)),
    if (length(object@misc)) "`misc`", if (length(object@tools)) "`tools`", if (length(object@commands)) "the command log"
  )
  if (length(left)) inform_scduet(paste0("Not carried over to AnnData: ", paste(left, collapse = "; "), "."), verbose)
}

left_models <- function(object) {
  names <- names(models_of(object))
  if (length(names)) sprintf("the trained models of %s (`SaveModel()` keeps them)", some(names, 9))
}

names_or <- function(names, n, what) if (is.null(names)) paste0(what, seq_len(n)) else names

empty_frame <- function(names) data.frame(row.names = names)

# A DataFrame of Bioconductor; columns that hold data frames or lists stay as they are and are told of by `send_frame`.
plain_frame <- function(data, names) {
  columns <- as.list(data)
  out <- structure(columns, class = "data.frame", row.names = names)
  out
}
