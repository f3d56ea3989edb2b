# Extracts data from Seurat objects and SingleCellExperiments and adds results, with one interface for both.

# Counts, metadata and embeddings of an object as base R data. raw: whether a model needs the counts.
parts_of <- function(object, assay, layer, raw = TRUE, call = rlang::caller_env()) {
  object <- known_object(object, call)
  if (methods::is(object, "SingleCellExperiment")) {
    names <- SingleCellExperiment::reducedDimNames(object)
    embeddings <- lapply(set_names(names), function(name) as.matrix(SingleCellExperiment::reducedDim(object, name)))
    cells <- plain_frame(SummarizedExperiment::colData(object), names_or(colnames(object), ncol(object), "cell"))
    names(embeddings) <- sce_reduction(names(embeddings))
    counts <- need_assay(object, layer, call)
    check_names_once(rownames(counts), call)
    return(list(blocks = list(counts), genes = rownames(counts), cells = cells, embeddings = embeddings, object = object))
  }
  if (!inherits(object, "Seurat")) {
    abort_scduet("`object` must be a Seurat object, a SingleCellExperiment or an AnnData of anndataR.", class = "class", call = call)
  }
  object <- with_known_assays(object)
  assay <- default_assay(object, assay, call) # before `[[`, which would report errors as its own
  main <- object[[assay]]
  cells <- assay_cells(main, object)
  embeddings <- lapply(set_names(SeuratObject::Reductions(object)), function(name) {
    embedding <- SeuratObject::Embeddings(object, name)
    embedding[intersect(cells, rownames(embedding)), , drop = FALSE]
  })
  list(
    blocks = need_layer(main, layer, raw = raw, call = call), genes = rownames(main),
    cells = object[[]][cells, , drop = FALSE], embeddings = embeddings, object = object
  )
}

# An assay of a SingleCellExperiment, with default gene and cell names if it has none.
need_assay <- function(object, layer, call = rlang::caller_env()) {
  present <- SummarizedExperiment::assayNames(object)
  if (is.null(present) || !any(nzchar(present))) {
    said <- sprintf("The assays of the object have no names; no assay is called \"%s\".", layer)
    abort_scduet(said, sprintf("Name the one with raw counts, e.g. `assayNames(object)[1] <- \"%s\"`.", layer), "no_counts", call)
  }
  if (!layer %in% present) {
    have <- paste0("It has ", some(present, 12), "; name one with `layer`.")
    abort_scduet(sprintf("The object has no assay \"%s\" with raw counts.", layer), have, "no_counts", call)
  }
  counts <- SummarizedExperiment::assay(object, layer)
  dimnames(counts) <- list(names_or(rownames(object), nrow(object), "gene"), names_or(colnames(object), ncol(object), "cell"))
  counts
}

# Add embeddings to the AnnData. A partial embedding (Seurat 5) is an error if requested by name, and dropped otherwise.
put_embeddings <- function(adata, parts, wanted, verbose = TRUE, call = rlang::caller_env()) {
  sizes <- vapply(parts$embeddings, nrow, 0L)
  partial <- names(sizes)[sizes < nrow(parts$cells)]
  refused <- intersect(partial, wanted)
  if (length(refused)) {
    said <- sprintf("The reduction \"%s\" covers %d of %d cells.", refused[1], sizes[[refused[1]]], nrow(parts$cells))
    remedy <- sprintf("Keep only these cells: `subset(obj, cells = Cells(obj[[\"%s\"]]))`.", refused[1])
    abort_scduet(said, remedy, "reduction", call)
  }
  if (length(partial) && is.null(wanted)) {
    inform_scduet(sprintf("Dropped because they do not cover all cells: reductions %s.", some(partial, 9)), verbose)
  }
  for (name in setdiff(names(sizes), partial)) {
    ask("put", adata = adata, place = "obsm", key = embedding_name(name), value = send_dense(unname(parts$embeddings[[name]])))
  }
}

# An AnnData with the counts of `genes` and metadata `columns`; genes may have other names in the object.
anndata_of <- function(parts, genes = parts$genes, columns = character(), called = genes) {
  blocks <- lapply(parts$blocks, function(block) {
    block <- block[intersect(genes, rownames(block)), , drop = FALSE]
    rownames(block) <- called[match(rownames(block), genes)]
    block
  })
  new_anndata(blocks, called, parts$cells[, columns, drop = FALSE], empty_frame(called))
}

