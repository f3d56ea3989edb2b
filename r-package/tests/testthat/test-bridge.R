frame_of_every_type <- function() {
  data <- data.frame(
    factor = factor(c("u", NA, "v"), levels = c("v", "u", "w")),
    ordered = factor(c("a", "b", NA), levels = c("b", "a"), ordered = TRUE),
    integer = c(1L, NA, -3L), whole = 1:3,
    logical = c(TRUE, NA, FALSE), flag = c(TRUE, FALSE, TRUE),
    double = c(1.5, NA, 1e300), exact = c(0.1, 1 / 3, pi),
    text = c("\u00e9t\u00e9", NA, ""), plain = c("a", "NA", "c"),
    date = as.Date(c("2020-02-29", NA, "1960-05-05")),
    time = as.POSIXct(c(1e9 + 0.5, NA, 0), origin = "1970-01-01", tz = "UTC"),
    row.names = c("cell_1", "cell-2", "z\u00fc")
  )
  data
}

round_trip <- function(data) {
  adata <- ask("new", x = NULL, obs = send_frame(data), var = send_frame(data))
  receive_frame(ask("table", adata = adata, place = "obs"), receive_text(ask("names", adata = adata, axis = "obs")))
}

test_that("a data frame keeps every type, its missing values and its names", {
  skip_if_no_engine()
  data <- frame_of_every_type()
  expect_identical(round_trip(data), data)
})

test_that("missing and not-a-number stay what they were", {
  skip_if_no_engine()
  back <- round_trip(data.frame(x = c(NA, NaN, Inf), row.names = c("a", "b", "c")))
  expect_identical(is.nan(back$x), c(FALSE, TRUE, FALSE))
})

test_that("a data frame passes in chunks of a few bytes too", {
  skip_if_no_engine()
  data <- frame_of_every_type()
  old <- options(scduet.chunk_bytes = 16, scduet.direct = FALSE)
  on.exit(options(old))
  expect_identical(round_trip(data), data)
})

test_that("a data frame without columns or rows passes", {
  skip_if_no_engine()
  expect_identical(dim(round_trip(data.frame(row.names = c("a", "b")))), c(2L, 0L))
  expect_identical(dim(round_trip(frame_of_every_type()[0, ])), c(0L, 12L))
})

test_that("columns that are no vectors are left out and named", {
  skip_if_no_engine()
  data <- data.frame(a = 1:2)
  data$things <- list(1, "b")
  expect_message(back <- round_trip(data), "things", class = "scduet_message")
  expect_named(back, "a")
})

back_and_forth <- function(x) receive_matrix(ask("part", adata = as_anndata(x), place = "X"))

test_that("a dgCMatrix comes back with the same arrays, whatever the size of the chunks", {
  skip_if_no_engine()
  x <- counts_of_two_batches()
  for (bytes in c(8, 1000, 2^24, NA)) { # NA: not as bytes, but straight from memory to memory
    old <- options(scduet.chunk_bytes = bytes, scduet.direct = is.na(bytes))
    back <- back_and_forth(x)
    options(old)
    expect_identical(back@x, x@x)
    expect_identical(back@i, x@i)
    expect_identical(back@p, x@p)
  }
})

test_that("on Linux Python sees the vectors of R, and a vector that it fills is a new one", {
  skip_if_no_engine()
  skip_if_not(Sys.info()[["sysname"]] == "Linux")
  expect_true(is_direct())
  sent <- c(0.1, NA, NaN, -Inf)
  got <- receive_all(ask("dense", values = send(sent, "float64"), n_rows = 4, n_columns = 1)$ravel(), "float64")
  expect_identical(got, sent)
  expect_identical(is.nan(got), c(FALSE, FALSE, TRUE, FALSE))
  got[1] <- 7
  expect_identical(sent[1], 0.1)
  expect_identical(receive_all(send(1:3, "int32")$array(), "int32"), 1:3)
  expect_identical(receive_all(send(as.raw(1:3), "uint8")$array(), "uint8"), as.raw(1:3))
  expect_identical(receive_all(send(c(TRUE, NA), "int32")$array(), "int32"), c(1L, NA))
})

