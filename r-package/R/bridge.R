# Passes vectors, matrices and data frames to and from the engine. Python copies vectors directly from and to R's memory
# if it can (`is_direct()`); otherwise they are passed as chunks of raw bytes, which every version of reticulate
# supports. reticulate's converters for arrays, sparse matrices and data frames are not used: they lose NA, copy several
# times, and break with NumPy 2.

BYTES <- c(float64 = 8L, int32 = 4L, uint8 = 1L)
TYPES <- c(float64 = "double", int32 = "integer", uint8 = "raw") # of R
BLOCK_CELLS <- 10000L # cells of a dense or on-disk matrix turned sparse at a time

# Chunk size in bytes: larger needs memory, smaller needs time. An option so that tests can make it tiny.
chunk_bytes <- function() getOption("scduet.chunk_bytes", 2^24)

new_buffer <- function(kind, size = 0, shrink = FALSE) codec()$Vector(kind, as.double(size), shrink)

fill_buffer <- function(sink, x, kind) {
  if (typeof(x) != TYPES[[kind]]) storage.mode(x) <- TYPES[[kind]]
  if (length(x) && is_direct()) {
    sink$take_from(rlang::obj_address(x), as.double(length(x)))
    return(sink)
  }
  step <- max(1, chunk_bytes() %/% BYTES[[kind]])
  for (from in seq(1, by = step, length.out = ceiling(length(x) / step))) {
    to <- min(from + step - 1, length(x))
    part <- if (from == 1 && to == length(x)) x else x[from:to]
    sink$take(if (is.raw(part)) part else writeBin(part, raw()))
  }
  sink
}

send <- function(x, kind, shrink = FALSE) fill_buffer(new_buffer(kind, length(x), shrink), x, kind)

send_text <- function(x) {
  x <- enc2utf8(as.character(x))
  sizes <- ifelse(is.na(x), -1L, nchar(x, "bytes", allowNA = TRUE, keepNA = FALSE))
  blob <- charToRaw(paste(x[!is.na(x)], collapse = ""))
  ask("text", lengths = send(sizes, "int32"), blob = send(blob, "uint8"))
}

# Combine blocks of genes x cells (of any class) into one CSR of cells x `genes`. A dgCMatrix already holds the arrays
# of the CSR, so nothing is transposed. Values become float32 where that is exact; genes missing from a block are zero.
send_counts <- function(blocks, genes) {
  blocks <- unlist(lapply(unname(blocks), as_blocks), recursive = FALSE)
  known <- sum(vapply(blocks, function(b) if (methods::is(b, "dgCMatrix")) length(b@x) else 0, 0))
  values <- new_buffer("float64", known, shrink = TRUE)
  columns <- new_buffer("int32", known)
  pointers <- lapply(blocks, function(block) {
    block <- as_dgc(block)
    fill_buffer(values, block@x, "float64")
    fill_buffer(columns, place_genes(block, genes), "int32")
    send(block@p, "int32")
  })
  ask("csr", values = values, columns = columns, pointers = pointers, n_columns = length(genes))
}

# Column of each stored value among `genes`.
place_genes <- function(block, genes) {
  if (is.null(rownames(block)) || identical(rownames(block), genes)) {
    return(block@i)
  }
  match(rownames(block), genes)[block@i + 1L] - 1L
}

# Iterate over a matrix in blocks that fit into memory when sparse: returns a function that returns the next block.
as_blocks <- function(x) {
  if (methods::is(x, "sparseMatrix")) {
    return(list(x))
  }
  starts <- seq(1, by = BLOCK_CELLS, length.out = max(1, ceiling(ncol(x) / BLOCK_CELLS)))
  lapply(starts, function(from) structure(list(x = x, from = from), class = "scduet_piece"))
}

as_dgc <- function(x) {
  if (inherits(x, "scduet_piece")) {
    cells <- seq(x$from, length.out = min(BLOCK_CELLS, ncol(x$x) - x$from + 1))
    x <- x$x[, cells, drop = FALSE]
    x <- methods::as(if (is.matrix(x)) x else as_sparse(x), "CsparseMatrix")
  }
  if (methods::is(x, "dgCMatrix")) x else methods::as(methods::as(methods::as(x, "dMatrix"), "generalMatrix"), "CsparseMatrix")
}

# On-disk matrices (DelayedArray, BPCells) provide their own conversion to dgCMatrix.
as_sparse <- function(x) tryCatch(methods::as(x, "dgCMatrix"), error = function(e) as.matrix(x))

send_dense <- function(x) {
  storage.mode(x) <- "double"
  ask("dense", values = send(as.vector(x), "float64"), n_rows = nrow(x), n_columns = ncol(x))
}

# Send a data frame; columns that are not vectors are dropped with a message.
send_frame <- function(data, verbose = TRUE) {
  data[] <- lapply(data, as_vector)
  kinds <- vapply(data, column_kind, "")
  if (anyNA(kinds)) {
    inform_scduet(paste0("Dropped because AnnData cannot store them: columns ", some(names(data)[is.na(kinds)], 9), "."), verbose)
  }
  data <- data[, !is.na(kinds), drop = FALSE]
  columns <- unname(Map(send_column, data, kinds[!is.na(kinds)]))
  ask("frame", names = as.list(names(data)), columns = columns, index = send_text(rownames(data)))
}

