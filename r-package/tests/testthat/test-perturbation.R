# Genes that respond additively: four singles, one pair, on counts that need no seed.
small_screen <- function(n = 40) {
  names <- c("NT", "GENE1", "GENE2", "GENE3", "GENE4", "GENE1+GENE2")
  change <- sapply(1:4, function(i) sin(i * seq_len(30)))
  change <- cbind(0, change, change[, 1] + change[, 2])
  noise <- matrix(qnorm(((seq_len(30 * 6 * n) * 0.618034) %% 1) * 0.98 + 0.01) * 0.2, 30)
  x <- pmax(3 + change[, rep(1:6, each = n)] + noise, 0)
  dimnames(x) <- list(paste0("GENE", 1:30), paste0("cell", seq_len(ncol(x))))
  data <- data.frame(gene = rep(names, each = n), row.names = colnames(x))
  object <- suppressWarnings(SeuratObject::CreateSeuratObject(methods::as(round(x), "CsparseMatrix"), meta.data = data))
  assay <- suppressWarnings(if (inherits(object[["RNA"]], "StdAssay")) {
    SeuratObject::SetAssayData(object, layer = "data", new.data = methods::as(x, "CsparseMatrix"))
  } else {
    SeuratObject::SetAssayData(object, slot = "data", new.data = methods::as(x, "CsparseMatrix"))
  })
  list(object = assay, change = change)
}

test_that("a combination is predicted, kept in the object and drawn", {
  skip_if_no_engine()
  skip_if_no_seurat()
  screen <- small_screen()
  object <- PredictPerturbation(screen$object, "gene", c("GENE4+GENE3", "GENE2_GENE1"), verbose = FALSE)
  kept <- SeuratObject::Misc(object, "perturbation")
  expect_identical(colnames(kept$change), c("GENE3+GENE4", "GENE1+GENE2"))
  expect_identical(rownames(kept$change), rownames(object))
  expect_equal(unname(kept$change[, 2]), screen$change[, 6], tolerance = 0.1)
  expect_identical(kept$support$model, c("additive", "additive"))
  additive <- kept$table[kept$table$method == "additive", ]
  expect_lt(additive$relative_error, 0.3)
  expect_true("ceiling" %in% kept$table$method)
  skip_if_not_installed("ggplot2")
  drawn <- ggplot2::ggplot_build(PlotPerturbation(object))$data[[1]]
  expect_equal(sort(drawn$x), sort(kept$table$relative_error[kept$table$method != "ceiling"]), tolerance = 1e-6)
})

test_that("Mixscape's classes are read, and escaped cells are left out of training", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_screen()$object
  kind <- ifelse(object$gene == "NT", "NT", paste(object$gene, c("KO", "NP")))
  object$mixscape_class <- kind
  object$mixscape_class.global <- sub("^.* ", "", kind)
  expect_warning(
    object <- PredictPerturbation(object, "mixscape_class", "GENE3+GENE4", drop.escaped = "mixscape_class.global", verbose = FALSE),
    class = "scduet_warning"
  )
  kept <- SeuratObject::Misc(object, "perturbation")
  expect_identical(colnames(kept$mean), "GENE3+GENE4")
  expect_setequal(kept$held.out$target, c("GENE1+GENE2"))
})

test_that("predictions of any method are scored beside the rules", {
  skip_if_no_engine()
  skip_if_no_seurat()
  screen <- small_screen()
  guess <- screen$change[, 2:5]
  dimnames(guess) <- list(rownames(screen$object), paste0("GENE", 1:4))
  scores <- ScorePerturbation(screen$object, guess, "gene", change = TRUE, verbose = FALSE)
  row <- scores$table[scores$table$method == "prediction", ]
  expect_gt(row$delta, 0.95)
  expect_lt(row$relative_error, 0.3)
  expect_error(
    ScorePerturbation(screen$object, guess, "gene", change = TRUE, trained.on = c("GENE4", "NT"), verbose = FALSE),
    class = "scduet_error_data"
  )
  sets <- list(one = paste0("GENE", 1:2), two = paste0("GENE", 3:4))
  with_sets <- ScorePerturbation(screen$object, guess, "gene", change = TRUE, gene.embedding = sets, verbose = FALSE)
  expect_true("neighbors" %in% with_sets$table$method)
})

test_that("what cannot be predicted is refused by name", {
  skip_if_no_engine()
  skip_if_no_seurat()
  object <- small_screen()$object
  expect_error(PredictPerturbation(object, "guide"), class = "scduet_error_column")
  expect_error(PredictPerturbation(object, "gene", control = "DMSO", verbose = FALSE), class = "scduet_error_data")
  expect_error(PredictPerturbation(object, "gene", "UNKNOWN", verbose = FALSE), class = "scduet_error_data")
  expect_error(PredictPerturbation(object, "gene", model = "gears", verbose = FALSE), class = "scduet_error_option")
  expect_error(PlotPerturbation(object), class = "scduet_error_argument")
  expect_error(ScorePerturbation(object, matrix(1, 2, 2), "gene"), class = "scduet_error_argument")
})

test_that("the perturbation that explains a change comes first", {
  skip_if_no_engine()
  skip_if_no_seurat()
  screen <- small_screen()
  profile <- setNames(screen$change[, 4], rownames(screen$object)) # of GENE3, the fourth level after the control
  kinds <- c(GENE3 = "one", GENE1 = "two", GENE2 = "two")
  found <- RankPerturbations(screen$object, profile, "gene", mechanisms = kinds, verbose = FALSE)
  expect_identical(found$perturbation[1], "GENE3")
  expect_gt(found$similarity[1], 0.9)
  expect_identical(attr(found, "chance.rank"), 3)
  expect_identical(attr(found, "mechanisms")$mechanism[1], "one")
  expect_error(RankPerturbations(screen$object, unname(profile), "gene"), class = "scduet_error_argument")
  expect_error(RankPerturbations(screen$object, profile, "gene", control = "none"), class = "scduet_error_data")
})
