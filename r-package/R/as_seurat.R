#' Convert to Seurat
#'
#' Makes a Seurat object of an AnnData: counts, normalised values, metadata, variable features, reductions with loadings,
#' neighbour graphs and further assays, as far as they are there. Under Seurat v5 the assay is an `Assay5` unless
#' `options(Seurat.object.assay.version = "v3")` says otherwise.
#'
#' Raw counts are taken from `layers["counts"]`, or from `X` if that holds whole numbers only; normalised values from
#' `layers["data"]` or `layers["logcounts"]`, or from `X` if the counts are elsewhere. Seurat allows no `_` and no `|` in
#' gene names and makes them `-`; the names as they were stay in the column `original_name` of the feature metadata.
#'
#' @param object A Python AnnData, the path of an `.h5ad` file, or anything that [as_anndata()] takes.
#' @param assay Name of the assay; `NULL` for the one that the AnnData came from, else "RNA".
#' @param verbose Say what could not be carried over.
#' @param ... Not used.
#' @returns A Seurat object.
#' @seealso [as_anndata()], [ReadH5AD()]
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' as_seurat(as_anndata(SeuratObject::pbmc_small))
as_seurat <- function(object, assay = NULL, verbose = TRUE, ...) {
  check_no_options(...)
  check_installed("SeuratObject", "as_seurat()")
  if (inherits(object, "Seurat")) {
    return(object)
  }
  adata <- as_anndata(object)
  info <- py_value(ask("contents", adata = adata))
  notes <- info$notes
  assay <- first_of(assay, notes$assay, "RNA")
  genes <- receive_text(ask("names", adata = adata, axis = "var"))
  cells <- receive_text(ask("names", adata = adata, axis = "obs"))
  obs <- receive_frame(ask("table", adata = adata, place = "obs"), cells)
  var <- receive_frame(ask("table", adata = adata, place = "var"), genes)
  out <- new_seurat(find_layers(adata, info), obs, genes, cells, assay, notes, verbose)
  out <- set_gene_data(out, assay, var, genes)
  out <- set_reductions(out, adata, info, assay, verbose)
  out <- set_assays(out, adata, info, cells)
  out <- set_graphs(out, adata, info, assay)
  tell_unused(info, verbose)
  out
}

first_of <- function(...) Filter(Negate(is.null), list(...))[[1]]

# Layer of Seurat -> (place, key) in the AnnData.
find_layers <- function(adata, info) {
  layers <- unlist(info$layers)
  at <- function(key) list(adata = adata, place = "layers", key = key)
  x <- if (info$has_x) list(adata = adata, place = "X")
  counts <- if ("counts" %in% layers) at("counts") else if (isTRUE(info$counts) || identical(info$notes$x, "counts")) x
  name <- intersect(c("data", "logcounts"), layers)
  data <- if (length(name)) at(name[1]) else if (is.null(counts) || !identical(counts$place, "X")) x
  Filter(Negate(is.null), list(counts = counts, data = data))
}

fetch_matrix <- function(where, genes, cells) {
  x <- receive_matrix(do.call(ask, c("part", where)))
  dimnames(x) <- list(genes, cells)
  if (methods::is(x, "dgCMatrix")) x else methods::as(x, "CsparseMatrix")
}

new_seurat <- function(layers, obs, genes, cells, assay, notes, verbose) {
  if (!length(layers)) abort_scduet("The AnnData has no matrix: neither X nor a layer \"counts\".", class = "no_counts")
  clean <- make.unique(gsub("[_|]", "-", genes))
  if (any(clean != genes)) {
    inform_scduet(sprintf("%d gene names got `-` for `_` or `|`, as Seurat wants it; see `original_name`.", sum(clean != genes)), verbose)
  }
  first <- fetch_matrix(layers[[1]], clean, cells)
  project <- first_of(notes$project, "SeuratProject")
  out <- SeuratObject::CreateSeuratObject(first, assay = assay, project = project, meta.data = if (ncol(plain_ident(obs))) plain_ident(obs))
  if (names(layers)[1] == "data") out <- set_layer(out, assay, "data", first)
  if (length(layers) > 1) out <- set_layer(out, assay, "data", fetch_matrix(layers[[2]], clean, cells))
  if (is.factor(obs$ident)) SeuratObject::Idents(out) <- obs$ident
  out
}

plain_ident <- function(obs) obs[, names(obs) != "ident", drop = FALSE]

set_layer <- function(object, assay, layer, value) {
  if (is_layered(object[[assay]])) {
    set <- v5("LayerData<-")
    part <- set(object[[assay]], layer = layer, value = value)
  } else {
    part <- SeuratObject::SetAssayData(object[[assay]], layer, new.data = value)
  }
  object[[assay]] <- part
  object
}

