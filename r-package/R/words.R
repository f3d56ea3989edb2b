# Translates the engine's messages to R, maps the engine's option names to R arguments, and suggests names for typos.

# Words of the engine that differ in R.
R_WORDS <- c(
  batch_key = "batch", labels_key = "labels", True = "TRUE", False = "FALSE", None = "NULL", adata.obs = "the metadata",
  map_query = "MapToReference()", INPUT_ARGUMENTS
)

R_PHRASES <- c(
  "map_query()" = "map_query", "finetune()" = "`FinetuneTransformer()`", "embed_pretrained()" = "`RunPretrained()`"
)

LISTED <- "(?:'[^']*'|[-0-9.]+)(?:, (?:'[^']*'|[-0-9.]+))*" # members of a Python list

in_r_words <- function(text) {
  for (phrase in names(R_PHRASES)) text <- gsub(phrase, R_PHRASES[[phrase]], text, fixed = TRUE)
  for (word in names(R_WORDS)) text <- gsub(paste0("\\b", word, "\\b"), R_WORDS[[word]], text)
  text <- gsub(sprintf("(?<![[:alnum:]_\\]])\\[(%s)\\]", LISTED), "\\1", text, perl = TRUE)
  text <- gsub(sprintf("(?<![[:alnum:]_\\]])\\(('[^']*', %s|'[^']*'),?\\)", LISTED), "\\1", text, perl = TRUE)
  gsub("(?<![[:alnum:]_\\]])\\[\\]", "none", text, perl = TRUE)
}

# The hint, or NULL: R's own if it has a better one, otherwise the engine's translated.
hint_in_r <- function(problem, call) {
  details <- problem$details
  arguments <- arguments_of(call)
  if (!is.null(details$unknown)) {
    return(hint_of_option(details$unknown, unlist(details$known), arguments))
  }
  if (length(details$cells)) {
    return(hint_of_cells(unlist(details$cells), arguments))
  }
  if (nzchar(problem$hint)) in_r_words(problem$hint)
}

# `subset(obj, nCount_RNA > 0)` would not help: these cells are empty only in the features used.
hint_of_cells <- function(cells, arguments) {
  names <- if (length(cells) > 3) {
    "rlang::last_error()$cells"
  } else if (length(cells) > 1) {
    paste0("c(", some(cells), ")")
  } else {
    some(cells)
  }
  c(
    sprintf("Remove them: `obj <- obj[, setdiff(colnames(obj), %s)]`.", names),
    if ("features" %in% arguments) "Or use more genes: `features = rownames(obj)` takes all."
  )
}

# The engine's option names -> the corresponding R arguments.
R_ARGUMENTS <- c(
  batch_key = "batch", labels_key = "labels", seed = "seed.use", genes = "features", callback = "verbose",
  groupby = "group.by", group1 = "ident.1", group2 = "ident.2", fdr_target = "fdr.target", transform_batch = "batch",
  gene_list = "features", library_size = "library.size", n_samples = "n.samples", n_neighbors = "n.neighbors",
  n_folds = "n.folds", n_random = "n.random", max_cells = "max.cells", gene_column = "gene.names",
  INPUT_ARGUMENTS
)

# Names that other packages use for arguments of this one, lowercase and without dots.
ELSEWHERE <- c(
  groupbyvars = "batch", groupby = "batch", splitby = "batch", batches = "batch", varstoregress = "batch",
  celltype = "labels", label = "labels", slot = "layer", seed = "seed.use", dims = "n_latent", ndims = "n_latent",
  epochs = "max_epochs", minpct = "min.pct", logfcthreshold = "logfc.threshold"
)

check_option_names <- function(options, call) {
  names <- names(options)
  if (length(options) && (is.null(names) || any(names == ""))) {
    abort_scduet("Options in `...` must be named.", "For example, `n_latent = 20`.", "argument", call)
  }
  ours <- intersect(names, names(R_ARGUMENTS)[R_ARGUMENTS %in% arguments_of(call)])
  for (name in ours) {
    abort_scduet(sprintf("`%s` is called `%s` in R.", name, R_ARGUMENTS[[name]]), class = "argument", call = call)
  }
}

# For a function whose `...` only exists for other methods.
check_no_options <- function(..., call = rlang::caller_env()) {
  options <- list(...)
  if (length(options)) {
    names <- names(options)
    hint <- if (!is.null(names) && nzchar(names[1])) hint_of_option(names[1], NULL, arguments_of(call))
    what <- if (is.null(names) || !nzchar(names[1])) "One argument is too many" else sprintf("There is no argument `%s`", names[1])
    abort_scduet(paste0(what, "."), hint, "argument", call)
  }
}

# known: options of the engine; arguments: those of the R function.
hint_of_option <- function(name, known, arguments) {
  renamed <- known %in% names(R_ARGUMENTS) & R_ARGUMENTS[known] %in% arguments
  known <- unique(c(arguments, ifelse(renamed, R_ARGUMENTS[known], known)))
  meant <- ELSEWHERE[plain_name(name)]
  meant <- if (meant %in% known) meant else nearest(name, known)
  if (length(meant)) {
    return(sprintf("Did you mean `%s`?", meant))
  }
  paste0("The arguments are ", paste0("`", known, "`", collapse = ", "), ".")
}

# The most similar name in `known`, or NULL if none is similar.
nearest <- function(name, known) {
  distance <- drop(utils::adist(plain_name(name), plain_name(known)))
  if (length(known) && min(distance) <= ceiling(nchar(name) / 3)) known[which.min(distance)]
}

plain_name <- function(x) gsub("[._-]", "", tolower(x))

# Argument names of the function whose frame `call` is.
arguments_of <- function(call) {
  frames <- seq_len(sys.nframe())
  here <- Filter(function(place) identical(sys.frame(place), call), frames)
  if (length(here)) setdiff(names(formals(sys.function(here[1]))), "...")
}
