#' Integrate the layers of a Seurat v5 object
#'
#' A method for `Seurat::IntegrateLayers()`. Each layer is a batch, so split the assay by batch first. Trains on the
#' counts of the features chosen by `IntegrateLayers()`, not on normalized values. `SCVIIntegration()` also takes `ndims`
#' and `nlayers`, the names that SeuratWrappers' `scVIIntegration()` has for `n_latent` and `n_layers`, and ignores
#' `conda_env`.
#'
#' An `SCTAssay` holds corrected counts, from which SCTransform has taken the depth of the cells, not raw ones: they are
#' used with a warning. `RunSCVI(obj, batch = , assay = "RNA")` trains on the raw counts.
#'
#' @param object An `Assay5` or `SCTAssay`, as `IntegrateLayers()` passes it.
#' @param orig,scale.layer Passed by `IntegrateLayers()`; not used.
#' @param groups Passed by `IntegrateLayers()`: of an `SCTAssay` a data frame whose first column has the batch of each cell.
#' @param layers Layers to integrate, e.g. "data.a" and "data.b"; the corresponding counts are used. `NULL` for all.
#' @param features Genes to train on.
#' @param assay Name of the assay.
#' @param new.reduction Name of the new reduction.
#' @param key Key of the new reduction; `NULL` to derive it from the name.
#' @inheritParams RunModel
#' @returns A named list with the reduction.
#' @family models
#' @export
#' @examplesIf scduet_available() && requireNamespace("Seurat", quietly = TRUE) && utils::packageVersion("Seurat") >= "5"
#' counts <- SeuratObject::LayerData(SeuratObject::pbmc_small, layer = "counts")
#' obj <- SeuratObject::CreateSeuratObject(counts, meta.data = SeuratObject::pbmc_small[[]])
#' obj[["RNA"]] <- split(obj[["RNA"]], f = obj$groups)
#' obj <- Seurat::IntegrateLayers(obj,
#'   method = SCVIIntegration, orig.reduction = NULL, new.reduction = "integrated.scvi",
#'   features = rownames(obj), max_epochs = 2, verbose = FALSE
#' )
#' obj[["integrated.scvi"]]
SCVIIntegration <- function(object, orig = NULL, layers = NULL, scale.layer = NULL, features = NULL, groups = NULL,
                            assay = NULL, new.reduction = "integrated.scvi", key = NULL, seed.use = 42, verbose = TRUE,
                            model.path = NULL, ...) {
  rlang::inject(integrate_layers("scvi", object, layers, groups, features, assay, new.reduction, key, seed.use, verbose,
    model.path, !!!from_seurat_wrappers(list(...), verbose)
  ))
}
attr(SCVIIntegration, "Seurat.method") <- "integration"

#' @rdname SCVIIntegration
#' @param labels Cell types as a vector named by cell, because `IntegrateLayers()` does not pass metadata.
#' @export
SCANVIIntegration <- function(object, orig = NULL, layers = NULL, scale.layer = NULL, features = NULL, groups = NULL,
                              assay = NULL, new.reduction = "integrated.scanvi", key = NULL, labels = NULL,
                              seed.use = 42, verbose = TRUE, model.path = NULL, ...) {
  if (is.null(names(labels)) || !all(colnames(object) %in% names(labels))) {
    abort_scduet(
      "`labels` must be a vector named by cell, because IntegrateLayers() does not pass metadata.",
      "Pass `labels = obj$cell_type`, or use `RunSCANVI(obj, batch = \"donor\", labels = \"cell_type\")`.", "labels"
    )
  }
  integrate_layers("scanvi", object, layers, groups, features, assay, new.reduction, key, seed.use, verbose, model.path,
    labels = labels, ...
  )
}
attr(SCANVIIntegration, "Seurat.method") <- "integration"

# Arguments of SeuratWrappers' scVIIntegration() under their names here.
from_seurat_wrappers <- function(given, verbose, call = rlang::caller_env()) {
  if ("conda_env" %in% names(given)) {
    inform_scduet("`conda_env` is not used: scduet runs in the Python that `scduet_sitrep()` shows.", verbose)
    given$conda_env <- NULL
  }
  known <- c(ndims = "n_latent", nlayers = "n_layers")
  for (name in intersect(names(known), names(given))) {
    if (known[[name]] %in% names(given)) {
      abort_scduet(
        sprintf("`%s` and `%s` are the same option.", name, known[[name]]), "Pass one of them.", "option", call
      )
    }
    names(given)[names(given) == name] <- known[[name]]
  }
  given
}

integrate_layers <- function(model, object, layers, groups, features, assay, new.reduction, key, seed.use, verbose,
                             model.path, ..., call = rlang::caller_env()) {
  sct <- inherits(object, "SCTAssay")
  batch <- if (sct) batch_of_groups(object, groups, call) else batch_of_cells(object, layers, call)
  features <- if (is.null(features)) NULL else rownames(object)[rownames(object) %in% features] # in the order used by RunSCVI()
  reduction <- RunModel(object,
    model = model, batch = batch, features = features, assay = assay, reduction.name = new.reduction,
    reduction.key = key, seed.use = seed.use, verbose = verbose, model.path = model.path, ...
  )
  rlang::set_names(list(reduction), new.reduction)
}

# Batch of each cell of an SCTAssay, which has no layers: the group in which it was normalized.
batch_of_groups <- function(object, groups, call) {
  known <- is.data.frame(groups) && all(colnames(object) %in% rownames(groups))
  batch <- if (known) as.character(groups[colnames(object), 1]) else character()
  if (length(unique(batch)) < 2) {
    abort_scduet(
      "The SCTAssay was made of one batch, so there are no batches to integrate.",
      "Split the layers of the RNA assay by batch before `SCTransform()`, or use `RunSCVI(obj, batch = \"donor\")`.",
      "layers", call
    )
  }
  rlang::set_names(batch, colnames(object))
}

# Batch of each cell: the counts layer that contains it.
batch_of_cells <- function(object, layers, call) {
  parts <- layers_named(object, "counts")
  suffix <- sub("^counts[.]?", "", parts)
  wanted <- if (is.null(layers)) suffix else sub("^[^.]*[.]?", "", layers)
  if (length(intersect(suffix, wanted)) < 2) {
    abort_scduet(
      "The counts are not split into layers, so there are no batches to integrate.",
      "Split them by batch, `obj[[\"RNA\"]] <- split(obj[[\"RNA\"]], f = obj$donor)`, or use `RunSCVI(obj, batch = \"donor\")`.",
      "layers", call
    )
  }
  cells <- lapply(parts, function(part) v5("Cells")(object, layer = part))
  rlang::set_names(rep(suffix, lengths(cells)), unlist(cells))
}
