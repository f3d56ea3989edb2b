#' @keywords internal
"_PACKAGE"

# The data of a plot inside `ggplot2::aes()`, where ggplot2 puts it; named here so that R's checks know of it. Importing it
# from rlang would load rlang with this package, and `library(scduet)` is to be quick: cli, rlang and reticulate (with
# Matrix, which takes a second) are loaded when first used.
.data <- NULL
