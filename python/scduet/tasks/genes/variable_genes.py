"""Highly variable genes across batches, chosen by scanpy on a log-normalized copy of the counts."""

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
MIN_CELLS = 20  # of a batch in which genes are ranked


def choose_genes(adata: AnnData, n_top_genes: int, options: Mapping[str, Any]) -> None:
    """Write the choice to var["highly_variable"], with the columns and uns["hvg"] that scanpy writes beside it.

    adata: counts in X, or in options["layer"]. Genes are ranked by the number of batches (options["batch_key"]) in
    which they are variable, then by their mean normalized dispersion; batches of fewer than 20 cells have no say. Genes
    that are tied may make it a few more. An earlier choice is replaced.

    Raises OptionError for a number below 1, and DataError for cells that no model could be trained on, before anything
    is written.
    """
    from scanpy.preprocessing import highly_variable_genes

    if isinstance(n_top_genes, bool) or not isinstance(n_top_genes, (int, np.integer)) or n_top_genes < 1:
        raise OptionError(f"option 'n_top_genes' cannot be {n_top_genes!r}", "it takes a whole number above 0")
    logged, batch_key = _logged(adata, _schema(adata, options))
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


def _logged(adata: AnnData, schema: Schema) -> tuple[AnnData, str | None]:
    """Log-normalized counts of all genes, and the column of batches; in batches of few cells every gene looks odd."""
    from scanpy.preprocessing import log1p, normalize_total

    cells = schema.encode(adata)
    large = np.bincount(cells.batch)[cells.batch] >= MIN_CELLS
    used = np.flatnonzero(large) if large.any() else np.arange(len(cells))
    counts = cells.counts.rows(used).copy()  # else scanpy would change the user's
    batch = pd.DataFrame({"batch": pd.Categorical(cells.batch[used])}, adata.obs_names[used])
    logged = AnnData(counts, batch, adata.var[[]].copy())
    normalize_total(logged, target_sum=1e4)
    log1p(logged)
    return logged, "batch" if schema.fields.batch_key is not None and large.any() else None
