#' Programs that differ between groups
#'
#' Compares the scores of gene sets between two groups of cells, by a model of [RunPrograms()] and, beside it, by a plain
#' score of each set.
#'
#' Where sets overlap, the model may give the genes of one to another, and `set_t` still shows it. Cells of one donor are
#' not independent, so `set_t` is too large; `bayes_factor` is no p-value.
#'
#' @inheritParams FindModelMarkers
#' @param n.samples Number of random pairs of cells that are compared.
#' @param ... Not used.
#' @returns A data frame with a row for each program, the surest on top: `probability` that the score of a cell of
#'   `ident.1` is the higher one, its log odds `bayes_factor` (beyond 2.3 counts as clear in the paper), `direction` (1 or
#'   -1, the sign of the dimension; 0 for a program that was switched off), `n_genes`, and of the mean z-score of the
#'   set's genes `set_difference` and Welch's `set_t`. `dimension` is that of the reduction.
#' @references Lotfollahi et al. (2023), Biologically informed deep learning to query gene programs in single-cell
#'   atlases, \doi{10.1038/s41556-022-01072-x}
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' sets <- matrix(0, length(genes), 2, dimnames = list(genes, c("first", "second")))
#' sets[1:40, 1] <- 1
#' sets[30:80, 2] <- 1
#' obj <- RunPrograms(SeuratObject::pbmc_small,
#'   gene.sets = sets, features = genes, max_epochs = 2, verbose = FALSE
#' )
#' FindProgramMarkers(obj, ident.1 = "A", group.by = "letter.idents", n.samples = 100)
FindProgramMarkers <- function(object, ident.1, ident.2 = NULL, group.by = NULL, reduction = NULL, assay = NULL,
                               layer = "counts", n.samples = 5000, seed.use = 42, ...) {
  check_no_options(...)
  model <- ScduetModel(object, reduction = reduction)
  parts <- parts_of(object, trained_assay(object, model, assay), layer)
  parts$cells$scduet_group <- as_level(groups_of(object, parts$cells, group.by))
  ident.1 <- as_level(ident.1)
  if (!is.null(ident.2)) ident.2 <- as_level(ident.2)
  for (level in c(ident.1, ident.2)) check_level(level, parts$cells$scduet_group)
  options <- list(
    groupby = "scduet_group", group1 = as_option(ident.1), group2 = ident.2,
    n_samples = check_whole(n.samples, "n.samples"), seed = check_whole(seed.use, "seed.use")
  )
  found <- receive_frame(ask("differential_programs",
    folder = model_folder(model), sha256 = model$sha256, adata = anndata_for(parts, model, "scduet_group"),
    options = Filter(Negate(is.null), options)
  ))
  if (length(ident.1) == 1) {
    rownames(found) <- found$program
    found <- found[!names(found) %in% c("program", "comparison")]
  }
  found
}

#' Genes of programs
#'
#' The genes of the gene sets of a model of [RunPrograms()], by the size of their loading.
#'
#' @param object A model, or an object that contains one: see [ScduetModel()].
#' @param program Name of a gene set, or "free_1" and so on; `NULL` for all.
#' @param n Number of genes of each program; `NULL` for all that have a loading.
#' @param ... Passed to [ScduetModel()], e.g. `reduction`.
#' @returns A data frame: `program`, `gene`, `loading` (change of the logit of the gene's share by each unit of the score),
#'   `in_set` (`FALSE` for genes that a soft mask let in) and `dimension`, that of the reduction.
#' @references Lotfollahi et al. (2023), \doi{10.1038/s41556-022-01072-x}
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' sets <- matrix(0, length(genes), 2, dimnames = list(genes, c("first", "second")))
#' sets[1:40, 1] <- 1
#' sets[30:80, 2] <- 1
#' obj <- RunPrograms(SeuratObject::pbmc_small,
#'   gene.sets = sets, features = genes, max_epochs = 2, verbose = FALSE
#' )
#' ProgramGenes(obj, "first", n = 10)
ProgramGenes <- function(object, program = NULL, n = NULL, ...) {
  check_text(program, "program", optional = TRUE)
  model <- ScduetModel(object, ...)
  options <- list(program = program, n_genes = if (!is.null(n)) check_whole(n, "n"))
  receive_frame(ask("program_genes",
    folder = model_folder(model), sha256 = model$sha256, options = Filter(Negate(is.null), options)
  ))
}

#' What the nodes of a KPNN are worth
#'
#' How much each node of a knowledge-primed network moves the probability of each label, over networks that are trained
#' anew and beside a control.
#'
#' A single network gives the credit of nodes with like genes to one of them at random, so look at several `replicates`.
#' The control is the same network trained on simulated counts in which every gene tells the labels apart: what a node is
#' worth by its place alone. Believe what is on top by `weight` and by `ratio`.
#'
#' @param object A Seurat object or SingleCellExperiment with a model of [RunKPNN()] and the cells that it was trained on.
#' @param replicates Number of networks, the model the first of them. Each is trained as the model was.
#' @param control Train as many networks on simulated counts too.
#' @inheritParams FindProgramMarkers
#' @returns A data frame with a row for each node and label (of two labels the second), the highest on top: `node`, `label`,
#'   `level` (1: next to the genes), `weight` and its `sd` over replicates, and with a control its weight `control` and the
#'   `ratio` of both. Attributes: `agreement`, the mean correlation of two replicates; `accuracy` and `control_accuracy`,
#'   shares of held-out cells that are classified right.
#' @references Fortelny & Bock (2020), Knowledge-primed neural networks enable biologically interpretable deep learning on
#'   single-cell sequencing data, \doi{10.1186/s13059-020-02100-5}
#' @seealso [RunKPNN()]
#' @export
#' @examples
#' \dontrun{
#' obj <- RunKPNN(obj, gene.graph = "network.csv", labels = "condition")
#' head(NodeWeights(obj))
#' }
NodeWeights <- function(object, replicates = 10, control = TRUE, reduction = NULL, assay = NULL, layer = "counts",
                        seed.use = 42, ...) {
  check_no_options(...)
  check_flag(control, "control")
  model <- ScduetModel(object, reduction = reduction)
  parts <- parts_of(object, trained_assay(object, model, assay), layer)
  options <- list(
    replicates = check_whole(replicates, "replicates"), control = control, seed = check_whole(seed.use, "seed.use")
  )
  found <- ask("node_weights",
    folder = model_folder(model), sha256 = model$sha256, adata = anndata_for(parts, model), options = options
  )
  do.call(structure, c(list(receive_frame(found$nodes)), py_value(found$facts)))
}
