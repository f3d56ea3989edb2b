#' Convert to Seurat
#'
#' Converts an AnnData to a Seurat object with counts, normalized values, metadata, variable features, reductions with
#' loadings, neighbor graphs and additional assays. Under Seurat v5 the assay is an `Assay5` unless
#' `options(Seurat.object.assay.version = "v3")` is set.
#'
#' The slot of each matrix depends on its values: whole numbers go to `counts`, other numbers to `data`, and matrices
#' with negative values to `scale.data`, in the order `layers["counts"]` (`"data"`, `"logcounts"`, `"scale.data"`), `X`,
#' `raw`. If `raw` has more genes than a scaled `X`, as after `scanpy.pp.scale()` of the variable genes, the assay has
#' the genes of `raw`; otherwise the remaining content of `raw` becomes an assay "raw". A message reports these choices.
#'
#' The layers "spliced", "unspliced" and "ambiguous" become assays of these names, which [RunVelocity()] takes.
#'
#' Entries of `obsm` whose columns have names (a data frame, or names in `uns["KEY_names"]`) become assays, the others
#' reductions. Pictures of a tissue in `uns["spatial"]`, with coordinates in `obsm["spatial"]`, become images: `VisiumV1` in
#' Seurat 4, `VisiumV2` in Seurat 5, of the small picture if there are two. Seurat replaces `_` and `|` in gene names by `-`;
#' the original names are kept in the column `original_name` of the feature metadata.
#' @param object A Python AnnData, the path of an `.h5ad` file, or anything that [as_anndata()] accepts.
#' @param assay Name of the assay; `NULL` for the assay that the AnnData was created from, or "RNA".
#' @param verbose Report what could not be converted.
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
  check_matrices(info$matrices)
  assay <- first_of(assay, notes$assay, "RNA")
  axis <- if (info$genes == "raw") "raw" else "var"
  genes <- clean_genes(receive_text(ask("names", adata = adata, axis = axis)), verbose)
  own <- receive_text(ask("names", adata = adata, axis = "var")) # of X; raw may have more
  own <- if (axis == "var") genes$clean else genes$clean[match(own, genes$original)]
  cells <- receive_text(ask("names", adata = adata, axis = "obs"))
  obs <- receive_frame(ask("table", adata = adata, place = "obs"), cells)
  tell_matrices(info, verbose)
  out <- new_seurat(adata, info$matrices, obs, genes, own, cells, assay, notes)
  out <- set_gene_data(out, assay, receive_frame(ask("table", adata = adata, place = axis), genes$clean), genes$original)
  if (isTRUE(info$raw_left)) out <- set_raw(out, adata, cells, verbose)
  for (layer in layers_left(info, SPLICING)) {
    x <- fetch_matrix(adata, paste0("layers/", layer), own, cells)
    quiet_layers(out[[free_name(layer, out, layer, verbose)]] <- new_assay(counts = x))
  }
  out <- set_assays(out, adata, info, cells, verbose)
  out <- set_images(out, adata, info, assay)
  if (length(out@images)) info <- without_images(info)
  out <- set_reductions(out, adata, info, assay, own, verbose)
  out <- set_graphs(out, adata, info, assay, verbose)
  tell_unused(info, verbose)
  out
}

# What is left once the pictures have become images.
without_images <- function(info) {
  info$other <- setdiff(unlist(info$other), "spatial")
  info$obsm <- setdiff(unlist(info$obsm), "spatial")
  info
}

check_matrices <- function(matrices, call = rlang::caller_env()) {
  if (!length(matrices)) abort_scduet("The AnnData has no matrix: X, raw and layers[\"counts\"] are all missing.", class = "no_counts", call = call)
}

first_of <- function(...) Filter(Negate(is.null), list(...))[[1]]

# Names as Seurat takes them.
clean_genes <- function(genes, verbose = FALSE) {
  clean <- make.unique(gsub("[_|]", "-", genes))
  if (any(clean != genes)) {
    inform_scduet(sprintf("Replaced `_` or `|` by `-` in %d gene names, as Seurat requires; see `original_name`.", sum(clean != genes)), verbose)
  }
  list(clean = clean, original = genes)
}