# An AnnData with the genes and metadata columns that a model needs, as far as the object has them.
anndata_for <- function(parts, model, columns = character(), call = rlang::caller_env()) {
  needed <- setdiff(model$columns, model$labels)
  for (column in needed) check_column(parts$cells, column, "model", call = call)
  own <- spelled_as(model$genes, parts$genes)
  here <- own %in% parts$genes
  if (!any(here)) {
    abort_scduet("The object has none of the model's genes.", paste0("Genes of the model: ", some(model$genes), "."), "features", call)
  }
  columns <- unique(c(intersect(model$columns, names(parts$cells)), columns))
  adata <- anndata_of(parts, own[here], columns, model$genes[here])
  assays <- as.character(intersect(model$assays, assays_of(parts$object))) # the engine says what it cannot do without
  put_inputs(adata, lapply(set_names(assays), function(name) assay_matrix(parts$object, name)), model$genes[here])
  adata
}

# The assay that a model in the object was trained on, where none is named.
trained_assay <- function(object, model, assay = NULL) {
  if (!is.null(assay) || !inherits(object, "Seurat")) {
    return(assay)
  }
  same <- Filter(function(kept) identical(kept$sha256, model$sha256), models_of(object))
  found <- if (length(same)) SeuratObject::DefaultAssay(methods::slot(object, "reductions")[[names(same)[1]]])
  if (isTRUE(found %in% assay_names(object))) found
}

# What was trained, into the object: the embedding with its loadings and model, and the predictions of a classifier,
# or the clusters of a model that learns them.
# cells: those that were looked at, which in Seurat 5 may be a part of all.
put_trained <- function(object, trained, name, assay, key = NULL, cells = colnames(object), labels = NULL) {
  object <- known_object(object)
  if (inherits(object, "Seurat")) {
    known <- put_predictions(with_known_assays(object), trained, cells, labels)
    known[[name]] <- trained_reduction(trained, cells, name, assay, key)
    return(with_own_assays(known, object))
  }
  object <- put_predictions(object, trained, cells, labels)
  embedding <- named_embedding(trained, cells, name)
  if (is.null(colnames(object))) rownames(embedding) <- NULL
  SingleCellExperiment::reducedDim(object, name) <- embedding
  kept <- S4Vectors::metadata(object)
  kept$scduet[[name]] <- trained$model
  methods::slot(object, "metadata") <- kept
  object
}

trained_reduction <- function(trained, cells, name, assay, key = NULL) {
  misc <- list(scduet = trained$model)
  loadings <- trained$loadings
  key <- if (is.null(key)) key_of(name) else key
  if (is.null(loadings)) {
    return(make_reduction(trained$embedding, cells, name, assay, key, misc))
  }
  colnames(loadings) <- paste0(key, seq_len(ncol(loadings)))
  make_reduction(trained$embedding, cells, name, assay, key, misc, loadings = loadings)
}

# With dimnames, and loadings in the attribute used by scater's runPCA().
named_embedding <- function(trained, cells, name) {
  names <- paste0(key_of(name), seq_len(ncol(trained$embedding)))
  embedding <- trained$embedding
  dimnames(embedding) <- list(cells, names)
  if (!is.null(trained$loadings)) attr(embedding, "rotation") <- `colnames<-`(trained$loadings, names)
  embedding
}

put_predictions <- function(object, trained, cells, labels) {
  if (is.null(trained$predicted)) {
    return(object)
  }
  if (!is.null(trained$model$clusters)) {
    return(put_column(object, trained$model$clusters, trained$predicted$predicted, cells))
  }
  name <- paste0("predicted.", trained$model$labels)
  object <- put_column(object, name, as_values_of(trained$predicted$predicted, labels), cells)
  put_column(object, paste0(name, ".score"), trained$predicted$score, cells)
}

# Convert level names to the type of the user's column (numeric or logical).
as_values_of <- function(text, column) {
  if (is.factor(column) || !(is.numeric(column) || is.logical(column))) {
    return(text)
  }
  values <- suppressWarnings(methods::as(text, if (is.logical(column)) "logical" else "numeric"))
  if (anyNA(values[!is.na(text)])) { # e.g. "unknown"
    return(text)
  }
  storage.mode(values) <- typeof(column)
  values
}

# Convert values to the engine's level names: 1, 1L and 1.0 are "1".
as_level <- function(x) {
  text <- if (is.logical(x)) ifelse(x, "True", "False") else as.character(x)
  if (is.numeric(x)) text <- format(x, scientific = FALSE, trim = TRUE, digits = 15, drop0trailing = TRUE)
  replace(text, is.na(x), NA_character_)
}

# Names of the model's genes in the object: Seurat replaces "_" and "|" by "-".
spelled_as <- function(genes, known) ifelse(genes %in% known, genes, gsub("[_|]", "-", genes))

put_column <- function(object, name, value, cells = colnames(object)) {
  object <- known_object(object)
  if (inherits(object, "Seurat")) {
    object[[name]] <- rlang::set_names(value, cells)
  } else {
    SummarizedExperiment::colData(object)[[name]] <- value
  }
  object
}
