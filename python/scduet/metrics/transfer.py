"""Label transfer: accuracy, balance and calibration of predicted cell types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import pandas as pd


def accuracy(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Fraction of correct labels (micro-F1). Range [0, 1], higher is better; dominated by common types."""
    truth, predicted = _pair(truth, predicted)
    return float((truth == predicted).mean())


def balanced_accuracy(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Mean recall over the true classes. Range [0, 1], higher is better."""
    return float(per_class(truth, predicted)["recall"].mean())


def macro_f1(truth: ArrayLike, predicted: ArrayLike, union: bool = False) -> float:
    """Unweighted mean of F1 over the true classes. Range [0, 1], higher is better.

    `union=True` counts classes that are only predicted as F1 = 0 too, as scikit-learn and openproblems do.
    """
    f1 = per_class(truth, predicted)["f1"]
    extra = len(np.setdiff1d(*_pair(predicted, truth))) if union else 0
    return float(f1.sum() / (len(f1) + extra))


def weighted_f1(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Mean of F1 over the true classes, weighted by their number of cells. Range [0, 1], higher is better."""
    table = per_class(truth, predicted)
    return float(np.average(table["f1"], weights=table["n_cells"]))


def per_class(truth: ArrayLike, predicted: ArrayLike) -> pd.DataFrame:
    """One row per true class: n_cells, n_predicted, precision (0 if never predicted), recall, f1."""
    import pandas as pd

    table = confusion(truth, predicted)
    found = table.reindex(columns=table.index, fill_value=0)
    hits, size, called = np.diag(found), table.sum(1).to_numpy(), found.sum(0).to_numpy()
    called = called.astype(np.int64)
    columns = {
        "n_cells": size,
        "n_predicted": called,
        "precision": hits / np.maximum(called, 1),
        "recall": hits / size,
        "f1": 2 * hits / (size + called),
    }
    return pd.DataFrame(columns, index=table.index)


def confusion(truth: ArrayLike, predicted: ArrayLike) -> pd.DataFrame:
    """Number of cells, true class (row) by predicted class (column); classes that are only predicted come last."""
    import pandas as pd

    truth, predicted = _pair(truth, predicted)
    rows = np.unique(truth)
    columns = np.concatenate([rows, np.setdiff1d(predicted, rows)])
    counts = np.zeros((len(rows), len(columns)), np.int64)
    place = {name: i for i, name in enumerate(columns)}
    np.add.at(counts, (np.searchsorted(rows, truth), np.array([place[p] for p in predicted])), 1)
    return pd.DataFrame(counts, index=pd.Index(rows, name="truth"), columns=pd.Index(columns, name="predicted"))


def expected_calibration_error(
    truth: ArrayLike, predicted: ArrayLike, confidence: ArrayLike, n_bins: int = 15
) -> float:
    """Mean over cells of |accuracy - confidence| of their bin of confidence. Range [0, 1], lower is better.

    `confidence`: probability of the predicted label, one value a cell in [0, 1]; equal-width bins.
    Source: Guo et al. 2017.

    Raises:
        ValueError: a confidence outside [0, 1].
    """
    truth, predicted = _pair(truth, predicted)
    confidence = np.asarray(confidence, dtype=np.float64)
    if confidence.shape != truth.shape or not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidence is the probability of the predicted label: one value in [0, 1] for each cell")
    bins = np.minimum((confidence * n_bins).astype(np.int64), n_bins - 1)
    gap = np.bincount(bins, (truth == predicted) - confidence)
    return float(np.abs(gap).sum() / len(truth))


def _pair(truth: ArrayLike, predicted: ArrayLike) -> tuple[Int[np.ndarray, " cell"], Int[np.ndarray, " cell"]]:
    """Convert both to strings, so that categories, integers and strings can be compared.

    Raises:
        ValueError: different lengths, no cells, or a cell without a label.
    """
    import pandas as pd

    for name, values in (("truth", truth), ("predicted", predicted)):
        missing = int(pd.isna(np.asarray(values, dtype=object)).sum())
        if missing:
            raise ValueError(f"{name} is missing for {missing} cells; drop these cells, or name them")
    truth, predicted = np.asarray(truth).astype(str), np.asarray(predicted).astype(str)
    if truth.shape != predicted.shape or truth.ndim != 1 or not len(truth):
        raise ValueError(
            f"truth has shape {truth.shape} and predicted {predicted.shape}; expected one value a cell in both"
        )
    return truth, predicted
