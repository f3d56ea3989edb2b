"""Metrics of predicted perturbation responses: mean expression, changes relative to `control`, and distributions.

Correlations of raw means are close to 1 for any prediction, even "no change". Use the delta metrics, and compare with
the baselines "no change" and "mean of the training perturbations".

Means of log-normalized cells are compared with those of predicted cells. For count models, sample counts and
log-normalize them before taking the mean: log1p of expected counts is a different quantity. For stimulated CD4 T cells
of Kang et al., predicted by scVI and `shift`, r2 is .94 with sampled counts and .70 with log1p of expected counts.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from scduet.metrics.core.inputs import Undefined, dense, points
from scduet.metrics.core.tiles import group_sums


def pearson(observed: ArrayLike, predicted: ArrayLike, genes: ArrayLike | None = None) -> float:
    """Pearson correlation over genes of mean expression. Range [-1, 1]; 0.99 for "no change": not informative."""
    return _pearson(*_means(observed, predicted, genes=genes))


def pearson_delta(
    observed: ArrayLike, predicted: ArrayLike, control: ArrayLike, genes: ArrayLike | None = None
) -> float:
    """Pearson correlation over genes of the changes against control, e.g. on `top_genes(..., 20)`.

    Range [-1, 1], higher is better. Source: GEARS (Roohani et al. 2023), which counts an undefined one as 0.

    Raises:
        Undefined: a change that is the same for all genes, such as the prediction "no change".
    """
    observed, predicted, control = _means(observed, predicted, control, genes=genes)
    return _pearson(observed - control, predicted - control)


def mse(observed: ArrayLike, predicted: ArrayLike, genes: ArrayLike | None = None) -> float:
    """Mean squared error over genes of mean expression. Range [0, inf), lower is better."""
    observed, predicted = _means(observed, predicted, genes=genes)
    return float(np.square(observed - predicted).mean())


def squared_pearson(observed: ArrayLike, predicted: ArrayLike, genes: ArrayLike | None = None) -> float:
    """What scGen calls R2: the squared Pearson correlation of means; blind to errors of scale and offset. [0, 1]."""
    return pearson(observed, predicted, genes) ** 2


def explained_variance_r2(observed: ArrayLike, predicted: ArrayLike, genes: ArrayLike | None = None) -> float:
    """Coefficient of determination of means: 1 - residual / total sum of squares. Range (-inf, 1], higher is better.

    Raises:
        Undefined: the observed means are the same for all genes.
    """
    observed, predicted = _means(observed, predicted, genes=genes)
    total = np.square(observed - observed.mean()).sum()
    if total == 0:
        raise Undefined("R2 needs observed means that differ between genes")
    return float(1 - np.square(observed - predicted).sum() / total)


def direction_accuracy(
    observed: ArrayLike, predicted: ArrayLike, control: ArrayLike, genes: ArrayLike | None = None
) -> float:
    """Fraction of changed genes whose predicted change has the correct sign.

    Range [0, 1], 0.5 is chance, higher is better; a predicted change of 0 is wrong.

    Raises:
        Undefined: no gene changes.
    """
    observed, predicted, control = _means(observed, predicted, control, genes=genes)
    moved = observed != control
    if not moved.any():
        raise Undefined("direction accuracy needs a gene that changes")
    return float((np.sign(observed - control) == np.sign(predicted - control))[moved].mean())


def top_genes(perturbed: ArrayLike, control: ArrayLike, n: int = 20) -> Int[np.ndarray, " gene"]:
    """The `n` genes with the largest |t| (Welch) between perturbed and control cells (cell, gene)."""
    perturbed, control = points(perturbed, "perturbed"), points(control, "control")
    error = sum(x.var(0, ddof=min(1, len(x) - 1)) / len(x) for x in (perturbed, control))
    change = np.abs(perturbed.mean(0) - control.mean(0))
    t = np.where(error > 0, change / np.sqrt(np.where(error > 0, error, 1)), np.where(change > 0, np.inf, 0))
    return np.argsort(-t, kind="stable")[:n]


def gene_overlap(observed: ArrayLike, predicted: ArrayLike, control: ArrayLike, n: int = 100) -> float:
    """Fraction of the `n` most differential genes of observed cells shared with predicted cells (all (cell, gene)).

    Range [0, 1], n / genes is chance, higher is better. Both are compared with `control` by `top_genes`.
    """
    n = min(n, points(control, "control").shape[1])
    return len(np.intersect1d(top_genes(observed, control, n), top_genes(predicted, control, n))) / n


def energy_distance(observed: ArrayLike, predicted: ArrayLike) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of cells (cell, dim), unbiased, plain euclidean distance. Lower is better.

    At least 0 in expectation (a little below for equal distributions). scPerturb (Peidli et al. 2024) squares the
    distances, which makes it a comparison of means only. Source: Szekely and Rizzo 2013.

    Raises:
        Undefined: fewer than two cells in a group.
    """
    between, first, second = _mean_between(observed, predicted)
    return 2 * between - first - second


