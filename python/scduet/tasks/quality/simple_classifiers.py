"""The classifiers of cell types that a deep model must beat: nearest neighbors, logistic regression, a linear SVM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from scipy.special import softmax

from scduet.tasks.quality.baselines import log_normalized, most_variable, principal_axes

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

KNN, LOGISTIC, SVM = "knn on pca", "logistic regression", "linear svm"  # as the tables call them
N_NEIGHBORS = 15
C_SVM = 0.01  # with 1, liblinear does not converge on thousands of genes, and is less accurate


@dataclass(frozen=True)
class SimpleClassifier:
    """A classifier that was taught some cells of a matrix, and the features of all of its cells."""

    classifier: ClassifierMixin = field(repr=False)
    logged: Any = field(repr=False)  # (cell, gene)
    features: Callable[[Any], np.ndarray] = field(repr=False)

    def predict(self, rows: Int[np.ndarray, " cell"]) -> pd.DataFrame:
        """Probability of each type (cell x type); of a linear SVM the softmax of its margins, not calibrated."""
        method: Any = self.classifier
        features = self.features(self.logged[rows])
        if hasattr(method, "predict_proba"):
            share = method.predict_proba(features)
        else:
            margin = method.decision_function(features)
            share = softmax(np.stack([-margin, margin], 1) if margin.ndim == 1 else margin, axis=1)
        return pd.DataFrame(share, columns=method.classes_)


def simple_classifiers(x, n_reference: int, shown: Int[np.ndarray, " shown"], labels) -> dict[str, SimpleClassifier]:
    """All three, taught the `labels` (one a reference cell) of the cells `shown`.

    x: counts (cell, gene), or log-normalized; the first `n_reference` cells are the reference, and only these decide on
    genes and principal components.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import LinearSVC

    logged = log_normalized(x)
    genes = most_variable(logged[:n_reference])
    mean, axes = principal_axes(logged[:n_reference][:, genes])
    knn = KNeighborsClassifier(min(N_NEIGHBORS, len(shown)))
    linear = {LOGISTIC: LogisticRegression(max_iter=1000), SVM: LinearSVC(C=C_SVM, random_state=0)}
    methods = {
        KNN: SimpleClassifier(knn, logged, lambda cells: np.asarray(cells[:, genes] @ axes) - mean @ axes),
        **{name: SimpleClassifier(one, logged, lambda cells: cells.astype(np.float32)) for name, one in linear.items()},
    }
    for method in methods.values():
        method.classifier.fit(method.features(logged[shown]), labels[shown].astype(str))  # pyright: ignore[reportAttributeAccessIssue]
    return methods
