"""Judge generated cells beside real ones, and beside real cells whose genes were shuffled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from scduet.data.levels import coded
from scduet.data.main_matrix import matrix_of
from scduet.errors import DataError, OptionError, some
from scduet.metrics.core.inputs import Undefined, dense
from scduet.metrics.generation import (
    copied_share,
    correlation_agreement,
    label_accuracy,
    shuffled_within,
    two_sample_auc,
)
from scduet.metrics.perturbation import energy_distance, mmd
from scduet.options import check_arguments, seed_of
from scduet.tasks.quality.baselines import log_normalized, principal_axes

N_COMPONENTS, N_MARKERS = 50, 100  # principal components; genes whose correlations are compared
LEAST = 20  # cells of a set
WITHIN = 60  # cells that a type needs, in each set, for correlations within it
REAL, SHUFFLED = "real cells", "genes shuffled within types"


@dataclass(frozen=True)
class Sample:
    """Log-normalized cells (cell, gene), and the type of each, if known."""

    x: Float[np.ndarray, "cell gene"]
    labels: np.ndarray | None

    def at(self, rows: np.ndarray) -> Sample:
        return Sample(self.x[rows], None if self.labels is None else self.labels[rows])


def score_generated(
    generated: Any,
    adata: Any,
    *,
    training: Any = None,
    labels_key: str | None = None,
    layer: str | None = None,
    max_cells: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """How well generated cells pass for real ones: a row for each set of cells, two of them for comparison.

    generated: an AnnData, or name -> AnnData, e.g. of `generate_cells`. adata: real cells that no model was trained on.
    training: the cells trained on; None to use half of `adata` in their place, where no copies can then be found.
    labels_key: column with the cell types, in all of them. layer: of `adata` and `training`, with counts or
    log-normalized values; generated cells have them in X. Counts are log-normalized over the genes they share.
    max_cells: cells of each set that are compared.

    Rows: "real cells" (of `training`), "genes shuffled within types" (real cells, each gene shuffled among the cells of
    a type: it has no structure finer than types, and passes most of these tests), and the generated ones. Columns:

    auc_forest, auc_logistic: two-sample classifiers on principal components and on genes; 0.5 is best.
    mmd, energy_distance: in principal components; 0 is best.
    correlations, correlations_within: agreement of the correlations of the most variable genes, over all cells, and
        within types (mean over types with 60 cells or more, else NaN). Where "real cells" are near 0 in the latter, too
        few cells tell anything about structure within types.
    zeros: share of zeros. copied: share of cells nearer to a training cell than 95% of `adata` are; 0.05 is expected.
    type: accuracy with which a classifier of training cells finds the intended type, mean over types; trains: accuracy
        on `adata` of a classifier that was trained on the set.

    Sources: Marouf et al. 2020, Nat Commun 11:166 (scGAN). Principal components are of a third of the training cells
    that is not compared. Raises DataError where genes or columns are missing, or cells are too few.
    """
    check_arguments(max_cells=max_cells)
    draw = np.random.default_rng(seed_of(seed))
    named = dict(generated) if isinstance(generated, Mapping) else {"generated": generated}
    if not named or {REAL, SHUFFLED} & set(named):
        raise OptionError("generated= has no cells, or a name that the table uses", f"names other than {REAL!r}")
    genes = _shared_genes([adata, *named.values(), *([] if training is None else [training])])
    real = _sample(adata, layer, labels_key, genes, "adata")
    known = None if training is None else _sample(training, layer, labels_key, genes, "training")
    if known is None:
        order = draw.permutation(len(real.x))
        real, known = real.at(order[: len(order) // 2]), real.at(order[len(order) // 2 :])
    made = {name: _sample(cells, None, labels_key, genes, name) for name, cells in named.items()}
    order = draw.permutation(len(known.x))
    third = len(order) // 3
    n = min(max_cells, len(real.x), len(order) - third, *(len(cells.x) for cells in made.values()))
    if n < LEAST or third < LEAST:
        remedy = f"give {3 * LEAST} training, {LEAST} real and {LEAST} generated cells at least"
        raise DataError(f"only {n} cells of each set can be compared", remedy)
    mean, axes = principal_axes(known.x[order[:third]], min(N_COMPONENTS, third - 1))
    real, rest = real.at(draw.permutation(len(real.x))[:n]), known.at(np.roll(order, -third))
    judge = _Judge(real, rest, (mean, axes), np.argsort(-known.x[order[:third]].var(0))[:N_MARKERS], seed)
    rows = {REAL: rest.at(np.arange(n))}
    labels = np.zeros(n, int) if rest.labels is None else pd.factorize(rest.labels[:n])[0]
    rows[SHUFFLED] = Sample(shuffled_within(rest.x[:n], labels, seed), rows[REAL].labels)
    rows |= {name: cells.at(draw.permutation(len(cells.x))[:n]) for name, cells in made.items()}
    table = pd.DataFrame({name: judge.row(cells, name == REAL) for name, cells in rows.items()}).T
    table.index.name = "cells"
    table.attrs |= {"n_cells": n, "n_genes": len(genes), "zeros of adata": float((real.x == 0).mean())}
    return table


@dataclass(frozen=True)
class _Judge:
    """Real cells that all sets are compared with, and training cells, of which the last are those of the axes."""

    real: Sample
    training: Sample
    axes: tuple[np.ndarray, np.ndarray]
    markers: np.ndarray
    seed: int

    def row(self, cells: Sample, of_training: bool) -> dict[str, float]:
        a, b = self.points(self.real.x), self.points(cells.x)
        others = self.training.at(np.arange(len(b), len(self.training.x))) if of_training else self.training
        training, enough = self.points(others.x), len(others.x) >= LEAST
        genes = self.real.x[:, self.markers], cells.x[:, self.markers]
        row = {
            "auc_forest": two_sample_auc(a, b, "forest", seed=self.seed),
            "auc_logistic": two_sample_auc(self.real.x, cells.x, "logistic", seed=self.seed),
            "mmd": mmd(a, b),
            "energy_distance": energy_distance(a, b),
            "correlations": _or_nan(correlation_agreement, *genes),
            "correlations_within": self.within(cells),
            "zeros": float((cells.x == 0).mean()),
            "copied": copied_share(b, training, a) if enough else np.nan,
        }
        if cells.labels is None or others.labels is None or self.real.labels is None:
            return row
        told = enough and len(np.unique(others.labels)) > 1
        teaches = len(np.unique(cells.labels)) > 1
        row["type"] = label_accuracy(training, others.labels, b, cells.labels, self.seed) if told else np.nan
        row["trains"] = label_accuracy(b, cells.labels, a, self.real.labels, self.seed) if teaches else np.nan
        return row

    def points(self, x: np.ndarray) -> Float[np.ndarray, "cell pc"]:
        mean, axes = self.axes
        return (x - mean) @ axes

    def within(self, cells: Sample) -> float:
        if cells.labels is None or self.real.labels is None:
            return np.nan
        found = []
        for label in np.unique(self.real.labels):
            rows = [np.flatnonzero(some.labels == label) for some in (self.real, cells)]
            if min(map(len, rows)) >= WITHIN:
                pair = self.real.x[np.ix_(rows[0], self.markers)], cells.x[np.ix_(rows[1], self.markers)]
                found.append(_or_nan(correlation_agreement, *pair))
        return float(np.mean(found)) if found else np.nan


def _or_nan(metric: Any, *values: Any) -> float:
    try:
        return metric(*values)
    except Undefined:
        return np.nan


def _shared_genes(sets: list[Any]) -> pd.Index:
    for cells in sets:
        if getattr(cells, "var_names", None) is None:
            raise DataError(f"{type(cells).__name__} is no AnnData", "pass an AnnData, or name -> AnnData")
    genes = sets[1].var_names
    for cells in sets:
        genes = genes.intersection(cells.var_names, sort=False)
    if len(genes) < 3:
        raise DataError(f"the sets of cells share {len(genes)} genes", "are names symbols in one and ids in the other?")
    return genes


def _sample(adata: Any, layer: str | None, key: str | None, genes: pd.Index, what: str) -> Sample:
    """Log-normalized values of these genes; cells without a type are left out."""
    x = matrix_of(adata, layer)
    if x is None:
        raise DataError(f"{what} has no X", "pass layer=")
    values = dense(log_normalized(x[:, adata.var_names.get_indexer(genes)])).astype(np.float32)
    if key is None:
        return Sample(values, None)
    if key not in adata.obs:
        raise DataError(f"no column {key!r} in obs of {what}", f"it has {some(adata.obs.columns, 9)}")
    labels = coded(adata.obs[key], key).texts
    known = np.array([label is not None for label in labels], bool)
    return Sample(values[known], labels[known].astype(str))