# Expand vectors in other representations: run-length encoded, one-dimensional array, time as a list.
as_vector <- function(x) {
  if (methods::is(x, "Rle")) x <- S4Vectors::decode(x)
  if (length(dim(x)) == 1) {
    names(x) <- dimnames(x) <- dim(x) <- NULL
  }
  if (inherits(x, "POSIXlt")) as.POSIXct(x) else x
}

column_kind <- function(x) {
  known <- c("factor", "Date", "POSIXct", "character", "logical", "integer", "numeric")
  if (!is.null(dim(x)) || !(is.atomic(x))) NA_character_ else known[inherits(x, known, which = TRUE) > 0 | class_is(x, known)][1]
}

class_is <- function(x, kinds) vapply(kinds, function(kind) !is.object(x) && methods::is(x, kind), NA)

send_column <- function(x, kind) {
  if (kind == "character") {
    return(ask("column", kind = kind, values = send_text(x)))
  }
  if (kind == "POSIXct") {
    return(ask("column", kind = kind, values = send(as.double(x), "float64"), zone = zone_of(x)))
  }
  if (kind %in% c("numeric", "Date")) {
    return(ask("column", kind = kind, values = send(as.double(x), "float64")))
  }
  if (kind != "factor") {
    return(ask("column", kind = kind, values = send(as.integer(x), "int32")))
  }
  codes <- as.integer(x) - 1L
  codes[is.na(codes)] <- -1L
  ask("column", kind = kind, values = send(codes, "int32"), levels = send_text(levels(x)), ordered = is.ordered(x))
}

# The time zone in which R displays a time.
zone_of <- function(x) {
  zone <- attr(x, "tzone")[1]
  if (is.null(zone) || !nzchar(zone)) zone <- Sys.timezone()
  if (is.na(zone)) "UTC" else zone
}

# `n` numbers of a Python array, as R's type for `kind`.
receive <- function(array, kind, n) {
  mode <- TYPES[[kind]]
  if (n > 0 && is_direct()) {
    out <- vector(mode, n)
    write_direct(array, kind, rlang::obj_address(out))
    return(out)
  }
  step <- max(1, chunk_bytes() %/% BYTES[[kind]])
  read <- function(from, to) {
    bytes <- raw_chunk(array, from - 1, to, kind)
    if (mode == "raw") bytes else readBin(bytes, mode, to - from + 1)
  }
  if (n <= step) {
    return(if (n == 0) vector(mode, 0) else read(1, n))
  }
  out <- vector(mode, n)
  for (from in seq(1, n, by = step)) {
    to <- min(from + step - 1, n)
    out[from:to] <- read(from, to)
  }
  out
}

receive_all <- function(array, kind) receive(array, kind, as.double(py_value(array$size)))

receive_text <- function(text) {
  sizes <- receive_all(text$lengths, "int32")
  blob <- receive_all(text$blob, "uint8")
  out <- readChar(blob, pmax(sizes, 0L), useBytes = TRUE)
  Encoding(out) <- "UTF-8"
  if (!length(sizes)) character() else replace(out, sizes < 0, NA_character_)
}

# A Python Block as a dgCMatrix or matrix.
receive_matrix <- function(block) {
  shape <- as.integer(unlist(py_value(block$shape)))
  values <- receive_all(block$values, "float64")
  if (!py_value(block$is_sparse)) {
    return(matrix(values, shape[1], shape[2]))
  }
  out <- methods::new("dgCMatrix") # slot by slot: Python has sorted the rows, and new() would check them all again
  out@i <- receive_all(block$rows, "int32")
  out@p <- receive_all(block$pointers, "int32")
  out@x <- values
  out@Dim <- shape
  out
}

receive_frame <- function(columns, row_names = NULL) {
  columns <- py_list(columns)
  data <- lapply(columns, receive_column)
  names(data) <- vapply(columns, function(column) py_value(column$name), "")
  n <- if (length(data)) length(data[[1]]) else length(row_names)
  data <- structure(data, class = "data.frame", row.names = seq_len(n))
  if (!is.null(row_names)) attr(data, "row.names") <- row_names
  data
}

receive_column <- function(column) {
  kind <- py_value(column$kind)
  if (kind == "character") {
    return(receive_text(column$values))
  }
  values <- receive_all(column$values, if (kind %in% c("factor", "logical", "integer")) "int32" else "float64")
  if (kind %in% c("Date", "POSIXct")) values[is.nan(values)] <- NA_real_
  switch(kind,
    factor = structure(values,
      levels = receive_text(column$levels), class = c(if (py_value(column$ordered)) "ordered", "factor")
    ),
    logical = as.logical(values),
    Date = as.Date(values, origin = "1970-01-01"),
    POSIXct = as.POSIXct(values, origin = "1970-01-01", tz = py_value(column$zone)),
    values
  )
}
