"""What a single-cell reference says of its types: mean profiles, RNA content, marker genes, and which look alike."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float

from scduet.data.checks import check_key
from scduet.data.counts import counts_of
from scduet.data.labels import labels_of
from scduet.errors import DataError, OptionError, ScduetWarning, some

FEW_CELLS = 10  # of a type: below, the mean of a gene is mostly noise
TWICE = 1.0  # log2 fold change against every other type that makes a gene a marker
LEAST_CHANGE = 0.25  # log2 fold change below which a gene is not chosen as a marker
PER_CELL = 1e4  # counts that cells are scaled to before genes are compared
OFFSET = 0.1  # added to those means, so that genes with hardly any count do not look specific


@dataclass(frozen=True)
class Reference:
    """Types of an annotated reference, over all of its genes."""

    genes: pd.Index
    types: pd.Index
    profile: Float[np.ndarray, "type gene"]  # mean share of each gene in a cell's counts
    total: Float[np.ndarray, " type"]  # mean total count of a cell
    n_cells: np.ndarray  # of each type
    variance: Float[np.ndarray, " gene"]  # of log(1 + counts per 10,000), over cells
    pooled: Float[np.ndarray, " gene"]  # sum of counts over all cells

    def on(self, genes: pd.Index) -> Float[np.ndarray, "type gene"]:
        """The profiles of these genes, which need not sum to 1."""
        return self.profile[:, self.genes.get_indexer(genes)]

    def fold_changes(self, genes: pd.Index) -> Float[np.ndarray, "type gene"]:
        """log2 of the mean of a type over that of the type with the next highest (or a higher) one."""
        level = np.log2(self.on(genes) * PER_CELL + OFFSET)
        second, first = np.sort(level, axis=0)[-2:]
        return level - np.where(level == first, second, first)


def learn(reference: AnnData, labels_key: str, layer: str | None) -> Reference:
    """The types of the column `labels_key` of obs. Cells without a label are left out.

    Raises DataError for fewer than two types, and for cells that hold no raw counts; warns of types with few cells.
    """
    if not isinstance(reference, AnnData) or reference.isbacked:
        raise DataError(f"the reference is {type(reference).__name__}", "pass an AnnData in memory, with raw counts")
    check_key("labels_key", labels_key)
    names, column = labels_of(reference, labels_key, "unlabeled")
    genes, counts = counts_of(reference, layer, tuple(reference.var_names))
    types = [name for name in column.names if name != "unlabeled"]
    kind = pd.Index(types).get_indexer(pd.Index(names))
    known = np.flatnonzero(kind >= 0)
    members = sp.csr_matrix((np.ones(len(known)), (kind[known], known)), shape=(len(types), len(kind)))
    n_cells, total = np.bincount(kind[known]), np.asarray(counts.sum(1), np.float64).ravel()
    _warn_of_few(types, n_cells)
    share = sp.csr_matrix(sp.diags(1 / total) @ counts)
    profile = (members @ share).toarray() / n_cells[:, None]
    pooled = np.asarray(counts[known].sum(0), np.float64).ravel()
    mean_total = members @ total / n_cells
    return Reference(pd.Index(genes), pd.Index(types), profile, mean_total, n_cells, _variance(share[known]), pooled)


def check_known(reference: AnnData, labels_key: str, types: Iterable[str]) -> None:
    """Raise OptionError for types that the reference does not have."""
    known = set(reference.obs[labels_key].astype(str)) if labels_key in reference.obs else set(types)
    unknown = [kind for kind in types if kind not in known]
    if unknown:
        raise OptionError(f"no type {some(unknown)} in the reference", f"there are {some(sorted(known), 20)}")


def most_variable(reference: Reference, genes: pd.Index, n_genes: int) -> pd.DataFrame:
    """Those of `genes` that vary most between cells of the reference, in their order, with the variance."""
    variance = reference.variance[reference.genes.get_indexer(genes)]
    chosen = np.sort(np.argsort(-variance, kind="stable")[:n_genes])
    return pd.DataFrame({"variance": variance[chosen]}, genes[chosen])


def markers(reference: Reference, genes: pd.Index, n_genes: int) -> pd.DataFrame:
    """Up to `n_genes` of `genes` for each type with the largest fold change against the next best type.

    Rows in the order of `genes`, with the type and its log2 fold change.
    """
    change = reference.fold_changes(genes)
    best = np.argsort(-change, axis=1, kind="stable")[:, :n_genes]
    chosen = np.zeros(change.shape, bool)
    np.put_along_axis(chosen, best, True, axis=1)
    chosen &= change > LEAST_CHANGE
    kept = np.flatnonzero(chosen.any(0))
    top = change[:, kept].argmax(0)
    table = {"type": reference.types[top], "log2_fold_change": change[top, kept]}
    return pd.DataFrame(table, genes[kept])


def described(reference: Reference, genes: pd.Index) -> pd.DataFrame:
    """A row for each type: n_cells, mean_total, n_markers (genes at least twice as high as in any other type), nearest
    (the type with the most similar profile) and correlation (Pearson with it, over logs).
    """
    level = np.log2(reference.on(genes) * PER_CELL + OFFSET)
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = np.nan_to_num(np.corrcoef(level))
    np.fill_diagonal(alike, -np.inf)
    nearest = alike.argmax(1)
    table = {
        "n_cells": reference.n_cells,
        "mean_total": reference.total,
        "n_markers": (reference.fold_changes(genes) >= TWICE).sum(1),
        "nearest": reference.types[nearest],
        "correlation": alike.max(1),
    }
    return pd.DataFrame(table, reference.types)


def _variance(share: sp.csr_matrix) -> Float[np.ndarray, " gene"]:
    logged = share.copy()
    logged.data = np.log1p(logged.data * PER_CELL)
    mean = np.asarray(logged.mean(0)).ravel()
    logged.data = logged.data**2
    return np.asarray(logged.mean(0)).ravel() - mean**2


def _warn_of_few(types: list[str], n_cells: np.ndarray) -> None:
    few = [f"{kind} ({n})" for kind, n in zip(types, n_cells, strict=True) if n < FEW_CELLS]
    if few:
        advice = "merge them with a similar type, or use a larger reference"
        message = (
            f"types with fewer than {FEW_CELLS} cells in the reference have noisy profiles: {some(few, 9)}; {advice}"
        )
        warnings.warn(message, ScduetWarning, stacklevel=4)
