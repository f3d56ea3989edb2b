"""Judge denoisers on one's own cells by held-out molecules and by what they invent, beside means that need no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scduet.data.counts import counts_of
from scduet.errors import DataError
from scduet.events import Listener, counted
from scduet.metrics.imputation import held_out_scores, split_molecules
from scduet.tasks.quality import denoisers
from scduet.tasks.quality.false_signals import Denoise, false_correlations, false_discovery_rate
from scduet.tasks.workflows.denoise import denoiser

METHODS = ("walk", "scvi", "dca")


def compare_denoisers(
    adata,
    methods: Sequence[str] | Mapping[str, Callable[[sp.csr_matrix], Any]] = METHODS,
    *,
    layer: str | None = None,
    labels_key: str | None = None,
    genes=None,
    share: float = 0.9,
    false_signals: bool = True,
    seed: int = 0,
    callback: Listener | None = None,
) -> pd.DataFrame:
    """How well methods predict molecules that they were not shown, and how much they invent: one row a method.

    adata: AnnData with raw counts in X or in `layer`. genes: None for var["highly_variable"], else all.
    methods: names as of `denoise`, with their defaults; or title -> function of counts (CSR) that gives expected
        counts at the same depth. "gene mean" and "no denoising" are always in the table.
    labels_key: cell types, for "type means", and whose two largest types are compared for false discoveries.
    share: of the molecules of each cell that is shown.
    false_signals: also look for what is invented, which takes two more runs of each method.

    Columns: d2, r2 (see `metrics.molecular_cross_validation`; higher is better, "gene mean" is 0); false_correlations,
    share of gene pairs with |r| above 0.3 in data without structure; false_discovery_rate of a t-test on the denoised
    values at a nominal 0.05, NaN without labels. Differences of d2 under about 0.01 are noise.

    Sources: Batson et al. 2019, bioRxiv 786269; Andrews and Hemberg 2018, F1000Research 7:1740.
    """
    _, counts = counts_of(adata, layer, genes)
    labels = _labels(adata, labels_key)
    rows = dict(_rows(methods, labels, seed))
    molecules = split_molecules(counts, share, seed)
    pair = None if labels is None or not false_signals else _largest_pair(labels)
    told, table = counted(callback, "comparing denoisers", "metric"), []
    for done, (title, function) in enumerate(rows.items(), 1):
        found = held_out_scores(molecules, function(molecules.shown, molecules.cells))
        row = {"method": title, "d2": found.d2, "r2": found.r2}
        if false_signals:
            row["false_correlations"] = false_correlations(counts, function, seed)
            row["false_discovery_rate"] = np.nan if pair is None else _discoveries(counts, labels, pair, function, seed)
        table.append(row)
        if told is not None:
            told(done, len(rows), 0.0)
    result = pd.DataFrame(table).set_index("method")
    result.attrs |= {"share": share, "n_cells": len(molecules.cells), "n_genes": len(molecules.genes)}
    return result


def _rows(methods, labels: np.ndarray | None, seed: int) -> Iterator[tuple[str, Denoise]]:
    """Titles and functions of counts and of the places of their cells."""
    yield "gene mean", lambda counts, _: denoisers.gene_mean(counts)
    if labels is not None:
        yield "type means", lambda counts, cells: denoisers.type_means(counts, labels[cells])
    yield "no denoising", lambda counts, _: counts.toarray()
    named = methods if isinstance(methods, Mapping) else {name: denoiser(name, seed) for name in methods}
    for title, function in named.items():
        yield title, lambda counts, _, function=function: function(counts)


def _labels(adata, key: str | None) -> np.ndarray | None:
    if key is None:
        return None
    if key not in adata.obs:
        raise DataError(f"no column {key!r} in adata.obs", f"pass labels_key= with one of {sorted(adata.obs.columns)}")
    return adata.obs[key].astype(str).to_numpy()


def _largest_pair(labels: np.ndarray) -> tuple[str, str] | None:
    levels = pd.Series(labels).value_counts().index
    return (levels[0], levels[1]) if len(levels) > 1 else None


def _discoveries(counts: sp.csr_matrix, labels, pair: tuple[str, str], function: Denoise, seed: int) -> float:
    cells = np.flatnonzero(np.isin(labels, pair))
    of_these: Denoise = lambda x, rows: function(x, cells[rows])  # noqa: E731
    return false_discovery_rate(counts[cells], labels[cells] == pair[0], of_these, seed)
