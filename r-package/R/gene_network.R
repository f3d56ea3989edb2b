#' Gene networks and gene programs
#'
#' Which genes go together according to a model, always beside their co-expression in the same cells, which is what the
#' model must beat. From the vectors that a model learned for genes (`method = "embedding"`: of scVI and its kin the
#' weights of the decoder's last layer, of LDVAE the loadings, of a transformer its table of genes), from the mean states
#' of genes in the cells ("contextual", transformers) or from the attention between genes ("attention", transformers).
#'
#' @param object A Seurat object or SingleCellExperiment with raw counts.
#' @param model Folder of a transformer, or "hf://owner/name@revision"; `NULL` for the model inside the object.
#' @param reduction Name of the reduction whose model is meant, where there are several.
#' @param genes Genes of the network; `NULL` for those of the model inside the object, of a transformer the variable
#'   features, else the 2,000 most variable genes.
#' @param method "embedding", "contextual" or "attention".
#' @param group.by Column of the metadata: one network for each of its values ("contextual" and "attention").
#' @param control Value of `group.by` that the others are compared with: the links kept are those that differ most.
#' @param n.neighbors Links kept of each gene; `NULL` for all pairs.
#' @param gene.sets Path of a GMT file, or a named list of genes: says which set each program is most enriched in.
#' @param resolution Of the Leiden communities; more gives smaller programs.
#' @param ... Options of a transformer, e.g. `max_length`, `precision`, and for attention `block` (-1 is the last).
#' @inheritParams RunModel
#' @returns A data frame of class `scduet_network`, one row a link, the strongest first: `group`, `gene`, `other`,
#'   `weight`, `coexpression`, `by_model`, `by_coexpression`; with `control` also `difference`. Attention has a direction:
#'   `gene` looks at `other`. Attributes: `programs` (a data frame, by the model and by co-expression), and with
#'   `gene.sets` also `enrichment` (all terms: hypergeometric test, Benjamini-Hochberg) and `links` (share of links
#'   between genes of a common set, beside random pairs).
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
#' The strongest links by the model. Orange links are the model's alone; grey ones co-expression has too.
#'
#' @param network The result of [GeneNetwork()].
#' @param genes Draw the links of these genes alone.
#' @param group Group of cells, where there are several.
#' @param n.links Number of links to draw.
#' @returns A ggplot.
#' @family tasks
#' @export
#' @examples
#' \dontrun{
#' PlotGeneNetwork(network, genes = c("CD3D", "HLA-DRA"))
#' }
PlotGeneNetwork <- function(network, genes = NULL, group = NULL, n.links = 150) {
  check_installed("ggplot2", "PlotGeneNetwork()")
  if (!inherits(network, "scduet_network")) {
    abort_scduet("This is no gene network.", "Pass the result of `GeneNetwork()`.", "class")
  }
  rownames(network) <- NULL
  found <- ask("network_drawing",
    links = send_frame(as.data.frame(network)), genes = if (length(genes)) as.list(genes), group = group, n_links = n.links
  )
  links <- receive_frame(found$links)
  links$known <- ifelse(links$by_coexpression, "by co-expression too", "by the model alone")
  ggplot2::ggplot(receive_frame(found$genes), ggplot2::aes(x = .data$x, y = .data$y)) +
    ggplot2::geom_segment(
      ggplot2::aes(xend = .data$xend, yend = .data$yend, linewidth = .data$size, colour = .data$known), links,
      alpha = 0.6
    ) +
    ggplot2::geom_point(colour = "#0072B2") +
    ggplot2::geom_text(ggplot2::aes(label = .data$gene), size = 2.6, hjust = 0, nudge_x = 0.1, check_overlap = TRUE) +
    ggplot2::scale_colour_manual(values = c("by co-expression too" = "#777777", "by the model alone" = "#D55E00")) +
    ggplot2::scale_linewidth(range = c(0.3, 1.6), guide = "none") +
    ggplot2::labs(colour = "Link") +
    ggplot2::theme_void()
}

# Genes of the network by default: those of the model inside the object, else the variable ones.
network_genes <- function(object, genes, trained, known) {
  if (!is.null(genes)) {
    return(called_by(trained, known)[match(genes, known)])
  }
  if (!is.null(trained)) {
    return(intersect(trained$genes, called_by(trained, known)))
  }
  if (inherits(object, "Seurat")) intersect(SeuratObject::VariableFeatures(object), known) else character()
}

# Names of the object's genes as the model knows them, which Seurat may spell with "-" for "_".
called_by <- function(trained, known) {
  own <- match(gsub("[_|]", "-", trained$genes), known)
  absent <- !trained$genes %in% known & !is.na(own)
  replace(known, own[absent], trained$genes[absent])
}
