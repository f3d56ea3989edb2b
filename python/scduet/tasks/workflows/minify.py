"""Cells without their counts: what the encoder said of them is enough for most analyses, in a fraction of the space."""

from __future__ import annotations

from scduet._torch import torch

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scduet.api import Model
from scduet.data import checks, locate
from scduet.data.feature_names import places_of
from scduet.data.main_matrix import with_modality
from scduet.tasks.posterior.latent import LATENT_KEYS, LIBRARY_KEYS, MINIFIED, states


@torch.inference_mode()
def minify(model: Model, adata: AnnData) -> AnnData:
    """A copy of `adata`, an AnnData or MuData, with posterior means and variances and library sizes in place of counts.

    In the layout of scvi-tools: obsm["scvi_latent_qzm"] and "_qzv" (cell, latent), obs["observed_lib_size"], and
    uns["_scvi_adata_minify_type"]. `normalized_expression`, `posterior_predictive_sample`, `likelihood_parameters`,
    `differential_expression` and the like take it as they take the cells themselves, and give the same numbers; what
    needs counts says so (`differential_expression` warns that it cannot leave out genes that were hardly measured).
    """
    checks.check_cells(adata)
    parts, (name, layer) = list(states(model, adata)), locate.main_part(adata, model.schema.fields.layer)
    main = adata if name is None else adata.mod[name]
    kept = _without_counts(model, main, layer)
    kept = kept if name is None else with_modality(adata, name, kept)
    kept.uns[MINIFIED] = "latent_posterior_parameters"
    mean, variance = (LATENT_KEYS[0].format(model.name, part) for part in ("qzm", "qzv"))
    kept.obsm[mean] = torch.cat([part.mean for part in parts]).cpu().numpy()
    kept.obsm[variance] = torch.cat([part.variance for part in parts]).cpu().numpy()
    libraries = [part.log_library for part in parts if part.log_library is not None]
    if libraries:
        kept.obs[LIBRARY_KEYS[0]] = torch.cat(libraries).exp().ravel().cpu().numpy()
    return kept


def _without_counts(model: Model, adata: AnnData, layer: str | None) -> AnnData:
    """What is known of the cells and of the model's genes; inputs of the model in layers or X stay."""
    fields, var = model.schema.fields, locate.var_of_main(adata, layer)
    place = places_of(pd.Index(model.genes), var.index)
    counts = sp.csr_matrix((adata.n_obs, len(place)), dtype=np.float32)
    kept = AnnData(counts, adata.obs.copy(), var.iloc[place].copy(), dict(adata.uns), dict(adata.obsm))
    if layer is not None:
        kept.layers[layer] = kept.X
    for given in model.schema.further.values():
        where = getattr(fields, given.option)
        where = locate.resolve(adata, where, given) if locate.is_there(adata, where, given) else ""
        store, _, key = str(where).partition("/")
        if store == "layers":  # inputs in obsm are there already
            kept.layers[key] = adata[:, model.genes].layers[key].copy()
        elif store == "var":
            kinds = kept, adata[:, locate.locate(adata, where).names].copy()
            kept = anndata.concat(kinds, axis="var", merge="first", uns_merge="first")
    return kept