set_gene_data <- function(object, assay, var, genes) {
  main <- object[[assay]]
  if (any(rownames(main) != genes)) var$original_name <- genes
  rownames(var) <- rownames(main)
  variable <- variable_features(var)
  for (column in setdiff(names(var), c("highly_variable", "highly_variable_rank"))) {
    main[[column]] <- rlang::set_names(var[, column, drop = FALSE], column)
  }
  if (length(variable)) SeuratObject::VariableFeatures(main) <- variable
  object[[assay]] <- main
  object
}

variable_features <- function(var) {
  if (!is.logical(var$highly_variable)) {
    return(character())
  }
  chosen <- which(var$highly_variable)
  rank <- var$highly_variable_rank
  rownames(var)[if (is.null(rank)) chosen else chosen[order(rank[chosen])]]
}

set_reductions <- function(object, adata, info, assay, verbose) {
  others <- names(info$notes$assays)
  for (key in setdiff(unlist(info$obsm), c(others, info$tables))) {
    embedding <- receive_matrix(ask("part", adata = adata, place = "obsm", key = key))
    name <- reduction_name(key)
    note <- info$notes$reductions[[name]]
    covered <- covered_cells(!is.na(embedding[, 1]), name, verbose)
    object[[name]] <- make_reduction(
      as.matrix(embedding)[covered, , drop = FALSE], colnames(object)[covered], name,
      first_of(note$assay, assay), note$key,
      stdev = as.numeric(unlist(note$stdev)), loadings = loadings_of(adata, info, name, note, rownames(object[[assay]]))
    )
  }
  object
}

# Seurat 4 takes a reduction only if it has all cells.
covered_cells <- function(covered, name, verbose) {
  if (all(covered) || is_v5()) {
    return(covered)
  }
  said <- "The reduction \"%s\" covers %d of %d cells; Seurat 4 wants all, so the others have NA there."
  inform_scduet(sprintf(said, name, sum(covered), length(covered)), verbose)
  rep(TRUE, length(covered))
}

loadings_of <- function(adata, info, name, note, genes) {
  key <- loadings_name(name)
  if (!key %in% unlist(info$varm)) {
    return(methods::new("matrix"))
  }
  loadings <- as.matrix(receive_matrix(ask("part", adata = adata, place = "varm", key = key)))
  key <- first_of(note$key, key_of(name))
  dimnames(loadings) <- list(genes, paste0(key, seq_len(ncol(loadings))))
  keep <- if (length(note$features)) unlist(note$features) else genes[rowSums(loadings != 0) > 0]
  loadings[keep, , drop = FALSE]
}

set_assays <- function(object, adata, info, cells) {
  for (name in intersect(names(info$notes$assays), unlist(info$obsm))) {
    note <- info$notes$assays[[name]]
    x <- receive_matrix(ask("part", adata = adata, place = "obsm", key = name))
    x <- Matrix::t(x)
    dimnames(x) <- list(unlist(note$features), cells)
    object[[name]] <- if (note$layer == "counts") new_assay(counts = x) else new_assay(data = x)
  }
  for (name in unlist(info$tables)) {
    columns <- ask("table", adata = adata, place = "obsm", key = name)
    x <- t(as.matrix(receive_frame(columns, cells)))
    object[[name]] <- new_assay(counts = methods::as(x, "CsparseMatrix"))
  }
  object
}

new_assay <- function(...) {
  version <- getOption("Seurat.object.assay.version", if (is_v5()) "v5" else "v3")
  if (is_v5() && version == "v5") v5("CreateAssay5Object")(...) else SeuratObject::CreateAssayObject(...)
}

set_graphs <- function(object, adata, info, assay) {
  for (name in unlist(info$obsp)) {
    graph <- receive_matrix(ask("part", adata = adata, place = "obsp", key = name))
    dimnames(graph) <- list(colnames(object), colnames(object))
    graph <- SeuratObject::as.Graph(graph)
    SeuratObject::DefaultAssay(graph) <- first_of(info$notes$graphs[[name]]$assay, assay)
    object[[gsub("[^[:alnum:]_.]", "_", name)]] <- graph
  }
  object
}

tell_unused <- function(info, verbose) {
  layers <- setdiff(unlist(info$layers), c("counts", "data", "logcounts"))
  left <- c(
    if (length(layers)) paste("layers", some(layers, 9)),
    if (length(info$other)) paste("uns", some(unlist(info$other), 9)),
    if (isTRUE(info$raw)) "raw"
  )
  if (length(left)) inform_scduet(paste0("Not carried over to Seurat: ", paste(left, collapse = "; "), "."), verbose)
}
