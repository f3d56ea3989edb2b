library(testthat)
library(scduet)

test_check("scduet")
