"""Data that scvi-tools' tutorials make on the spot, read, or bring into form."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData, read_h5ad
from anndata.io import read_csv, read_loom, read_text
from scipy.io import mmread

from scduet.errors import DataError, FormatError, some
from scduet.scvi import settings
from scduet.scvi.registry import unavailable
from scduet.tasks.multimodal.accessibility import reads_to_fragments

__all__ = [
    "organize_cite_seq_10x",
    "organize_multiome_anndatas",
    "read_10x_atac",
    "read_10x_multiome",
    "read_csv",
    "read_h5ad",
    "read_loom",
    "read_text",
    "reads_to_fragments",
    "synthetic_iid",
]
ANTIBODIES = "Antibody Capture"
_DOWNLOAD = "download the file, or use scduet.datasets"
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
    "poisson_gene_selection": "use scduet.integrate(n_top_genes=) or scanpy.pp.highly_variable_genes",
    "add_dna_sequence": "no model of sequences is here",
    **dict.fromkeys(("AnnDataManager", "AnnDataManagerValidationCheck", "AnnTorchDataset"), _INSIDE),
}


def organize_cite_seq_10x(adata: AnnData, copy: bool = False) -> AnnData | None:
    """Move the proteins of X, by var["feature_types"], to obsm["protein_expression"], a DataFrame (cell x protein).

    adata: of e.g. scanpy.read_10x_h5(gex_only=False); changed in place, unless copy. Raises DataError without proteins.
    """
    kinds = adata.var.get("feature_types")
    is_protein = np.zeros(adata.n_vars, bool) if kinds is None else (kinds == ANTIBODIES).to_numpy()
    if not is_protein.any():
        there = "no column 'feature_types' in var" if kinds is None else f"it has {some(kinds.unique(), 9)}"
        raise DataError(f"no feature has {ANTIBODIES!r} in var['feature_types']", there)
    adata = adata.copy() if copy else adata
    proteins = adata[:, is_protein].to_df()
    adata._inplace_subset_var(~is_protein)
    adata.obsm["protein_expression"] = proteins
    return adata if copy else None


def organize_multiome_anndatas(
    multi_anndata: AnnData,
    rna_anndata: AnnData | None = None,
    atac_anndata: AnnData | None = None,
    modality_key: str = "modality",
) -> AnnData:
    """Cells with both modalities and cells with one as one AnnData, with the features of `multi_anndata`.

    obs[modality_key] is "paired", "expression" or "accessibility", and ends the names of the cells. What was not
    measured is zero (in scvi-tools NaN, where X is dense). Raises DataError for cells without a feature in common.
    """
    parts = {"paired": multi_anndata, "expression": rna_anndata, "accessibility": atac_anndata}
    made, names = [], multi_anndata.var_names
    for kind, part in parts.items():
        if part is None:
            continue
        shared = part.var_names[part.var_names.isin(names)]
        if not len(shared):
            raise DataError(f"the cells of {kind!r} have no feature of multi_anndata", "are they named alike?")
        made.append(part[:, shared].copy())
        made[-1].obs[modality_key], made[-1].obs_names = kind, made[-1].obs_names + f"_{kind}"
    joined = anndata.concat(made, join="outer", fill_value=0)[:, names].copy()
    joined.var = multi_anndata.var.copy()
    return joined


def read_10x_multiome(base_path: str | Path) -> AnnData:
    """Genes and peaks of Cell Ranger ARC side by side, from the matrix.mtx, features.tsv and barcodes.tsv of a folder.

    var has "ID", "modality" and the place ("chr", "start", "end"), obs "batch_id". Each file may be gzipped.
    """
    columns = {0: "ID", 2: "modality", 3: "chr", 4: "start", 5: "end"}
    features = pd.read_csv(_file(base_path, "features.tsv"), sep="\t", header=None, index_col=1)
    features.index.name = None
    return _tenx(base_path, features.rename(columns=columns))


def read_10x_atac(base_path: str | Path) -> AnnData:
    """Peaks of Cell Ranger ATAC, from the matrix.mtx, peaks.bed and barcodes.tsv of a folder, each maybe gzipped."""
    peaks = pd.read_csv(_file(base_path, "peaks.bed"), sep="\t", header=None).rename(
        columns={0: "chr", 1: "start", 2: "end"}
    )
    names = peaks["chr"].astype(str) + ":" + peaks["start"].astype(str) + "-" + peaks["end"].astype(str)
    return _tenx(base_path, peaks.set_index(pd.Index(names.to_numpy())))


def _tenx(folder: str | Path, var: pd.DataFrame) -> AnnData:
    with _opened(_file(folder, "matrix.mtx")) as stream:
        counts = sp.csr_matrix(mmread(stream).T)
    cells = pd.read_csv(_file(folder, "barcodes.tsv"), sep="-", header=None).rename(
        columns={0: "barcode", 1: "batch_id"}
    )
    obs = cells.set_index(cells.pop("barcode").astype(str))
    if counts.shape != (len(obs), len(var)):
        shapes = f"{folder} has {len(obs)} barcodes and {len(var)} features for a matrix of {counts.shape}"
        raise FormatError(shapes, "copy the folder again")
    return AnnData(counts, obs=obs, var=var)


def _file(folder: str | Path, name: str) -> Path:
    """A file of the folder, gzipped or not."""
    found = [path for path in (Path(folder) / name, Path(folder) / f"{name}.gz") if path.is_file()]
    if not found:
        raise FormatError(f"there is no {name} in {folder}", "pass the folder with the filtered matrix")
    return found[0]


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


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
) -> Any:
    """Counts without structure, for trying calls out: NB(5, 0.3), of which a share of `dropout_ratio` is set to zero.

    obs has "batch" (batch_size cells each) and "labels"; obsm has "protein_expression" and "accessibility", which with
    return_mudata are modalities beside "rna", and with generate_coordinates standard normal "coordinates" (cell, 2).
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
    proteins = draw.negative_binomial(5, 0.3, (n, n_proteins))
    further = {"accessibility": (kept["atac"], "region"), "protein_expression": (proteins, "protein")}
    further = {name: part for name, part in further.items() if part[0].shape[1]}
    made = _named(x if sparse_format is None else getattr(sp, sparse_format)(x), "gene", obs)
    if return_mudata:
        from mudata import MuData

        made.obs = pd.DataFrame(index=obs.index)
        parts = {name: _named(values.astype(np.float32), word, made.obs) for name, (values, word) in further.items()}
        made = MuData({"rna": made, **parts})
        made.obs = obs
    else:
        for name, (values, _) in further.items():
            made.obsm[name] = values
        if n_proteins:
            made.uns["protein_names"] = np.array([f"protein_{i}" for i in range(n_proteins)])
    if generate_coordinates:
        made.obsm["coordinates"] = draw.normal(size=(n, 2))
    return made


def _named(values: Any, word: str, obs: pd.DataFrame) -> AnnData:
    return AnnData(values, obs=obs, var=pd.DataFrame(index=[f"{word}_{i}" for i in range(values.shape[1])]))


def __getattr__(name: str) -> Any:
    if name in _INSTEAD:
        return unavailable(name, _INSTEAD[name])
    raise AttributeError(f"module 'scduet.scvi.data' has no attribute {name!r}")
