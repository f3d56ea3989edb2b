"""Data that scvi-tools' tutorials make on the spot."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scduet.scvi import settings


def synthetic_iid(
    batch_size: int = 200,
    n_genes: int = 100,
    n_proteins: int = 100,
    n_regions: int = 100,
    n_batches: int = 2,
    n_labels: int = 3,
    dropout_ratio: float = 0.7,
    sparse_format: str | None = None,
) -> AnnData:
    """Counts without structure, for trying calls out: NB(5, 0.3), of which a share of `dropout_ratio` is set to zero.

    obs has "batch" (batch_size cells each) and "labels"; obsm has "protein_expression" and "accessibility".
    """
    draw, n = np.random.default_rng(settings.seed), batch_size * n_batches
    counts = {name: draw.negative_binomial(5, 0.3, (n, size)) for name, size in (("rna", n_genes), ("atac", n_regions))}
    kept = {name: value * draw.binomial(1, 1 - dropout_ratio, value.shape) for name, value in counts.items()}
    x = kept["rna"].astype(np.float32)
    x[x.sum(1) == 0, 0] = 1
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical([f"batch_{i}" for i in range(n_batches) for _ in range(batch_size)]),
            "labels": pd.Categorical([f"label_{i}" for i in draw.integers(0, n_labels, n)]),
        },
        index=[str(i) for i in range(n)],
    )
    made = x if sparse_format is None else getattr(sp, sparse_format)(x)
    adata = AnnData(made, obs=obs, var=pd.DataFrame(index=[f"gene_{i}" for i in range(n_genes)]))
    if n_proteins:
        adata.obsm["protein_expression"] = draw.negative_binomial(5, 0.3, (n, n_proteins))
        adata.uns["protein_names"] = np.arange(n_proteins).astype(str)
    if n_regions:
        adata.obsm["accessibility"] = kept["atac"]
    return adata