def mmd(observed: ArrayLike, predicted: ArrayLike, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy, Gaussian kernel exp(-d2 / (2 bandwidth2)), unbiased U-statistic.

    About 0 for equal distributions, lower is better; at most 2. `bandwidth`: by default the median distance of at most
    1,000 cells of both groups together; the value depends on it, so compare within one choice. Source: Gretton 2012.

    Raises:
        Undefined: fewer than two cells in a group, or all cells in the same place.
    """
    observed, predicted = points(observed, "observed"), points(predicted, "predicted")
    width = _median_distance(np.vstack([observed, predicted])) if bandwidth is None else bandwidth
    between, first, second = _mean_between(observed, predicted, width)
    return first + second - 2 * between


def _means(*expression: ArrayLike, genes: ArrayLike | None = None) -> list[Float[np.ndarray, " gene"]]:
    """Means over cells of (cell, gene), or the means themselves (gene,), at the wanted genes."""
    arrays = [dense(x).astype(np.float64) for x in expression]
    means = [x.mean(0) if x.ndim == 2 else x for x in arrays]
    if len({m.shape for m in means}) > 1 or means[0].ndim != 1:
        raise ValueError(f"expected the same genes in all, got shapes {[a.shape for a in arrays]}")
    if not all(np.isfinite(m).all() for m in means):
        raise ValueError("expression has NaN or infinite values")
    return means if genes is None else [m[np.asarray(genes)] for m in means]


def _pearson(a: Float[np.ndarray, " gene"], b: Float[np.ndarray, " gene"]) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        raise Undefined("a correlation needs two genes with different values in the observed and in the predicted")
    return float(np.clip(np.corrcoef(a, b)[0, 1], -1, 1))


def _mean_between(a: ArrayLike, b: ArrayLike, kernel_width: float | None = None) -> tuple[float, float, float]:
    """Mean distance (or kernel) between a and b, within a, and within b, no cell with itself."""
    a, b = points(a, "observed"), points(b, "predicted")
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise Undefined(f"needs two cells in each group and the same dimensions, got shapes {a.shape} and {b.shape}")
    group = np.repeat([0, 1], [len(a), len(b)])

    if kernel_width is None:
        sums, own = group_sums(np.vstack([a, b]), group), 0
    else:
        scale = -2 * kernel_width**2

        def kernel(tile: np.ndarray) -> None:
            tile /= scale
            np.exp(tile, out=tile)

        sums, own = group_sums(np.vstack([a, b]), group, "sqeuclidean", function=kernel), 1  # k(x, x) = 1
    n, m = len(a), len(b)
    within = [(sums[group == g, g].sum() - own * size) / (size * (size - 1)) for g, size in ((0, n), (1, m))]
    return float(sums[:n, 1].sum() / (n * m)), float(within[0]), float(within[1])


def _median_distance(x: Float[np.ndarray, "cell dim"]) -> float:
    from scipy.spatial.distance import pdist

    rows = np.random.default_rng(0).permutation(len(x))[:1000]
    width = float(np.median(pdist(x[rows])))
    if width == 0:
        raise Undefined("the median distance between cells is 0; pass bandwidth")
    return width
