# What the engine says, in R's words; and the names of arguments: those of the engine, and what users may have meant.

# Words of the engine for what R calls otherwise.
R_WORDS <- c(
  batch_key = "batch", labels_key = "labels", True = "TRUE", False = "FALSE", None = "NULL", adata.obs = "the metadata",
  map_query = "MapToReference()"
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

# The remedy, or NULL: R's own where it has a better one than the engine's in other words.
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

# `subset(obj, nCount_RNA > 0)` would not do: these cells are empty in the features used.
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

# Names of the engine's options -> the arguments of R's functions that stand for them.
R_ARGUMENTS <- c(
  batch_key = "batch", labels_key = "labels", seed = "seed.use", genes = "features", callback = "verbose",
  groupby = "group.by", group1 = "ident.1", group2 = "ident.2", fdr_target = "fdr.target", transform_batch = "batch",
  gene_list = "features", library_size = "library.size", n_samples = "n.samples", n_neighbors = "n.neighbors",
  n_folds = "n.folds", n_random = "n.random", max_cells = "max.cells", gene_column = "gene.names",
  INPUT_ARGUMENTS
)

# What other packages call the arguments of this one, without dots and in small letters.
ELSEWHERE <- c(
  groupbyvars = "batch", groupby = "batch", splitby = "batch", batches = "batch", varstoregress = "batch",
  celltype = "labels", label = "labels", slot = "layer", seed = "seed.use", dims = "n_latent", ndims = "n_latent",
  epochs = "max_epochs", minpct = "min.pct", logfcthreshold = "logfc.threshold"
)

check_option_names <- function(options, call) {
  names <- names(options)
  if (length(options) && (is.null(names) || any(names == ""))) {
    abort_scduet("Options of the engine need names.", "Write e.g. `n_latent = 20`.", "argument", call)
  }
  ours <- intersect(names, names(R_ARGUMENTS)[R_ARGUMENTS %in% arguments_of(call)])
  for (name in ours) {
    abort_scduet(sprintf("`%s` is called `%s` in R.", name, R_ARGUMENTS[[name]]), class = "argument", call = call)
  }
}

# For a function whose `...` is there for other methods alone.
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

# The one of `known` that is most like `name`, if one is.
nearest <- function(name, known) {
  distance <- drop(utils::adist(plain_name(name), plain_name(known)))
  if (length(known) && min(distance) <= ceiling(nchar(name) / 3)) known[which.min(distance)]
}

plain_name <- function(x) gsub("[._-]", "", tolower(x))

# Names of the arguments of the function whose frame this is.
arguments_of <- function(call) {
  frames <- seq_len(sys.nframe())
  here <- Filter(function(place) identical(sys.frame(place), call), frames)
  if (length(here)) setdiff(names(formals(sys.function(here[1]))), "...")
}
