"""Cells without their counts: what the encoder said of them is enough for most analyses, in a fraction of the space."""

from __future__ import annotations

from scduet._torch import torch

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scduet.api import Model
from scduet.data import checks, locate
from scduet.errors import DataError
from scduet.tasks.posterior.latent import LATENT_KEYS, LIBRARY_KEYS, MINIFIED, states


def minify(model: Model, adata: AnnData) -> AnnData:
    """A copy of `adata` with posterior means and variances and library sizes in place of counts.

    In the layout of scvi-tools: obsm["scvi_latent_qzm"] and "_qzv" (cell, latent), obs["observed_lib_size"], and
    uns["_scvi_adata_minify_type"]. `normalized_expression`, `posterior_predictive_sample`, `likelihood_parameters`,
    `differential_expression` and the like take it as they take the cells themselves, and give the same numbers; what
    needs counts says so (`differential_expression` warns that it cannot leave out genes that were hardly measured).
    """
    checks.check_cells(adata)
    if hasattr(adata, "mod"):
        raise DataError("minify keeps an AnnData, not a MuData", "pass the modality with the counts")
    parts = list(states(model, adata))
    kept = AnnData(
        sp.csr_matrix((adata.n_obs, len(model.genes)), dtype=np.float32),
        obs=adata.obs.copy(),
        var=locate.var_of_main(adata, model.schema.fields.layer).loc[model.genes].copy(),
        obsm=dict(adata.obsm),
        uns={**adata.uns, MINIFIED: "latent_posterior_parameters"},
    )
    fields = model.schema.fields
    if fields.layer is not None:
        kept.layers[fields.layer] = kept.X
    for given in model.schema.further.values():
        place = getattr(fields, given.option)
        store, _, key = str(locate.resolve(adata, place, given)).partition("/") if place else ("", "", "")
        if store == "layers":  # inputs in obsm are there already
            kept.layers[key] = adata[:, model.genes].layers[key].copy()
    mean, variance = (LATENT_KEYS[0].format(model.name, part) for part in ("qzm", "qzv"))
    kept.obsm[mean] = torch.cat([part.mean for part in parts]).cpu().numpy()
    kept.obsm[variance] = torch.cat([part.variance for part in parts]).cpu().numpy()
    libraries = [part.log_library for part in parts if part.log_library is not None]
    if libraries:
        kept.obs[LIBRARY_KEYS[0]] = torch.cat(libraries).exp().ravel().cpu().numpy()
    return kept
