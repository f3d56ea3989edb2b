"""What the counts of two groups say without a model: means, detection, fold change; and which genes to test."""

from __future__ import annotations

from scduet._torch import torch

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from scduet.api import Model
from scduet.data.sources import Cells, MemorySource, Source
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.metrics.core.threads import thread_map
from scduet.nn.kernels.pairs import add_counts
from scduet.options import check_arguments

PER_CELL = 10_000.0  # total that raw means are normalized to
PIECE = 2048  # cells whose counts are summed together
PSEUDOCOUNT = 1.0  # added to the normalized counts of a whole group, as in Seurat 5
DETECTED = "non_zeros_proportion"

GroupCounts = Mapping[str, Float[np.ndarray, " gene"]]


@dataclass(frozen=True)
class GeneFilter:
    """Which genes are tested: the arguments of Seurat's FindMarkers."""

    min_pct: float
    lfc_threshold: float
    only_pos: bool

    def __post_init__(self):
        check_arguments(min_pct=self.min_pct, lfc_threshold=self.lfc_threshold)

    def tested(self, raw: GroupCounts | None, n_genes: int) -> Bool[np.ndarray, " gene"]:
        """Genes that are detected and differ enough in the counts; all, where the cells have none any more."""
        if raw is None:
            return np.ones(n_genes, bool)
        detected = np.fmax(raw[f"{DETECTED}1"], raw[f"{DETECTED}2"]) >= self.min_pct
        return detected & (np.abs(raw["raw_lfc"]) >= self.lfc_threshold)


def group_counts(
    counts: Source,
    own: Float[np.ndarray, " cell"],
    totals: Float[np.ndarray, " cell"],
    *groups: Int[np.ndarray, " cell"],
) -> GroupCounts:
    """Columns of the table that need no model, in the order of scvi-tools, and `raw_lfc`.

    counts: of the model's features; what is NaN was not measured, and counts neither here nor there. own: their totals.
    raw_mean1 and 2, non_zeros_proportion1 and 2 (share of cells with any count), raw_normalized_mean1 and 2 (per 10,000
    counts of the model's genes). raw_lfc: log2 fold change of the means per 10,000 counts of all genes (`totals`), as
    avg_log2FC in Seurat 5: one normalized count is added to the sum of each group.
    """
    n_threads = torch.get_num_threads()
    parts = [part for rows in groups for part in np.array_split(rows, n_threads)]
    sums = np.split(np.stack(thread_map(partial(_summed, counts, own, totals), parts, n_threads)), len(groups))
    means, sizes, columns = [], [], {}
    for group in sums:
        *values, n = group.sum(0)
        sizes.append(np.maximum(n, 1))
        means.append(np.where(n > 0, values / sizes[-1], np.nan))
    for i, name in enumerate(("raw_mean", DETECTED, "raw_normalized_mean")):
        columns |= {f"{name}{group}": mean[i] for group, mean in enumerate(means, 1)}
    logs = [np.log2(mean[3] + PSEUDOCOUNT / n) for mean, n in zip(means, sizes, strict=True)]
    return {**columns, "raw_lfc": logs[0] - logs[1]}


def totals_of(model: Model, adata, cells: Cells, key: str | None) -> Float[np.ndarray, " cell"]:
    """Total count of each cell: obs[key], else the sum over all genes of the data, not only those of the model."""
    if key is not None:
        return _column_of_totals(adata, key)
    return cells.total if adata.n_vars == len(model.genes) else model.schema.totals(adata)


def _column_of_totals(adata, key: str) -> Float[np.ndarray, " cell"]:
    if key not in adata.obs:
        raise DataError(f"no column {key!r} in adata.obs", f"it has {some(adata.obs.columns, 12)}")
    totals = pd.to_numeric(adata.obs[key], errors="coerce").to_numpy(float)
    if not (totals > 0).all():
        cells = adata.obs_names[~(totals > 0)]
        raise DataError(
            f"{len(cells)} cells have no total above 0 in obs[{key!r}]: {some(cells)}", "correct the column"
        )
    return totals


def _summed(source: Source, own: np.ndarray, totals: np.ndarray, rows: np.ndarray) -> Float[np.ndarray, "5 feature"]:
    """Sums over cells: of the counts of each feature, of whether there are any, of the counts per 10,000 of the model's
    features, and per 10,000 of all; and in how many cells it was measured."""
    sums, n = np.zeros((source.n_genes, 4)), np.zeros(source.n_genes)
    for start in range(0, len(rows), PIECE):
        index = rows[start : start + PIECE]
        if isinstance(source, MemorySource) and source.genes is None:
            counts, places = source.matrix, index
        else:
            counts, places = source.rows(index), np.arange(len(index))
        per_model, per_all = (PER_CELL / np.maximum(t[index].astype(float), 1e-12) for t in (own, totals))
        if isinstance(counts, np.ndarray):
            n += (~np.isnan(counts)).sum(0)
            counts = np.nan_to_num(counts)
            sums += np.stack([counts.sum(0), (counts != 0).sum(0), per_model @ counts, per_all @ counts], 1)
        else:
            n += len(index)
            add_counts(counts.data, counts.indices, counts.indptr, places, per_model, per_all, sums)
    return np.vstack([sums.T, n])


def without_counts(chosen: GeneFilter) -> GeneFilter:
    """The filter for minified cells. Raises OptionError where it needs counts, warns of what is not applied."""
    if chosen.lfc_threshold:
        raise OptionError("minified cells have no counts for lfc_threshold", "pass the cells themselves")
    if chosen.min_pct:
        message = "minified cells have no counts: min_pct is not applied, genes that were hardly measured may be called"
        warnings.warn(message, ScduetWarning, stacklevel=4)
    return replace(chosen, min_pct=0.0)
