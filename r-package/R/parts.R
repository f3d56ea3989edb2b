# A Seurat object or SingleCellExperiment taken apart, and results put back: what the tasks need, alike for both.

# Counts, metadata and embeddings of an object, as plain R.
parts_of <- function(object, assay, layer, call = rlang::caller_env()) {
  if (methods::is(object, "SingleCellExperiment")) {
    names <- SingleCellExperiment::reducedDimNames(object)
    embeddings <- lapply(self_named(names), function(name) as.matrix(SingleCellExperiment::reducedDim(object, name)))
    cells <- plain_frame(SummarizedExperiment::colData(object), names_or(colnames(object), ncol(object), "cell"))
    names(embeddings) <- sce_reduction(names(embeddings))
    counts <- need_assay(object, layer, call)
    return(list(blocks = list(counts), genes = rownames(object), cells = cells, embeddings = embeddings, object = object))
  }
  if (!inherits(object, "Seurat")) {
    abort_scduet("This needs a Seurat object or a SingleCellExperiment.", class = "class", call = call)
  }
  main <- object[[default_assay(object, assay, call)]]
  names <- SeuratObject::Reductions(object)
  list(
    blocks = need_layer(main, layer, call = call), genes = rownames(main), cells = object[[]],
    embeddings = lapply(self_named(names), function(name) SeuratObject::Embeddings(object, name)), object = object
  )
}

need_assay <- function(object, layer, call = rlang::caller_env()) {
  present <- SummarizedExperiment::assayNames(object)
  if (!layer %in% present) {
    have <- paste0("It has ", some(present, 12), "; name one with `layer`.")
    abort_scduet(sprintf("The object has no assay \"%s\" with raw counts.", layer), have, "no_counts", call)
  }
  SummarizedExperiment::assay(object, layer)
}

# Embeddings of the object into the AnnData. One of a part of the cells, which Seurat 5 has, is refused if it was asked
# for by name, else left out.
put_embeddings <- function(adata, parts, wanted, verbose = TRUE, call = rlang::caller_env()) {
  sizes <- vapply(parts$embeddings, nrow, 0L)
  partial <- names(sizes)[sizes < nrow(parts$cells)]
  refused <- intersect(partial, wanted)
  if (length(refused)) {
    said <- sprintf("The reduction \"%s\" covers %d of %d cells.", refused[1], sizes[[refused[1]]], nrow(parts$cells))
    remedy <- sprintf("Keep these cells alone: `subset(obj, cells = Cells(obj[[\"%s\"]]))`.", refused[1])
    abort_scduet(said, remedy, "reduction", call)
  }
  if (length(partial) && is.null(wanted)) {
    inform_scduet(sprintf("Left out, as they do not cover all cells: reductions %s.", some(partial, 9)), verbose)
  }
  for (name in setdiff(names(sizes), partial)) {
    ask("put", adata = adata, place = "obsm", key = embedding_name(name), value = send_dense(unname(parts$embeddings[[name]])))
  }
}

# Counts of `genes` and `columns` of the metadata as an AnnData; the genes may be named otherwise in the object.
anndata_of <- function(parts, genes = parts$genes, columns = character(), called = genes) {
  blocks <- lapply(parts$blocks, function(block) {
    block <- block[intersect(genes, rownames(block)), , drop = FALSE]
    rownames(block) <- called[match(rownames(block), genes)]
    block
  })
  new_anndata(blocks, called, parts$cells[, columns, drop = FALSE], empty_frame(called))
}

# Counts that a model was trained to see: its genes as far as the object has them, its columns of the metadata.
anndata_for <- function(parts, model, columns = character(), call = rlang::caller_env()) {
  needed <- setdiff(model$columns, model$labels)
  for (column in needed) check_column(parts$cells, column, "model", call = call)
  own <- ifelse(model$genes %in% parts$genes, model$genes, gsub("[_|]", "-", model$genes)) # as Seurat spells them
  here <- own %in% parts$genes
  if (!any(here)) {
    abort_scduet("The object has none of the model's genes.", paste0("The model knows ", some(model$genes), "."), "features", call)
  }
  columns <- unique(c(intersect(model$columns, names(parts$cells)), columns))
  adata <- anndata_of(parts, own[here], columns, model$genes[here])
  assays <- intersect(model$assays, assays_of(parts$object)) # the engine says what it cannot do without
  put_inputs(adata, lapply(self_named(assays), function(name) assay_matrix(parts$object, name)), model$genes[here])
  adata
}

put_embedding <- function(object, embedding, name, assay, model, key = NULL) {
  cells <- colnames(object)
  if (inherits(object, "Seurat")) {
    object[[name]] <- make_reduction(embedding, cells, name, assay, key, list(scduet = model))
    return(object)
  }
  dimnames(embedding) <- list(cells, paste0(key_of(name), seq_len(ncol(embedding))))
  SingleCellExperiment::reducedDim(object, name) <- embedding
  kept <- S4Vectors::metadata(object)
  kept$scduet[[name]] <- model
  methods::slot(object, "metadata") <- kept
  object
}

put_column <- function(object, name, value) {
  if (inherits(object, "Seurat")) {
    object[[name]] <- value
  } else {
    SummarizedExperiment::colData(object)[[name]] <- value
  }
  object
}
