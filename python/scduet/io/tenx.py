"""Reads the folders and .h5 files of 10x Genomics' Cell Ranger and similar tools, also as deposited in GEO."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.utils import make_index_unique
from scipy.io import mmread

from scduet.errors import FormatError, ScduetWarning, some

GENES = "Gene Expression"
MATRIX = ("matrix.mtx", "matrix.mtx.gz")
HEADERS = {"", "x", "v1", "id", "index", "barcode", "barcodes", "cell", "cells", "cell_id", "cellid", "gene", "genes",
           "gene_id", "gene_ids", "geneid", "gene_name", "symbol", "feature", "features", "feature_id"}  # fmt: skip
OF_FEATURES = {
    "id": "gene_ids",
    "feature_type": "feature_types",
    "genome": "genome",
    "interval": "interval",
}  # in the file, and in var


def read_folder(path: Path) -> AnnData:
    """matrix.mtx (gene, cell), barcodes.tsv and features.tsv or genes.tsv, each gzipped or not (STARsolo's are not).

    Names may have a prefix, as in GEO: GSM123_matrix.mtx.gz; with several in one folder, path is FOLDER/PREFIX. A
    header line is skipped, and a matrix of cells x genes is recognized by the numbers of lines. Raises FormatError if
    these do not match.
    """
    folder, prefix = _prefixed(path)
    counts = sp.csr_matrix(mmread(one_of(folder, prefix, "matrix.mtx")))
    features = table(one_of(folder, prefix, "features.tsv", "genes.tsv"))
    barcodes = table(one_of(folder, prefix, "barcodes.tsv"))
    shape = len(features), len(barcodes)
    if shape == counts.shape:
        counts = counts.T
    elif shape == counts.shape[::-1]:
        warnings.warn(f"the matrix in {path} has cells as rows and was read accordingly", ScduetWarning, stacklevel=4)
    else:
        lines = f"{shape[0]} features and {shape[1]} barcodes"
        raise FormatError(f"{path} has {lines} for a matrix of {counts.shape[0]} x {counts.shape[1]}", "copy it again")
    symbols = features[1] if features.shape[1] > 1 else features[0]
    var = pd.DataFrame({"gene_ids": features[0].to_numpy()}, index=pd.Index(symbols.to_numpy()))
    if features.shape[1] > 2:
        var["feature_types"] = features[2].to_numpy()
    if features.shape[1] > 5:  # of Cell Ranger ARC
        places = features[[3, 4, 5]].to_numpy()
        var["interval"] = [f"{chromosome}:{start}-{end}" for chromosome, start, end in places]
    return genes_first(
        AnnData(sp.csr_matrix(counts, dtype=np.float32), obs=pd.DataFrame(index=barcodes[0].to_numpy()), var=var)
    )


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder of such files, or FOLDER/PREFIX of some of them."""
    return bool(_prefixes(path) if path.is_dir() else path.parent.is_dir() and path.name in _prefixes(path.parent))


def read_h5(path: Path) -> AnnData:
    """Read Cell Ranger's .h5 of any version, with the genes of all genomes; or an .h5ad named .h5."""
    import h5py

    with h5py.File(path, "r") as root:
        if "obs" in root and "var" in root:
            return anndata.read_h5ad(path)
        groups = ["matrix"] if "matrix" in root else [name for name in root if "barcodes" in root[name]]
        if not groups:
            raise FormatError(f"{path} is neither 10x nor AnnData: it contains {some(root)}", "is it another format?")
        parts = [_matrix(root[name], None if name == "matrix" else name) for name in groups]
    cells = parts[0].obs_names
    if any(not part.obs_names.equals(cells) for part in parts):
        remedy = "read one, with scanpy.read_10x_h5(genome=...), and write an .h5ad"
        raise FormatError(f"{path} has different cells for the genomes {some(groups, 9)}", remedy)
    var = pd.concat([part.var for part in parts])
    return genes_first(AnnData(sp.hstack([part.X for part in parts], "csr"), obs=parts[0].obs, var=var))


def genes_first(adata: AnnData) -> AnnData:
    """Genes as X, and features of each other kind (antibodies, peaks, guides, ...) as an entry of obsm.

    Names are made unique within a kind, as a protein may be called like its gene. What is known of the features of
    another kind is in uns, e.g. uns["Antibody Capture_var"].
    """
    kinds = adata.var["feature_types"].astype(str).to_numpy() if "feature_types" in adata.var else None
    if kinds is None or set(kinds) <= {GENES} or GENES not in set(kinds):
        adata.var_names = make_index_unique(adata.var_names)
        return adata
    genes, *others = (_of_kind(adata, kinds == kind) for kind in (GENES, *sorted(set(kinds) - {GENES})))
    for part in others:
        kind = part.var["feature_types"].iloc[0]
        genes.obsm[kind], genes.uns[f"{kind}_names"] = part.X.tocsr(), part.var_names.to_numpy(str)
        genes.uns[f"{kind}_var"] = part.var
    return genes


def _of_kind(adata: AnnData, chosen: np.ndarray) -> AnnData:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Variable names are not unique")
        part = adata[:, chosen].copy()
    part.var_names = make_index_unique(part.var_names)
    return part


def _matrix(group: Any, genome: str | None) -> AnnData:
    """One group of the file: (gene, cell) by columns, which is (cell, gene) by rows. genome: of version 2."""

    def text(place: str) -> np.ndarray:
        return np.array(
            [value.decode() if isinstance(value, bytes) else str(value) for value in group[place][:]], object
        )

    n_genes, n_cells = (int(n) for n in group["shape"][:])
    arrays = (group["data"][:].astype(np.float32), group["indices"][:], group["indptr"][:])
    cells = pd.DataFrame(index=text("barcodes"))
    if genome is not None:
        var = pd.DataFrame({"gene_ids": text("genes"), "genome": genome}, index=text("gene_names"))
    else:
        kept = {column: text(f"features/{name}") for name, column in OF_FEATURES.items() if name in group["features"]}
        var = pd.DataFrame(kept, index=text("features/name"))
    return AnnData(sp.csr_matrix(arrays, shape=(n_cells, n_genes)), obs=cells, var=var)


def _prefixes(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir()]
    return sorted({name.removesuffix(".gz").removesuffix(MATRIX[0]) for name in names if name.endswith(MATRIX)})


def _prefixed(path: Path) -> tuple[Path, str]:
    """The folder, and the prefix of its file names."""
    if not path.is_dir():
        return path.parent, path.name
    prefixes = _prefixes(path)
    if len(prefixes) > 1 and "" not in prefixes:
        raise FormatError(f"{path} contains several samples: {some(prefixes, 9)}", f"pass e.g. {path / prefixes[0]}")
    return path, "" if "" in prefixes else prefixes[0]


def one_of(folder: Path, prefix: str, *names: str) -> Path:
    """The first of `names`, gzipped or not, that exists in `folder`."""
    found = [folder / f"{prefix}{name}{ending}" for name in names for ending in ("", ".gz")]
    if not any(path.exists() for path in found):
        raise FormatError(
            f"no {prefix}{f' or {prefix}'.join(names)}, with or without .gz, in {folder}", "copy it again"
        )
    return next(path for path in found if path.exists())


def table(path: Path) -> pd.DataFrame:
    """The lines of a table, without a header. Raises FormatError for an empty or damaged file."""
    try:
        lines = pd.read_csv(path, sep="\t", header=None, dtype=str, quoting=3, keep_default_na=False)
    except (ValueError, OSError, EOFError) as error:
        raise FormatError(f"{path} cannot be read: {' '.join(str(error).split())}", "copy it again") from error
    return lines.iloc[1:] if lines.iloc[0, 0].strip('"').lower() in HEADERS else lines
