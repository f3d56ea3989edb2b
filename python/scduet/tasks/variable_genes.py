"""Highly variable genes across batches, chosen by scanpy on a log-normalised copy of the counts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scduet.data.schema import Fields, Schema
from scduet.errors import OptionError, ScduetWarning
from scduet.options import build

FLAVOR = "seurat"  # scanpy's default; "seurat_v3" needs scikit-misc, and "cell_ranger" fails on batches of few cells


def choose_genes(adata: AnnData, n_top_genes: int, options: Mapping[str, Any]) -> None:
    """Write the choice to var["highly_variable"], with the columns and uns["hvg"] that scanpy writes beside it.

    adata: counts in X, or in options["layer"]. Genes are ranked by the number of batches (options["batch_key"]) in
    which they are variable, then by their mean normalized dispersion. Genes that are tied may make it a few more. An
    earlier choice is replaced.

    Raises OptionError for a number below 1, and DataError for cells that no model could be trained on, before anything
    is written.
    """
    from scanpy.preprocessing import highly_variable_genes, log1p, normalize_total

    if isinstance(n_top_genes, bool) or not isinstance(n_top_genes, (int, np.integer)) or n_top_genes < 1:
        raise OptionError(f"option 'n_top_genes' cannot be {n_top_genes!r}", "it takes a whole number above 0")
    schema = _schema(adata, options)
    cells = schema.encode(adata)
    counts = cells.counts.rows(np.arange(len(cells))).copy()  # else scanpy would change the user's
    logged = AnnData(
        counts, pd.DataFrame({"batch": pd.Categorical(cells.batch)}, adata.obs_names), adata.var[[]].copy()
    )
    normalize_total(logged, target_sum=1e4)
    log1p(logged)
    batch_key = None if schema.fields.batch_key is None else "batch"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's, that all genes are fewer than n_top_genes
        highly_variable_genes(logged, n_top_genes=int(n_top_genes), flavor=FLAVOR, batch_key=batch_key)
    for column in logged.var:
        adata.var[column] = logged.var[column]
    adata.uns["hvg"] = dict(logged.uns["hvg"])


def _schema(adata: AnnData, options: Mapping[str, Any]) -> Schema:
    """What is found in all genes; warnings come when the model is trained."""
    known = {name: options[name] for name in ("layer", "batch_key", "allow_non_integer") if name in options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScduetWarning)
        return Schema.learn(adata, build(Fields, {**known, "genes": tuple(adata.var_names)}))
