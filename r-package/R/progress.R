# Displays the engine's progress: a bar in a terminal, otherwise a line for every tenth. If this fails, the engine
# warns, stops reporting progress and continues.

DOING <- list(epoch = "Training", cell = "Embedding", gene = "Fitting", metric = "Scoring", file = "Downloading")

# frame: the call that waits for the engine. The bar is removed when it exits, including on Ctrl-C or an error.
new_reporter <- function(verbose, frame = parent.frame()) {
  force(frame)
  if (!verbose) {
    return(NULL)
  }
  show <- if (cli::is_dynamic_tty()) show_bar(frame) else show_lines()
  function(kind, message, done, total, unit, seconds_left) {
    said <- grepl("^using [0-9]+ of [0-9]+ genes$", message) # R has already reported the features it sends
    if (kind == "progress") show(message, done, total, unit, seconds_left) else inform_scduet(message, !said)
    FALSE # TRUE would stop the engine
  }
}

show_bar <- function(frame) {
  bar <- NULL
  function(message, done, total, unit, seconds_left) {
    if (is.null(bar)) {
      format <- paste(DOING[[unit]], "{cli::pb_bar} {cli::pb_current}/{cli::pb_total} {cli::pb_status}")
      bar <<- cli::cli_progress_bar(format = format, total = total, .envir = frame)
    }
    cli::cli_progress_update(set = done, status = line_of(message, seconds_left), id = bar, .envir = frame)
    if (done >= total) {
      cli::cli_progress_done(id = bar, .envir = frame)
      bar <<- NULL
    }
  }
}

show_lines <- function() {
  told <- 0
  function(message, done, total, unit, seconds_left) {
    tenth <- floor(10 * done / total)
    if (tenth < told) told <<- 0 # another training run in the same call
    if (tenth > told) {
      told <<- tenth
      inform_scduet(sprintf("%s %d of %d: %s", unit, done, total, line_of(message, seconds_left)))
    }
  }
}

line_of <- function(message, seconds_left) {
  if (seconds_left < 1) message else sprintf("%s, %s left", message, time_of(seconds_left))
}

time_of <- function(seconds) if (seconds < 90) sprintf("%.0f s", seconds) else sprintf("%.0f min", seconds / 60)
