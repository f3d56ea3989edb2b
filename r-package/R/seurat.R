# Differences between Seurat versions 3, 4 and 5: layers, names of cells and genes, reductions.

is_v5 <- function() package_version(getNamespaceVersion("SeuratObject")) >= "5.0.0"

# Functions that exist only in SeuratObject 5 and later.
v5 <- function(name) getExportedValue("SeuratObject", name)

is_layered <- function(assay) inherits(assay, "StdAssay")

# Assays of a class that no installed package defines, e.g. ChromatinAssay without Signac, as plain assays of their slots.
# Without this, Seurat does not count them among the assays.
with_known_assays <- function(object) {
  assays <- methods::slot(object, "assays")
  unknown <- Filter(function(name) !is_defined(class(assays[[name]])), names(assays))
  for (name in unknown) assays[[name]] <- plain_assay(assays[[name]], name)
  if (length(unknown)) methods::slot(object, "assays", check = FALSE) <- assays
  object
}

# The object with those assays as they are in `original`.
with_own_assays <- function(object, original) {
  assays <- methods::slot(original, "assays")
  for (name in names(assays)) {
    if (!is_defined(class(assays[[name]]))) object@assays[[name]] <- assays[[name]]
  }
  object
}

# Also of those whose class is not known, which Assays() leaves out.
assay_names <- function(object) names(methods::slot(object, "assays"))

is_defined <- function(class) {
  package <- attr(class, "package")
  if (is.null(package) || package == ".GlobalEnv") {
    return(methods::isClass(class))
  }
  requireNamespace(package, quietly = TRUE) && methods::isClass(class, where = asNamespace(package))
}

plain_assay <- function(assay, name) {
  found <- attributes(assay)
  parent <- if ("layers" %in% names(found)) "Assay5" else "Assay"
  if (!any(c("layers", "counts") %in% names(found)) || (parent == "Assay5" && !is_v5())) {
    said <- sprintf("The assay \"%s\" is of the class %s, which no installed package defines.", name, class(assay)[1])
    abort_scduet(said, sprintf("Install %s.", paste(c(attr(class(assay), "package"), "its package")[1])), "class")
  }
  rlang::inform(
    c(i = sprintf("The class %s of the assay \"%s\" is not installed; its counts and data are read from its slots.", class(assay)[1], name)),
    class = "scduet_message", .frequency = "once", .frequency_id = paste0("scduet_class_", class(assay)[1])
  )
  definition <- methods::getClass(parent, where = asNamespace("SeuratObject"))
  slots <- Filter(Negate(is.symbol), found[intersect(methods::slotNames(definition), names(found))]) # a symbol: NULL
  do.call(methods::new, c(list(definition), slots))
}

# Names of the layers that make up `layer`: "counts", or "counts.a" and "counts.b" if it is split.
layers_named <- function(assay, layer) {
  if (is_layered(assay)) {
    present <- v5("Layers")(assay)
    return(present[present == layer | startsWith(present, paste0(layer, "."))])
  }
  if (length(slot_of(assay, layer))) layer else character()
}

# The matrices (genes x cells) of `layer`, one per part, restricted to `features` if given.
layer_blocks <- function(assay, layer, features = NULL) {
  parts <- layers_named(assay, layer)
  lapply(set_names(parts), function(part) {
    pick(if (is_layered(assay)) v5("LayerData")(assay, layer = part) else slot_of(assay, part), features)
  })
}

pick <- function(block, features) {
  if (is.null(features)) block else block[intersect(features, rownames(block)), , drop = FALSE]
}

# A slot of a version 3 or 4 Assay. Before NormalizeData(), `data` is a copy of the counts, which does not count as a
# layer.
slot_of <- function(assay, layer) {
  if (!layer %in% c("counts", "data", "scale.data")) {
    return(NULL)
  }
  value <- methods::slot(assay, layer)
  if (layer == "data" && identical(value, methods::slot(assay, "counts"))) NULL else value
}

# Seurat 5 warns about every assay without counts.
quiet_layers <- function(code) {
  withCallingHandlers(code, warning = function(w) if (grepl("layer", conditionMessage(w))) invokeRestart("muffleWarning"))
}

default_assay <- function(object, assay, call = rlang::caller_env()) {
  if (is.null(assay)) {
    return(SeuratObject::DefaultAssay(object))
  }
  if (!assay %in% assay_names(object)) {
    known <- paste0("It has ", some(assay_names(object), 12), ".")
    abort_scduet(sprintf("Assay \"%s\" not found in the object.", assay), known, "assay", call)
  }
  assay
}

# Blocks of counts to train on, or an error that suggests where to find them. raw: whether raw counts are required.
need_layer <- function(assay, layer, features = NULL, raw = TRUE, call = rlang::caller_env()) {
  blocks <- layer_blocks(assay, layer, features)
  if (!length(blocks) || sum(vapply(blocks, ncol, 0L)) == 0) {
    abort_scduet(
      sprintf("The assay has no layer \"%s\".", layer),
      "This model needs raw counts: add them, or set `layer` to the layer that contains them.", "no_counts", call
    )
  }
  if (raw && layer == "counts" && inherits(assay, "SCTAssay")) {
    warn_scduet(
      "The counts of this assay were corrected by SCTransform(), but the model needs raw counts. Pass the assay that contains them, e.g. `assay = \"RNA\"`.",
      "corrected_counts"
    )
  }
  blocks
}

# Genes to use, in the object's order: `features`, else the variable features, else all, as in Python. With `start`, the
# genes of that model, as named in the object.
choose_features <- function(features, variable, known, verbose, start = NULL, call = rlang::caller_env()) {
  if (!is.null(start)) {
    if (!is.null(features)) abort_scduet("`features` cannot be combined with `start`.", "The genes of the model to start from are used.", "argument", call)
    features <- spelled_as(start$genes, known)
  }
  check_names_once(known, call)
  if (!is.null(features)) {
    check_features(features, known, call)
    return(features)
  }
  if (length(variable)) {
    inform_scduet(sprintf("Using %d variable features of %d.", length(variable), length(known)), verbose)
    return(known[known %in% variable])
  }
  inform_scduet(sprintf("Using all %d features. Variable features, from `FindVariableFeatures()` or as `features`, usually give better results.", length(known)), verbose)
  known
}

# "X_scVI" <-> "scvi": names of embeddings in AnnData and of reductions in Seurat, by the table in models.R.
embedding_name <- function(reduction) unname(ifelse(reduction %in% names(EMBEDDINGS), EMBEDDINGS[reduction], paste0("X_", reduction)))

reduction_name <- function(embedding) {
  known <- match(embedding, EMBEDDINGS)
  ifelse(is.na(known), sub("^X_", "", embedding), names(EMBEDDINGS)[known])
}

# Seurat's rule for keys: letters and digits, then "_".
key_of <- function(name) {
  letters_and_digits <- gsub("[^[:alnum:]]", "", name)
  paste0(if (grepl("^[0-9]", letters_and_digits)) "r", letters_and_digits, "_")
}

make_reduction <- function(embedding, cells, name, assay, key = NULL, misc = list(), ...) {
  key <- if (is.null(key)) key_of(name) else key
  dimnames(embedding) <- list(cells, paste0(key, seq_len(ncol(embedding))))
  SeuratObject::CreateDimReducObject(embeddings = embedding, key = key, assay = assay, misc = misc, ...)
}