test_that("counts travel as float32 only while that is exact", {
  skip_if_no_engine()
  kind <- function(x) reticulate::py_to_r(reticulate::py_get_attr(as_anndata(x)$X, "dtype")$name)
  x <- counts_of_two_batches()
  expect_identical(kind(x), "float32")
  x@x[5] <- 2^24 + 1
  expect_identical(kind(x), "float64")
  expect_identical(back_and_forth(x)@x, x@x)
})

test_that("Python may write into what it was sent", {
  skip_if_no_engine()
  adata <- as_anndata(counts_of_two_batches())
  flags <- reticulate::py_get_attr(reticulate::py_get_attr(adata$X, "data"), "flags")
  expect_true(reticulate::py_to_r(reticulate::py_get_attr(flags, "writeable")))
})

test_that("dense and other sparse matrices arrive the same", {
  skip_if_no_engine()
  x <- counts_of_two_batches()
  dense <- as.matrix(x)
  storage.mode(dense) <- "integer"
  kinds <- list(dense, as(x, "TsparseMatrix"), as(x, "RsparseMatrix"))
  for (kind in kinds) expect_identical(as.matrix(back_and_forth(kind)), unname(as.matrix(x)))
})

test_that("a matrix on disk arrives by blocks of cells", {
  skip_if_no_engine()
  skip_if_not_installed("DelayedArray")
  x <- counts_of_two_batches()
  expect_identical(as.matrix(back_and_forth(DelayedArray::DelayedArray(x))), unname(as.matrix(x)))
  expect_length(as_blocks(DelayedArray::DelayedArray(matrix(0, 1, BLOCK_CELLS + 1))), 2)
})

# Stands for BPCells, which is not in the package repositories of the test machines: a class that is no matrix, has `dim`,
# dimnames and `[`, and becomes a dgCMatrix by as(). It notes how many cells are taken at a time.
test_that("a class of on-disk matrices that only knows `[` and as() arrives by blocks of cells", {
  skip_if_no_engine()
  taken <- integer()
  here <- topenv(environment())
  methods::setClass("OnDisk", representation(held = "dgCMatrix"), where = here)
  methods::setMethod("dim", "OnDisk", function(x) dim(x@held), where = here)
  methods::setMethod("dimnames", "OnDisk", function(x) dimnames(x@held), where = here)
  methods::setMethod("[", "OnDisk", function(x, i, j, ..., drop = TRUE) {
    methods::new("OnDisk", held = if (missing(i)) x@held[, j, drop = FALSE] else x@held[i, j, drop = FALSE])
  }, where = here)
  methods::setAs("OnDisk", "dgCMatrix", function(from) {
    taken <<- c(taken, ncol(from))
    from@held
  }, where = here)
  on.exit(methods::removeClass("OnDisk", where = here))
  x <- counts_of_two_batches()
  adata <- with_mocked("BLOCK_CELLS", 50L, as_anndata(methods::new("OnDisk", held = x)))
  expect_identical(taken, c(50L, 50L, 20L))
  expect_identical(receive_matrix(ask("part", adata = adata, place = "X"))@x, x@x)
  expect_identical(receive_text(ask("names", adata = adata, axis = "var")), rownames(x))
})

test_that("layers with different genes meet over all of them, with zeros", {
  skip_if_no_engine()
  x <- as.matrix(counts_of_two_batches())
  blocks <- list(x[5:1, 1:10], x[4:8, 11:20])
  sent <- send_counts(lapply(blocks, function(b) as(b, "CsparseMatrix")), rownames(x)[1:8])
  truth <- x[1:8, 1:20]
  truth[6:8, 1:10] <- 0
  truth[1:3, 11:20] <- 0
  adata <- ask("new", x = sent, obs = send_frame(empty_frame(colnames(truth))), var = send_frame(empty_frame(rownames(truth))))
  expect_identical(as.matrix(receive_matrix(ask("part", adata = adata, place = "X"))), unname(truth))
})

test_that("unknown functions and broken arguments are R errors with Python's traceback", {
  skip_if_no_engine()
  error <- expect_error(ask("column", kind = "integer"), class = "scduet_error_python")
  expect_identical(error$python_type, "TypeError")
  expect_match(error$traceback, "Traceback")
})
