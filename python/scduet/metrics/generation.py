"""How generated cells differ from real ones: two-sample classifiers, correlations of genes, copies."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from scduet.metrics.core.inputs import Undefined, points

N_TREES = 100


def two_sample_auc(
    real: ArrayLike, generated: ArrayLike, classifier: str = "forest", n_folds: int = 5, seed: int = 0
) -> float:
    """Area under the ROC curve of a classifier that tells generated from real cells (cell, dim), cross-validated.

    0.5: it cannot, lower is better, 1: always. classifier: "forest" (random) or "logistic" (of standardized columns).
    Source: Lopez-Paz and Oquab 2017, Revisiting classifier two-sample tests; as in scGAN (Marouf et al. 2020).

    Raises:
        Undefined: fewer cells in a group than folds.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    real, generated = points(real, "real"), points(generated, "generated")
    if min(len(real), len(generated)) < n_folds:
        raise Undefined(f"needs {n_folds} cells in each group")
    made = np.repeat([0, 1], [len(real), len(generated)])
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    inputs = np.vstack([real, generated])
    share = cross_val_predict(_classifier(classifier, seed), inputs, made, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(made, share))


def correlation_agreement(real: ArrayLike, generated: ArrayLike) -> float:
    """Pearson correlation between the gene-gene correlations of real and of generated cells (cell, gene).

    Range [-1, 1], higher is better; compare with the value of other real cells, which is below 1 for few cells. Genes
    that do not vary correlate 0 with all others.

    Raises:
        Undefined: correlations that do not differ, as of fewer than three genes.
    """
    first, second = _correlations(points(real, "real")), _correlations(points(generated, "generated"))
    if first.shape != second.shape or len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        raise Undefined("needs three genes that vary, the same in both")
    return float(np.corrcoef(first, second)[0, 1])


def copied_share(generated: ArrayLike, training: ArrayLike, real: ArrayLike, quantile: float = 0.05) -> float:
    """Share of generated cells that are nearer to a training cell than all but `quantile` of real cells are.

    real: held-out cells, not among `training`. About `quantile` for cells like the held-out ones; 1 for copies. Range
    [0, 1]; also high for cells that all lie in the middle of many training cells.
    """
    near_real = _nearest(points(real, "real"), points(training, "training"))
    near = _nearest(points(generated, "generated"), points(training, "training"))
    return float((near < np.quantile(near_real, quantile)).mean())


def label_accuracy(
    training: ArrayLike, labels: ArrayLike, cells: ArrayLike, cell_labels: ArrayLike, seed: int = 0
) -> float:
    """Accuracy on `cells` of a logistic regression of `training` (cell, dim), each label weighing the same. [0, 1]."""
    fitted = _classifier("logistic", seed, balanced=True).fit(points(training, "training"), np.asarray(labels))
    found = fitted.predict(points(cells, "cells"))
    truth = np.asarray(cell_labels)
    return float(np.mean([(found == truth)[truth == label].mean() for label in np.unique(truth)]))


def shuffled_within(
    values: ArrayLike, labels: Int[np.ndarray, " cell"], seed: int = 0
) -> Float[np.ndarray, "cell gene"]:
    """Cells in which each gene was shuffled by itself among the cells of a label: no genes go together within it."""
    draw, shuffled = np.random.default_rng(seed), np.array(values)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        shuffled[rows] = draw.permuted(shuffled[rows], axis=0)
    return shuffled


def _classifier(name: str, seed: int, balanced: bool = False):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    weight = "balanced" if balanced else None
    if name == "forest":
        return RandomForestClassifier(N_TREES, random_state=seed, min_samples_leaf=2)
    if name != "logistic":
        raise ValueError(f"classifier={name!r}; it is forest or logistic")
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300, class_weight=weight))


def _correlations(x: Float[np.ndarray, "cell gene"]) -> Float[np.ndarray, " pair"]:
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.nan_to_num(np.corrcoef(x, rowvar=False))
    return np.atleast_2d(found)[np.triu_indices(x.shape[1], 1)]


def _nearest(
    cells: Float[np.ndarray, "cell dim"], others: Float[np.ndarray, "other dim"]
) -> Float[np.ndarray, " cell"]:
    from scipy.spatial import cKDTree

    return cKDTree(others).query(cells)[0]
