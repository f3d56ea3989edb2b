# Classed errors, warnings and messages, and argument checks that run before Python starts.

abort_scduet <- function(message, hint = NULL, class, call = rlang::caller_env(), ...) {
  rlang::abort(
    c(message, if (length(hint)) rlang::set_names(hint, rep("i", length(hint)))),
    class = c(paste0("scduet_error_", class), "scduet_error"), call = what_was_called(call), use_cli_format = TRUE, ...
  )
}

# The exported function that the user called, so that errors report it rather than a helper.
what_was_called <- function(call) {
  for (place in seq_len(sys.nframe())) {
    if (identical(environment(sys.function(place)), topenv())) {
      return(sys.frame(place))
    }
  }
  call
}

warn_scduet <- function(message, class = NULL) {
  rlang::warn(message, class = c(if (!is.null(class)) paste0("scduet_warning_", class), "scduet_warning"),
    call = NULL, use_cli_format = TRUE)
}

inform_scduet <- function(message, verbose = TRUE) {
  if (verbose) rlang::inform(c(i = message), class = "scduet_message", use_cli_format = TRUE)
}

check_installed <- function(package, what, call = rlang::caller_env()) {
  if (!requireNamespace(package, quietly = TRUE)) {
    abort_scduet(
      sprintf("%s needs the package %s.", what, package),
      sprintf("Install it, e.g. `install.packages(\"%s\")`.", package), "missing_package", call
    )
  }
}

check_flag <- function(x, name, call = rlang::caller_env()) {
  if (!is.logical(x) || length(x) != 1 || is.na(x)) {
    abort_scduet(sprintf("`%s` must be TRUE or FALSE.", name), class = "argument", call = call)
  }
}

check_text <- function(x, name, optional = FALSE, call = rlang::caller_env()) {
  if (optional && is.null(x)) {
    return(invisible())
  }
  if (!is.character(x) || length(x) != 1 || is.na(x) || !nzchar(x)) {
    abort_scduet(sprintf("`%s` must be a single string.", name), class = "argument", call = call)
  }
}

check_whole <- function(x, name, call = rlang::caller_env()) {
  if (!is.numeric(x) || length(x) != 1 || is.na(x) || x != round(x)) {
    abort_scduet(sprintf("`%s` must be a single whole number.", name), class = "argument", call = call)
  }
  as.integer(x)
}

# Check that a metadata column exists and, unless `may_miss`, has no missing values.
check_column <- function(data, column, argument, may_miss = FALSE, call = rlang::caller_env()) {
  if (is.null(column)) {
    return(invisible())
  }
  check_text(column, argument, call = call)
  if (!column %in% names(data)) {
    meant <- nearest(column, names(data))
    abort_scduet(
      sprintf("`%s`: column \"%s\" not found in the metadata.", argument, column),
      c(if (length(meant)) sprintf("Did you mean \"%s\"?", meant), paste0("Available columns: ", some(names(data), 12), ".")),
      "column", call
    )
  }
  missing <- rownames(data)[is.na(data[[column]])]
  if (length(missing) && !may_miss) {
    abort_scduet(
      sprintf("Column \"%2$s\" has missing values in %1$d cells: %3$s.", length(missing), column, some(missing)),
      "Fill in the values, or remove these cells with `subset()`.", "missing_values", call
    )
  }
}

check_names_once <- function(genes, call = rlang::caller_env()) {
  twice <- unique(genes[duplicated(genes)])
  if (length(twice)) {
    said <- sprintf("Duplicated gene names (%d): %s.", length(twice), some(twice))
    abort_scduet(said, "Make them unique: `rownames(object) <- make.unique(rownames(object))`.", "names", call)
  }
}

check_features <- function(features, known, call = rlang::caller_env()) {
  twice <- unique(features[duplicated(features)])
  if (length(twice)) {
    abort_scduet(sprintf("`features` contains duplicates: %s.", some(twice)), "List each feature once.", "features", call)
  }
  absent <- setdiff(features, known)
  if (length(absent)) {
    abort_scduet(
      sprintf("%d of %d features not found in the object: %s.", length(absent), length(features), some(absent)),
      paste0("Available features: ", some(known), "."), "features", call
    )
  }
}

some <- function(x, most = 3) {
  if (!length(x)) {
    return("none")
  }
  shown <- paste0("\"", x[seq_len(min(most, length(x)))], "\"", collapse = ", ")
  if (length(x) > most) sprintf("%s and %d more", shown, length(x) - most) else shown
}

# Names each element by itself; rlang's function of this name refuses NULL, as an object without reductions gives it.
set_names <- function(x) {
  names(x) <- x
  x
}
