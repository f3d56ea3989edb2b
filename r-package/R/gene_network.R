#' Gene networks and gene programs
#'
#' Infers a gene network and gene programs from a model and compares them with co-expression in the same cells. Links
#' are computed from gene embeddings (`method = "embedding"`: the last decoder layer of scVI and related models, the
#' loadings of LDVAE, the token embeddings of a transformer), from mean hidden states of genes in the cells
#' ("contextual", transformers), or from attention between genes ("attention", transformers).
#'
#' @param object A Seurat object or SingleCellExperiment with raw counts.
#' @param model Folder of a transformer, or "hf://owner/name@revision"; `NULL` for the model in the object.
#' @param reduction Name of the reduction whose model to use; `NULL` if there is only one model.
#' @param genes Genes of the network; `NULL` for the genes of the model in the object or, for a transformer, the
#'   variable features or else the 2,000 most variable genes.
#' @param method "embedding", "contextual" or "attention".
#' @param group.by Metadata column by which to compute separate networks ("contextual" and "attention").
#' @param control Value of `group.by` to compare the other groups with; the links that differ most are kept.
#' @param n.neighbors Number of links to keep per gene; `NULL` for all pairs.
#' @param gene.sets Path of a GMT file, or a named list of gene sets, to test programs for enrichment.
#' @param resolution Resolution of Leiden clustering; higher values give smaller programs.
#' @param ... Options for transformers, e.g. `max_length`, `precision`, and `block` for attention (-1 is the last).
#' @inheritParams RunModel
#' @returns A data frame of class `scduet_network`, one row per link, strongest first: `group`, `gene`, `other`,
#'   `weight`, `coexpression`, `by_model`, `by_coexpression`; with `control` also `difference`. Attention is directed:
#'   `gene` attends to `other`. Attributes: `programs` (a data frame, by the model and by co-expression), and with
#'   `gene.sets` also `enrichment` (all terms: hypergeometric test, Benjamini-Hochberg) and `links` (fraction of links
#'   within a gene set, compared with random pairs).
#' @references Cui et al. (2024), \doi{10.1038/s41592-024-02201-0}
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- RunLDVAE(SeuratObject::pbmc_small, features = genes, max_epochs = 2, verbose = FALSE)
#' network <- GeneNetwork(obj, n.neighbors = 5, resolution = 1)
#' head(network)
#' head(attr(network, "programs"))
GeneNetwork <- function(object, model = NULL, reduction = NULL, genes = NULL, method = "embedding", group.by = NULL,
                        control = NULL, n.neighbors = 15, gene.sets = NULL, resolution = 20, assay = NULL,
                        layer = "counts", seed.use = 42, ...) {
  check_text(model, "model", optional = TRUE)
  check_text(method, "method")
  options <- lapply(list(...), as_option)
  check_option_names(options, rlang::current_env())
  seed <- check_whole(seed.use, "seed.use")
  parts <- parts_of(object, assay, layer)
  check_column(parts$cells, group.by, "group.by", may_miss = TRUE)
  check_features(genes, parts$genes)
  trained <- if (is.null(model)) ScduetModel(object, reduction = reduction)
  chosen <- network_genes(object, genes, trained, parts$genes)
  named <- list(genes = as.list(chosen), method = method, groupby = group.by, control = control)
  found <- ask("gene_network",
    adata = anndata_of(parts, columns = as.character(group.by), called = called_by(trained, parts$genes)),
    folder = if (is.null(model)) model_folder(trained) else path_of(model), sha256 = trained$sha256,
    options = c(Filter(length, named), list(n_neighbors = n.neighbors), options),
    gene_sets = if (is.list(gene.sets)) lapply(gene.sets, as.list) else gene.sets, resolution = resolution, seed = seed
  )
  attributes <- lapply(list(programs = found$programs, enrichment = found$terms, links = found$agreement), receive_frame)
  links <- receive_frame(found$links)
  class(links) <- c("scduet_network", class(links))
  do.call(structure, c(list(links), Filter(length, attributes)))
}

#' Draw a gene network
#'
#' Draws the strongest links. Gray links are also found by co-expression; orange links are found only by the model.
#'
#' @param network The result of [GeneNetwork()].
#' @param genes Draw only links of these genes.
#' @param group Group of cells, if the network has several.
#' @param n.links Number of links to draw.
#' @returns A ggplot.
#' @family tasks
#' @export
#' @examplesIf scduet_available() && requireNamespace("SeuratObject", quietly = TRUE) && requireNamespace("ggplot2", quietly = TRUE)
#' genes <- rownames(SeuratObject::pbmc_small)
#' obj <- RunLDVAE(SeuratObject::pbmc_small, features = genes, max_epochs = 2, verbose = FALSE)
#' network <- GeneNetwork(obj, n.neighbors = 5, resolution = 1)
#' PlotGeneNetwork(network, genes = network$from[1])
PlotGeneNetwork <- function(network, genes = NULL, group = NULL, n.links = 150) {
  check_installed("ggplot2", "PlotGeneNetwork()")
  if (!inherits(network, "scduet_network")) {
    abort_scduet("`network` is not a gene network.", "Pass the result of `GeneNetwork()`.", "class")
  }
  rownames(network) <- NULL
  found <- ask("network_drawing",
    links = send_frame(as.data.frame(network)), genes = if (length(genes)) as.list(genes), group = group, n_links = n.links
  )
  links <- receive_frame(found$links)
  links$known <- ifelse(links$by_coexpression, "model and co-expression", "model only")
  ggplot2::ggplot(receive_frame(found$genes), ggplot2::aes(x = .data$x, y = .data$y)) +
    ggplot2::geom_segment(
      ggplot2::aes(xend = .data$xend, yend = .data$yend, linewidth = .data$size, colour = .data$known), links,
      alpha = 0.6
    ) +
    ggplot2::geom_point(colour = "#0072B2") +
    ggplot2::geom_text(ggplot2::aes(label = .data$gene), size = 2.6, hjust = 0, nudge_x = 0.1, check_overlap = TRUE) +
    ggplot2::scale_colour_manual(values = c("model and co-expression" = "#777777", "model only" = "#D55E00")) +
    ggplot2::scale_linewidth(range = c(0.3, 1.6), guide = "none") +
    ggplot2::labs(colour = "Link") +
    ggplot2::theme_void()
}

# Default genes of the network: those of the model in the object, else the variable features.
network_genes <- function(object, genes, trained, known) {
  if (!is.null(genes)) {
    return(called_by(trained, known)[match(genes, known)])
  }
  if (!is.null(trained)) {
    return(intersect(trained$genes, called_by(trained, known)))
  }
  if (inherits(object, "Seurat")) intersect(SeuratObject::VariableFeatures(object), known) else character()
}

# The model's names for the object's genes, in which Seurat may have replaced "_" by "-".
called_by <- function(trained, known) {
  own <- match(gsub("[_|]", "-", trained$genes), known)
  absent <- !trained$genes %in% known & !is.na(own)
  replace(known, own[absent], trained$genes[absent])
}
