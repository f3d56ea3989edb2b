# placeholder
scduet_available <- function() TRUE
