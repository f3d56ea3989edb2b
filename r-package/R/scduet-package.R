#' @keywords internal
"_PACKAGE"

#' @importFrom rlang caller_env .data
NULL
