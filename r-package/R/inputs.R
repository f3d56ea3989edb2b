# Sends additional inputs of a model to the engine: assays, alternative experiments, matrices and files.

# The inputs of a short form such as RunTotalVI(): `inputs`, and those that have an argument of their own. `...` are its
# other arguments. needed: inputs without which the model cannot be trained, unless `start` says where they are, with the
# arguments for them.
own_inputs <- function(object, ..., inputs, own, needed, start = NULL, call = rlang::caller_env()) {
  others <- list(...)
  check_option_names(others[names(others) %in% names(INPUT_ARGUMENTS)], call)
  own <- Filter(Negate(is.null), own)
  twice <- intersect(names(own), names(inputs))
  if (length(twice)) {
    abort_scduet(sprintf("The input \"%s\" is given twice.", twice[1]), "Leave it out of `inputs`.", "argument", call)
  }
  inputs <- c(own, as.list(inputs))
  missing <- needed[!names(needed) %in% names(inputs)]
  if (length(missing) && is.null(start)) {
    meant <- nearest(missing[[1]], names(others))
    hint <- if (length(meant)) {
      sprintf("`%s` looks like a misspelling of it.", meant)
    } else if (length(assays_of(object))) {
      paste0("The object has the assays ", some(assays_of(object), 12), ".")
    }
    abort_scduet(sprintf("`%s` is missing.", missing[[1]]), hint, "inputs", call)
  }
  inputs
}

# The inputs as matrices or paths, checked before Python is started. An assay's name stays with its matrix, and a column
# of the metadata is checked with the others. start: a model whose inputs are taken where none are given.
check_inputs <- function(inputs, object, start = NULL, call = rlang::caller_env()) {
  inputs <- as.list(if (length(inputs)) inputs else start$assays)
  if (length(inputs) && (is.null(names(inputs)) || any(names(inputs) == ""))) {
    abort_scduet("`inputs` must be named.", "For example, `inputs = c(protein = \"ADT\")`.", "inputs", call)
  }
  columns <- names(inputs) %in% names(COLUMN_INPUTS)
  c(lapply(inputs[!columns], check_input, object = object, call = call), inputs[columns])
}

check_input <- function(value, object, call) {
  if (length(dim(value)) == 2 || is_table_file(value)) {
    return(value)
  }
  check_text(value, "inputs", call = call)
  if (!value %in% assays_of(object)) {
    have <- if (length(assays_of(object))) paste0("It has ", some(assays_of(object), 12), ".") else "Pass a matrix."
    abort_scduet(sprintf("The object has no assay \"%s\".", value), have, "inputs", call)
  }
  structure(list(matrix = assay_matrix(object, value, call), name = value), class = "scduet_assay")
}

is_table_file <- function(x) is.character(x) && length(x) == 1 && grepl("\\.(gmt|csv|tsv)(\\.gz)?$", x)

assays_of <- function(object) {
  if (inherits(object, "Seurat")) {
    return(assay_names(object))
  }
  if (methods::is(object, "SingleCellExperiment")) SingleCellExperiment::altExpNames(object) else character()
}

# Counts of an assay, or its data if it has no counts, as blocks of features x cells.
assay_matrix <- function(object, name, call = rlang::caller_env()) {
  if (inherits(object, "Seurat")) {
    assay <- with_known_assays(object)[[name]]
    return(need_layer(assay, if (length(layers_named(assay, "counts"))) "counts" else "data", call = call))
  }
  part <- SingleCellExperiment::altExp(object, name)
  present <- SummarizedExperiment::assayNames(part)
  counts <- SummarizedExperiment::assay(part, if ("counts" %in% present) "counts" else present[1])
  colnames(counts) <- colnames(object)
  list(counts)
}

# Add inputs to the AnnData; returns the place of each for the engine.
put_inputs <- function(adata, inputs, genes) {
  if (!length(inputs)) {
    return(list())
  }
  cells <- receive_text(ask("names", adata = adata, axis = "obs"))
  Map(function(value, name) put_input(adata, value, name, genes, cells), inputs, names(inputs))
}

put_input <- function(adata, value, name, genes, cells) {
  if (name %in% names(COLUMN_INPUTS)) {
    return(value)
  }
  if (is_table_file(value)) {
    return(path.expand(value))
  }
  assay <- if (inherits(value, "scduet_assay")) value$name else name
  blocks <- if (inherits(value, "scduet_assay")) value$matrix else if (is.list(value) && !is.data.frame(value)) value else list(as_matrix(value))
  first <- blocks[[1]]
  if (length(blocks) == 1 && !is.null(rownames(first)) && all(rownames(first) %in% genes) && !identical(colnames(first), cells)) {
    x <- as.matrix(first)
    ask("put", adata = adata, place = "varm", key = assay, value = send_dense(unname(x)), rows = as.list(rownames(x)), names = as.list(colnames(x)))
    return(paste0("varm/", assay))
  }
  features <- names_or(rownames(first), nrow(first), "feature")
  part <- new_anndata(blocks, features, empty_frame(cells), empty_frame(features))
  ask("put", adata = adata, place = "obsm", key = assay, value = part$X, names = as.list(features))
  paste0("obsm/", assay)
}

as_matrix <- function(x) if (is.data.frame(x)) as.matrix(x) else x
