#' @keywords internal
"_PACKAGE"

# The data pronoun in `ggplot2::aes()`, defined here for R CMD check. Importing it from rlang would slow down
# `library(scduet)`: cli, rlang and reticulate (with Matrix, which takes a second) are loaded when first used.
.data <- NULL
