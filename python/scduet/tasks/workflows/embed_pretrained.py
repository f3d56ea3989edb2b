"""Embed cells with a published transformer, and say how good that is: always beside PCA on variable genes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc

from scduet.checkpoints import pretrained
from scduet.data import checks
from scduet.data.locate import locate_main
from scduet.errors import DataError
from scduet.events import Event, Listener
from scduet.tasks.quality.provenance import made_by, note
from scduet.tasks.quality.score import score
from scduet.tasks.workflows.integrate import integrate
from scduet.transformer_model import Transformer

HVG_PCA = "X_pca_hvg"
_N_GENES, _N_COMPONENTS = 2_000, 50


def embed_pretrained(
    adata,
    model: Transformer | str | Path,
    *,
    labels_key: str | None = None,
    batch_key: str | None = None,
    key_added: str | None = None,
    with_scvi: bool = False,
    layer: str | None = None,
    callback: Listener | None = None,
    **options,
) -> pd.DataFrame | None:
    """Write the embedding of `model` (a folder, "hf://" address, or loaded) to obsm["X_geneformer"], ["X_scGPT"] or
    ["X_scFoundation"] (`key_added` for another name).

    layer: where the raw counts are; None for X. options: those of `Transformer.embed` (accelerator, precision, pooling,
    ...).
    With `labels_key` returns `score` of it beside PCA of 2,000 variable genes on the same cells (and of scVI, trained
    here, with `with_scvi`); zero-shot embeddings often lose to that (Kedzierska et al., Genome Biology 2025).
    """
    checks.check_cells(adata)
    model = pretrained.read(model, callback) if isinstance(model, (str, Path)) else model
    key = key_added or model.key
    if callback is not None:
        coverage = model.match(adata, layer=layer, gene_column=options.get("gene_column"))
        callback(Event("log", f"{model.name}: {coverage}"))
    adata.obsm[key] = model.embed(adata, layer=layer, callback=callback, **options)
    note(adata, key, made_by(model))
    if labels_key is None:
        return None
    adata.obsm[HVG_PCA] = hvg_pca(adata, layer)
    names = [key, HVG_PCA]
    if with_scvi:
        integrate(adata, "scvi", batch_key=batch_key, layer=layer, callback=callback)
        names.append("X_scVI")
    return score(adata, names, batch_key, labels_key, layer=layer)


def hvg_pca(adata, layer: str | None = None) -> np.ndarray:
    """PCA, (cell, component), of the log-normalized counts of the most variable genes. `adata` is not changed."""
    copy = sc.AnnData(locate_main(adata, layer).values.copy(), adata.obs.copy())
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    sc.pp.highly_variable_genes(copy, n_top_genes=min(_N_GENES, copy.n_vars))
    n = min(_N_COMPONENTS, copy.n_obs - 1, int(copy.var["highly_variable"].sum()) - 1)
    if n < 1:
        raise DataError(f"{copy.n_obs} cells are too few for a PCA beside the embedding", "leave labels_key out")
    sc.pp.pca(copy, n_comps=n, mask_var="highly_variable")
    return np.asarray(copy.obsm["X_pca"], np.float32)
