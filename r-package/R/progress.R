# What the engine tells while it works, as R shows it: a bar in a console, a line for each tenth elsewhere.

new_reporter <- function(verbose) {
  if (!verbose) {
    return(NULL)
  }
  state <- new.env(parent = emptyenv())
  show <- if (cli::is_dynamic_tty()) show_bar(state) else show_lines(state)
  function(kind, message, epoch, max_epochs, seconds_left) {
    said <- grepl("^using [0-9]+ of [0-9]+ genes$", message) # R has told which features it sends
    if (kind == "epoch") show(message, epoch, max_epochs, seconds_left) else inform_scduet(message, !said)
    FALSE # TRUE would ask the engine to stop
  }
}

show_bar <- function(state) {
  function(message, epoch, max_epochs, seconds_left) {
    if (is.null(state$bar)) {
      format <- "Training {cli::pb_bar} {cli::pb_current}/{cli::pb_total} {cli::pb_status}"
      state$bar <- cli::cli_progress_bar(format = format, total = max_epochs, .envir = state, .auto_close = FALSE)
    }
    cli::cli_progress_update(set = epoch, status = line_of(message, seconds_left), id = state$bar, .envir = state)
    if (epoch >= max_epochs) cli::cli_progress_done(id = state$bar, .envir = state)
  }
}

show_lines <- function(state) {
  state$tenth <- 0
  function(message, epoch, max_epochs, seconds_left) {
    tenth <- floor(10 * epoch / max_epochs)
    if (tenth > state$tenth) {
      state$tenth <- tenth
      inform_scduet(sprintf("epoch %d of %d: %s", epoch, max_epochs, line_of(message, seconds_left)))
    }
  }
}

line_of <- function(message, seconds_left) {
  if (seconds_left < 1) message else sprintf("%s, %s left", message, time_of(seconds_left))
}

time_of <- function(seconds) if (seconds < 90) sprintf("%.0f s", seconds) else sprintf("%.0f min", seconds / 60)
