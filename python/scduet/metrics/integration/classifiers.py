"""The CELLxGENE Census metrics: accuracy of classifiers for labels and batches on the embedding."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from scduet.metrics.core.inputs import Undefined, at_least_two, codes, points

Classifier = Literal["svm", "forest", "logistic"]
MAX_CELLS = 20_000  # cells used for classifiers; a kernel SVM is quadratic in cells


def svm_label(x: ArrayLike, labels: ArrayLike, stratify: bool = False, seed: int = 42) -> float:
    """Held-out accuracy of an SVM (rbf, C = 1) for the labels, trained on 60 % of the cells, tested on 40 %.

    Range [0, 1], higher is better. Cells are split at random, not by donor, so the test is easy. scikit-learn's
    defaults. Source: CELLxGENE Census embedding benchmark 2024.

    Raises:
        Undefined: one label, or `stratify` with a label of one cell.
    """
    return _label_accuracy(x, labels, "svm", stratify, seed)


def forest_label(x: ArrayLike, labels: ArrayLike, stratify: bool = False, seed: int = 42) -> float:
    """As `svm_label`, with a random forest of 100 trees."""
    return _label_accuracy(x, labels, "forest", stratify, seed)


def logistic_label(x: ArrayLike, labels: ArrayLike, stratify: bool = False, seed: int = 42) -> float:
    """As `svm_label`, with logistic regression (100 iterations, unscaled; a warning says if it did not converge)."""
    return _label_accuracy(x, labels, "logistic", stratify, seed)


def svm_batch(x: ArrayLike, batch: ArrayLike, stratify: bool = False, seed: int = 42) -> float:
    """1 - held-out accuracy of an SVM for the batch: higher is better.

    Range [0, 1]; the ceiling is not 1 but 1 - the share of the largest batch. Source: as `svm_label`.
    """
    return 1 - _label_accuracy(x, batch, "svm", stratify, seed, "batch")


def forest_batch(x: ArrayLike, batch: ArrayLike, stratify: bool = False, seed: int = 42) -> float:
    """As `svm_batch`, with a random forest of 100 trees."""
    return 1 - _label_accuracy(x, batch, "forest", stratify, seed, "batch")


def logistic_batch(x: ArrayLike, batch: ArrayLike, stratify: bool = False, seed: int = 42) -> float:
    """As `svm_batch`, with logistic regression."""
    return 1 - _label_accuracy(x, batch, "logistic", stratify, seed, "batch")


def _label_accuracy(
    x: ArrayLike, target: ArrayLike, kind: Classifier, stratify: bool, seed: int, name: str = "labels"
) -> float:
    x = points(x)
    return held_out_accuracy(x, codes(target, name, len(x)), kind, stratify, seed)[0]


def held_out_accuracy(
    x: Float[np.ndarray, "cell dim"],
    target: Int[np.ndarray, " cell"],
    kind: Classifier,
    stratify: bool = False,
    seed: int = 42,
) -> tuple[float, float]:
    """Accuracy on the 40 % of cells held out, and its binomial standard error."""
    from sklearn.model_selection import train_test_split

    at_least_two(target, "a classifier", "classes")
    if len(x) < 5 or (stratify and np.bincount(target).min() < 2):
        raise Undefined("a 60/40 split needs 5 cells and, stratified, two cells of every class")
    split = train_test_split(x, target, test_size=0.4, random_state=seed, stratify=target if stratify else None)
    known, held, known_target, held_target = split
    if len(np.unique(known_target)) < 2:
        raise Undefined("the 60 % of cells to train on have only one class")
    accuracy = float(_classifier(kind, seed).fit(known, known_target).score(held, held_target))
    return accuracy, float(np.sqrt(accuracy * (1 - accuracy) / len(held)))


def _classifier(kind: Classifier, seed: int):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    makers = {
        "svm": SVC,
        "forest": lambda: RandomForestClassifier(random_state=seed),
        "logistic": LogisticRegression,
    }
    return makers[kind]()
