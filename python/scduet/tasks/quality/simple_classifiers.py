"""The classifiers of cell types that a deep model must beat: nearest neighbors on PCA, and logistic regression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from scduet.tasks.quality.baselines import log_normalized, most_variable, principal_axes

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

KNN, LOGISTIC = "knn on pca", "logistic regression"  # as the tables call them
N_NEIGHBORS = 15


@dataclass(frozen=True)
class SimpleClassifier:
    """A classifier that was taught some cells of a matrix, and the features of all of its cells."""

    classifier: ClassifierMixin = field(repr=False)
    logged: Any = field(repr=False)  # (cell, gene)
    features: Callable[[Any], np.ndarray] = field(repr=False)

    def predict(self, rows: Int[np.ndarray, " cell"]) -> pd.DataFrame:
        """Probability of each type (cell x type)."""
        share = self.classifier.predict_proba(self.features(self.logged[rows]))  # pyright: ignore[reportAttributeAccessIssue]
        return pd.DataFrame(share, columns=self.classifier.classes_)  # pyright: ignore[reportAttributeAccessIssue]


def simple_classifiers(x, n_reference: int, shown: Int[np.ndarray, " shown"], labels) -> dict[str, SimpleClassifier]:
    """Both, taught the `labels` (one a reference cell) of the cells `shown`.

    x: counts (cell, gene), or log-normalized; the first `n_reference` cells are the reference, and only these decide on
    genes and principal components.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    logged = log_normalized(x)
    genes = most_variable(logged[:n_reference])
    mean, axes = principal_axes(logged[:n_reference][:, genes])
    knn, logistic = KNeighborsClassifier(min(N_NEIGHBORS, len(shown))), LogisticRegression(max_iter=1000)
    methods = {
        KNN: SimpleClassifier(knn, logged, lambda cells: np.asarray(cells[:, genes] @ axes) - mean @ axes),
        LOGISTIC: SimpleClassifier(logistic, logged, lambda cells: cells.astype(np.float32)),
    }
    for method in methods.values():
        method.classifier.fit(method.features(logged[shown]), labels[shown].astype(str))  # pyright: ignore[reportAttributeAccessIssue]
    return methods
