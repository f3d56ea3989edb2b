"""Data that scvi-tools' tutorials make on the spot or read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData, read_h5ad
from anndata.io import read_csv, read_loom, read_text

from scduet.errors import OptionError
from scduet.scvi import settings
from scduet.scvi.registry import unavailable

__all__ = ["read_csv", "read_h5ad", "read_loom", "read_text", "synthetic_iid"]
_DOWNLOAD = "download the file, or use scduet.datasets"
_TENX = "use scanpy.read_10x_h5(gex_only=False), or give scduet.fit the 10x file"
_INSIDE = "a model keeps what it knows of its data: see model.adata_manager"
_INSTEAD = {
    **dict.fromkeys(
        (
            *("annotation_simulation", "brainlarge_dataset", "breast_cancer_dataset", "cellxgene", "cortex"),
            *("dataset_10x", "frontalcortex_dropseq", "heart_cell_atlas_subsampled", "mouse_ob_dataset"),
            *("pbmc_seurat_v4_cite_seq", "pbmcs_10x_cite_seq", "prefrontalcortex_starmap", "purified_pbmc_dataset"),
            *("pbmc_dataset", "retina", "smfish", "spleen_lymph_cite_seq"),
        ),
        _DOWNLOAD,
    ),
    **dict.fromkeys(("read_10x_atac", "read_10x_multiome", "organize_cite_seq_10x"), _TENX),
    "organize_multiome_anndatas": "use muon or mudata to join modalities",
    "poisson_gene_selection": "use scduet.integrate(n_top_genes=) or scanpy.pp.highly_variable_genes",
    "add_dna_sequence": "no model of sequences is here",
    "reads_to_fragments": "halve the reads and round up: (adata.X + 1) // 2 of the stored values",
    **dict.fromkeys(("AnnDataManager", "AnnDataManagerValidationCheck", "AnnTorchDataset"), _INSIDE),
}


def synthetic_iid(
    batch_size: int = 200,
    n_genes: int = 100,
    n_proteins: int = 100,
    n_regions: int = 100,
    n_batches: int = 2,
    n_labels: int = 3,
    dropout_ratio: float = 0.7,
    sparse_format: str | None = None,
    generate_coordinates: bool = False,
    return_mudata: bool = False,
) -> AnnData:
    """Counts without structure, for trying calls out: NB(5, 0.3), of which a share of `dropout_ratio` is set to zero.

    obs has "batch" (batch_size cells each) and "labels"; obsm has "protein_expression" and "accessibility", and with
    generate_coordinates standard normal "coordinates" (cell, 2).
    """
    if return_mudata:
        raise OptionError("return_mudata=True: the four models are of one modality", "leave it out")
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
    if generate_coordinates:
        adata.obsm["coordinates"] = draw.normal(size=(n, 2))
    return adata


def __getattr__(name: str) -> Any:
    if name in _INSTEAD:
        return unavailable(name, _INSTEAD[name])
    raise AttributeError(f"module 'scduet.scvi.data' has no attribute {name!r}")