# Objects of this package round-trip silently; for others, report which matrix went where.
tell_matrices <- function(info, verbose) {
  simple <- length(info$matrices) == 1 && identical(info$matrices$counts, "X")
  if (!is.null(info$notes$x) || simple) {
    return(invisible())
  }
  said <- sprintf("%s from %s", names(info$matrices), sub("^layers/(.*)$", "layers[\"\\1\"]", unlist(info$matrices)))
  none <- if (is.null(info$matrices$counts)) "; no matrix holds whole numbers, so there are no counts"
  inform_scduet(paste0("Values of the assay: ", paste(said, collapse = ", "), none, "."), verbose)
}

fetch_matrix <- function(adata, place, genes, cells) {
  x <- receive_matrix(ask("part", adata = adata, place = place))
  dimnames(x) <- list(genes, cells)
  if (methods::is(x, "dgCMatrix")) x else methods::as(x, "CsparseMatrix")
}

new_seurat <- function(adata, matrices, obs, genes, own, cells, assay, notes) {
  fetch <- function(place) {
    if (is.null(place)) {
      return(NULL)
    }
    if (place != "raw") {
      return(fetch_matrix(adata, place, own, cells))
    }
    raw <- receive_text(ask("names", adata = adata, axis = "raw"))
    fetch_matrix(adata, "raw", raw, cells)[match(genes$original, raw), , drop = FALSE]
  }
  counts <- named_rows(fetch(matrices$counts), genes$clean)
  data <- named_rows(fetch(matrices$data), genes$clean)
  scaled <- fetch(matrices$scale.data)
  main <- if (!is.null(counts)) new_assay(counts = counts) else new_assay(data = if (is.null(data)) scaled else data)
  if (!is.null(counts) && !is.null(data)) main <- set_layer(main, "data", data)
  if (!is.null(scaled)) main <- set_layer(main, "scale.data", as.matrix(scaled))
  SeuratObject::Key(main) <- key_of(tolower(assay))
  ident <- notes$ident
  out <- quiet_layers(SeuratObject::CreateSeuratObject(
    main, assay = assay, project = first_of(notes$project, "SeuratProject"),
    meta.data = if (length(setdiff(names(obs), ident))) obs[setdiff(names(obs), ident)]
  ))
  if (!is.null(ident) && is.factor(obs[[ident]])) SeuratObject::Idents(out) <- obs[[ident]]
  out
}

named_rows <- function(x, genes) if (!is.null(x)) `rownames<-`(x, genes)

set_layer <- function(assay, layer, value) {
  if (is_layered(assay)) {
    set <- v5("LayerData<-")
    return(set(assay, layer = layer, value = value))
  }
  SeuratObject::SetAssayData(assay, layer, new.data = value)
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
  quiet_layers(object[[assay]] <- main)
  object
}

variable_features <- function(var) {
  if (!is.logical(var$highly_variable)) {
    return(character())
  }
  chosen <- which(var$highly_variable) # unknown for genes that only raw has
  rank <- var$highly_variable_rank
  rownames(var)[if (is.null(rank)) chosen else chosen[order(rank[chosen])]]
}

set_reductions <- function(object, adata, info, assay, own, verbose) {
  for (key in setdiff(unlist(info$obsm), c(names(info$notes$assays), names(info$features)))) {
    embedding <- receive_matrix(ask("part", adata = adata, place = "obsm", key = key))
    note <- Find(function(note) identical(note$obsm, key), info$notes$reductions)
    known <- if (is.null(note)) reduction_name(key) else note$name
    if (is.null(note)) note <- info$notes$reductions[[known]]
    name <- free_name(known, object, key, verbose)
    covered <- covered_cells(!is.na(embedding[, 1]), name, verbose)
    of <- if (isTRUE(note$assay %in% SeuratObject::Assays(object))) note$assay else assay
    object[[name]] <- make_reduction(
      as.matrix(embedding)[covered, , drop = FALSE], colnames(object)[covered], name,
      of, note$key,
      stdev = as.numeric(unlist(note$stdev)), loadings = loadings_of(adata, info, known, note, own)
    )
  }
  object
}

