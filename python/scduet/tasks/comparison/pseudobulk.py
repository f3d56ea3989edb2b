"""Sums of counts over the cells of a sample and type, and DESeq2 on them: tests whose replicates are samples.

Cells of one donor are not independent, so that tests on cells call far too many genes between conditions (Squair et al.
2021, Nature Communications 12:5692). DESeq2: Love et al. 2014; PyDESeq2: Muzellec et al. 2023.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scduet.data.checks import check_key
from scduet.data.counts import counts_of
from scduet.data.levels import coded, text
from scduet.data.locate import column, var_of_main
from scduet.data.schema import on_disk
from scduet.errors import DataError, OptionError
from scduet.options import check_arguments
from scduet.tasks.comparison.groups import comparisons

MIN_CELLS = 10  # of a sum that is kept
MIN_COUNTS = 10  # of a gene that is tested, over all samples


def pseudobulk(
    adata: AnnData, sample_key: str, groupby: str | None = None, *, layer: str | None = None, min_cells: int = MIN_CELLS
) -> AnnData:
    """Sum the raw counts of the cells of each sample, within each level of `groupby`.

    adata: AnnData or the path of a file, with raw counts (cell, gene) in X or in `layer`; all its genes are used.
    sample_key: column of obs with the sample, e.g. the donor, or the donor and condition.
    groupby: column of obs with the cell type; None sums all cells of a sample.
    min_cells: sums of fewer cells are left out.

    Returns AnnData (sum x gene) with whole numbers in X, named "sample" or "sample_type", as edgeR, limma and DESeq2
    take them. obs has `sample_key`, `groupby`, n_cells, and the columns of `adata.obs` that do not differ within a sum,
    such as the condition. Cells without a sample or type are left out.

    Raises DataError for values that are no counts, and if no sum has `min_cells` cells.
    """
    for option, key in {"sample_key": sample_key, "groupby": groupby}.items():
        if key is not None:
            check_key(option, key)
    check_arguments(min_cells=min_cells)
    adata = on_disk(adata)
    keys = [sample_key] if groupby is None else [sample_key, groupby]
    levels = [coded(column(adata, key), key) for key in keys]
    genes, counts = counts_of(adata, layer, list(var_of_main(adata, layer).index))
    codes = np.stack([level.code for level in levels], 1)
    cells = np.flatnonzero((codes >= 0).all(1))
    found, place, n_cells = np.unique(codes[cells], axis=0, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    if not (n_cells >= min_cells).any():
        raise DataError(f"no sample has {min_cells} cells", "set min_cells lower, or check sample_key and groupby")
    sums = sp.csr_matrix((np.ones(len(cells)), (place, cells)), (len(found), adata.n_obs)) @ counts.astype(np.float64)
    own = adata.obs.iloc[cells]
    constant = [name for name in own if name not in ("n_cells", *keys) and _is_constant(own[name], place)]
    obs = own[[*keys, *constant]].iloc[np.unique(place, return_index=True)[1]].copy()
    obs["n_cells"] = n_cells
    named = [np.array(level.names)[code] for level, code in zip(levels, found.T, strict=True)]
    obs.index = pd.Index(["_".join(names) for names in zip(*named, strict=True)])
    kept = n_cells >= min_cells
    summed = np.rint(sums.toarray()[kept]).astype(np.int64)
    return AnnData(summed, obs=obs[kept], var=var_of_main(adata, layer).loc[genes].copy())


def deseq2(
    adata: AnnData,
    groupby: str | None,
    group1: Any = None,
    group2: Any = None,
    *,
    sample_key: str | None,
    layer: str | None = None,
    fdr_target: float = 0.05,
) -> pd.DataFrame:
    """DESeq2 on the sums of counts of each sample; see `differential_expression(method="pydeseq2")`."""
    if find_spec("pydeseq2") is None:
        raise OptionError("method='pydeseq2' needs the package pydeseq2", "pip install 'scduet[pydeseq2]'")
    if groupby is None or sample_key is None:
        raise OptionError("method='pydeseq2' needs groupby= and sample_key=", "its replicates are samples")
    if groupby == sample_key:
        raise OptionError(f"groupby and sample_key are both {groupby!r}", "groups are compared over several samples")
    check_arguments(fdr_target=fdr_target)
    sums = pseudobulk(adata, sample_key, groupby, layer=layer)
    tables = [
        _compared(sums, names, rows1, rows2, sample_key, fdr_target)
        for names, rows1, rows2 in comparisons(sums, groupby, group1, group2, None, None)
    ]
    result = pd.concat(tables)
    result.attrs["designs"] = [table.attrs["design"] for table in tables]
    return result


def _compared(sums: AnnData, names: tuple[Any, Any], first, second, sample_key: str, fdr_target: float) -> pd.DataFrame:
    """One row a gene, the surest first."""
    from pydeseq2.dds import DeseqDataSet
    from pydeseq2.ds import DeseqStats

    chosen = sums[np.concatenate([first, second])]
    group = np.repeat(["group1", "group2"], [len(first), len(second)])
    table = pd.DataFrame({"group": group, "sample": chosen.obs[sample_key].astype(str).to_numpy()}, chosen.obs_names)
    design = _design(table, names)
    chosen = chosen[:, np.asarray(chosen.X).sum(0) >= MIN_COUNTS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyDESeq2 tells of each gene whose trend it replaces
        data = DeseqDataSet(counts=chosen.to_df(), metadata=table, design=design, quiet=True, n_cpus=1)
        data.deseq2()
        tests = DeseqStats(data, contrast=["group", "group1", "group2"], alpha=fdr_target, quiet=True, n_cpus=1)
        tests.summary()
    found = tests.results_df
    names_of = {"baseMean": "mean", "log2FoldChange": "lfc", "lfcSE": "lfc_se", "padj": "pvalue_adjusted"}
    found = found.rename(columns=names_of)[["mean", "lfc", "lfc_se", "stat", "pvalue", "pvalue_adjusted"]]
    found[f"is_de_fdr_{fdr_target:g}"] = (found["pvalue_adjusted"] < fdr_target).fillna(False)
    found["comparison"] = " vs ".join(map(text, names))
    found["group1"], found["group2"] = names
    found["n_samples1"], found["n_samples2"] = len(first), len(second)
    found.attrs["design"] = design
    return found.sort_values("pvalue", kind="stable", na_position="last")


def _design(table: pd.DataFrame, names: tuple[Any, Any]) -> str:
    """Paired by sample where samples have both groups and a degree of freedom is left. DataError for one sample."""
    shown = " vs ".join(map(text, names))
    by_group = table.groupby("group")["sample"].nunique()
    if by_group.min() < 2:
        raise DataError(f"{shown}: a group has one sample only", "DESeq2 needs two or more samples in each group")
    is_group1 = table["group"] == "group1"
    both = set(table["sample"][is_group1]) & set(table["sample"][~is_group1])
    columns = pd.get_dummies(table[["sample", "group"]]).to_numpy(float)
    n_parameters = table["sample"].nunique() + 1
    if len(both) >= 2 and np.linalg.matrix_rank(columns) == n_parameters < len(table):
        return "~ sample + group"
    return "~ group"


def _is_constant(values: pd.Series, place: np.ndarray) -> bool:
    """Do all cells of each sum have one value?"""
    code = pd.factorize(values)[0]
    first = np.unique(place, return_index=True)[1]
    return bool((code == code[first][place]).all())
