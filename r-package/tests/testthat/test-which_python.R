# Each in R processes of their own with an empty home, where neither RETICULATE_PYTHON nor WORKON_HOME is set.

empty_home <- function() {
  home <- tempfile("home")
  dir.create(home)
  normalizePath(home)
}

CLEAN <- c(
  "Sys.unsetenv(c('WORKON_HOME', 'RETICULATE_PYTHON', 'RETICULATE_PYTHON_ENV', 'VIRTUAL_ENV', 'CONDA_PREFIX', 'R_USER_CONFIG_DIR', 'XDG_CONFIG_HOME'))",
  "made <- function(...) { path <- file.path(...); dir.create(dirname(path), FALSE, TRUE); invisible(file.create(path)) }",
  "home <- Sys.getenv('HOME')",
  "say <- function() cat(sub(home, '<home>', unlist(scduet:::which_python()), fixed = TRUE), '', sep = '|')"
)
in_home <- function(home, code, env = character()) {
  said <- paste(in_new_r(c(CLEAN, code), c(paste0("HOME=", home), NOT_MANAGED, env)), collapse = "")
  strsplit(said, "|", fixed = TRUE)[[1]]
}

test_that("what the user chose goes before what install_scduet() made, which goes before what is active", {
  skip_on_os("windows")
  skip_if_no_engine()
  home <- empty_home()
  said <- in_home(home, c(
    "stopifnot(is.null(scduet:::which_python()))",
    "made(home, 'conda', 'bin', 'python'); Sys.setenv(CONDA_PREFIX = file.path(home, 'conda'), CONDA_DEFAULT_ENV = 'base')",
    "stopifnot(is.null(scduet:::which_python()))",
    "Sys.setenv(CONDA_DEFAULT_ENV = 'mine'); say()",
    "made(home, '.virtualenvs', 'r-scduet', 'bin', 'python'); say()",
    "made(home, 'own', 'bin', 'python'); scduet:::remember_python(scduet:::environment_python('~/own')); say()",
    "Sys.setenv(VIRTUAL_ENV = file.path(home, 'gone')); say()",
    "made(home, 'active', 'bin', 'python'); Sys.setenv(VIRTUAL_ENV = file.path(home, 'active')); say()",
    "reticulate::use_python(Sys.getenv('ENGINE'), required = TRUE); say()",
    "Sys.setenv(RETICULATE_PYTHON_ENV = 'named'); say()",
    "Sys.setenv(RETICULATE_PYTHON = '~/own'); say()"
  ), paste0("ENGINE=", reticulate::py_config()$python))
  found <- matrix(said, 2)
  in_home_of <- function(...) sprintf("<home>/%s/bin/python", c(...))
  own <- in_home_of("own")
  named <- in_home_of(".virtualenvs/named")
  expect_identical(found[1, -6], c(in_home_of("conda", ".virtualenvs/r-scduet"), own, own, in_home_of("active"), named, own))
  expect_identical(found[2, ], c(
    "CONDA_PREFIX", rep("install_scduet()", 3), "VIRTUAL_ENV", "reticulate::use_python() or use_virtualenv()",
    "RETICULATE_PYTHON_ENV", "RETICULATE_PYTHON"
  ))
})

test_that("an environment that was installed into is found again in the next session, and not once it is gone", {
  skip_on_os("windows")
  home <- empty_home()
  in_home(home, "scduet:::remember_python('~/own/bin/python')")
  expect_identical(in_home(home, "made('~/own/bin/python'); say()"), c("~/own/bin/python", "install_scduet()"))
  unlink(file.path(home, "own"), recursive = TRUE)
  expect_identical(in_home(home, "cat(is.null(scduet:::which_python()))"), "TRUE")
})

test_that("an environment that could not be completed is removed, one that was there before stays", {
  skip_on_os("windows")
  skip_if_no_engine()
  home <- empty_home()
  said <- in_home(home, c(
    "offline <- function(...) suppressMessages(tryCatch(",
    "  install_scduet(Sys.getenv('ENGINE'), offline = TRUE, ...), error = function(e) cat(class(e)[1], '', sep = '|')",
    "))",
    "offline() # by default in ~/.virtualenvs",
    "cat(file.exists('~/.virtualenvs/r-scduet'), file.exists('~/.virtualenvs'), is.null(scduet:::which_python()), '', sep = '|')",
    "scduet:::make_environment(path.expand('~/mine'), Sys.getenv('ENGINE'))",
    "offline(envname = '~/mine')",
    "cat(file.exists('~/mine/bin/python'), '', sep = '|')",
    "made('~/other/notes.txt')",
    "offline(envname = '~/other')",
    "cat(list.files('~/other'), length(list.files('.', '^~')), scduet_available(), sep = '|')"
  ), c(paste0("ENGINE=", reticulate::py_config()$python), "PIP_FIND_LINKS="))
  expect_identical(said, c(
    "scduet_error_install", "FALSE", "TRUE", "TRUE", "scduet_error_install", "TRUE",
    "scduet_error_no_environment", "notes.txt", "0", "FALSE"
  ))
})