# Assays, reductions and graphs of Seurat share their names; "X_umap" and "umap" of obsm would be the same.
free_name <- function(name, object, key, verbose) {
  name <- gsub("[^[:alnum:]_.-]", "_", name)
  free <- utils::tail(make.unique(c(names(object), name)), 1)
  if (free != name) inform_scduet(sprintf("The object already has \"%s\": \"%s\" was renamed to \"%s\".", name, key, free), verbose)
  free
}

# Seurat 4 requires a reduction to have all cells.
covered_cells <- function(covered, name, verbose) {
  if (all(covered) || is_v5()) {
    return(covered)
  }
  said <- "The reduction \"%s\" covers %d of %d cells; the others are NA, because Seurat 4 requires all cells."
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

set_assays <- function(object, adata, info, cells, verbose) {
  noted <- info$notes$assays
  for (key in intersect(unlist(info$obsm), c(names(noted), names(info$features)))) {
    x <- Matrix::t(receive_matrix(ask("part", adata = adata, place = "obsm", key = key)))
    features <- unlist(first_of(noted[[key]]$features, info$features[[key]]))
    dimnames(x) <- list(clean_genes(features)$clean, cells)
    x <- methods::as(x, "CsparseMatrix")
    if (length(noted[[key]]$cells) && is_v5()) x <- x[, unlist(noted[[key]]$cells), drop = FALSE]
    counts <- first_of(noted[[key]]$layer, info$kinds[[key]]) == "counts"
    quiet_layers(object[[free_name(key, object, key, verbose)]] <- if (counts) new_assay(counts = x) else new_assay(data = x))
  }
  object
}

# The content of raw that is not in the main assay.
set_raw <- function(object, adata, cells, verbose) {
  genes <- clean_genes(receive_text(ask("names", adata = adata, axis = "raw")))$clean
  x <- fetch_matrix(adata, "raw", genes, cells)
  name <- free_name("raw", object, "raw", verbose)
  quiet_layers(object[[name]] <- if (all(x@x >= 0 & x@x == round(x@x))) new_assay(counts = x) else new_assay(data = x))
  inform_scduet(sprintf("`raw` of the AnnData, with %d genes, became the assay \"%s\".", nrow(x), name), verbose)
  object
}

new_assay <- function(...) {
  version <- getOption("Seurat.object.assay.version", if (is_v5()) "v5" else "v3")
  one <- nrow(list(...)[[1]]) == 1 # an Assay5 of one feature is refused by SeuratObject
  if (is_v5() && version == "v5" && !one) v5("CreateAssay5Object")(...) else SeuratObject::CreateAssayObject(...)
}

set_graphs <- function(object, adata, info, assay, verbose) {
  for (name in unlist(info$obsp)) {
    graph <- receive_matrix(ask("part", adata = adata, place = "obsp", key = name))
    dimnames(graph) <- list(colnames(object), colnames(object))
    graph <- SeuratObject::as.Graph(graph)
    SeuratObject::DefaultAssay(graph) <- first_of(info$notes$graphs[[name]]$assay, assay)
    object[[free_name(name, object, name, verbose)]] <- graph
  }
  object
}

SPLICING <- c("spliced", "unspliced", "ambiguous") # layers that become assays, as velocity takes them

# The layers that the main assay does not have, all or those of these names.
layers_left <- function(info, names = unlist(info$layers)) {
  setdiff(intersect(names, unlist(info$layers)), sub("^layers/", "", unlist(info$matrices)))
}

tell_unused <- function(info, verbose) {
  layers <- setdiff(layers_left(info), SPLICING)
  left <- c(
    if (length(layers)) paste("layers", some(layers, 9)),
    if (!"X" %in% unlist(info$matrices) && isTRUE(info$has_x)) "X",
    if (length(info$unusable)) paste("obsm", some(unlist(info$unusable), 9)),
    if (length(info$other)) paste("uns", some(unlist(info$other), 9))
  )
  if (length(left)) inform_scduet(paste0("Not converted to Seurat: ", paste(left, collapse = "; "), "."), verbose)
}
