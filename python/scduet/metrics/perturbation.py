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


def relative_error(observed: ArrayLike, predicted: ArrayLike, control: ArrayLike) -> float:
    """Euclidean error of predicted means over that of "no change". Range [0, inf), 1 is useless, lower is better.

    Unlike a correlation it sees errors of size. Raises Undefined where nothing changes.
    """
    observed, predicted, control = _means(observed, predicted, control)
    size = np.linalg.norm(observed - control)
    if size == 0:
        raise Undefined("a relative error needs a change")
    return float(np.linalg.norm(observed - predicted) / size)


def discrimination(
    predicted: ArrayLike, observed: ArrayLike, others: ArrayLike, genes: ArrayLike | None = None
) -> float:
    """Share of other perturbations whose observed change is nearer to the prediction than the right one.

    predicted, observed: changes (gene,); others: changes of other perturbations (perturbation, gene). Range [0, 1], 0
    is best, 0.5 is chance, ties count a half. Leave the targeted genes out by `genes`, as they are predicted by anyone.
    "No change" is not at chance where effects are weak: compare with it. Source: cell-eval (Adduri et al. 2025).

    Raises Undefined without other perturbations.
    """
    predicted, observed = _means(predicted, observed, genes=genes)
    others = points(others, "others")
    others = others if genes is None else others[:, np.asarray(genes)]
    if not len(others):
        raise Undefined("discrimination needs other perturbations")
    own, other = np.linalg.norm(observed - predicted), np.linalg.norm(others - predicted, axis=1)
    same = np.isclose(other, own, rtol=1e-9)
    return float(((other < own) & ~same).mean() + same.mean() / 2)


def ceiling(half_correlation: float) -> float:
    """The largest correlation that a perfect prediction can have with a noisy truth, sqrt(2 r / (1 + r)).

    half_correlation: r between the changes of two halves of the truth that share neither perturbed nor control cells.
    The reliability of the whole is 2 r / (1 + r) (Spearman 1910, Brown 1910). Raises Undefined for r at or below 0.
    """
    if not 0 < half_correlation <= 1:
        raise Undefined(f"no measurable effect: the halves correlate by {half_correlation:.2f}")
    return float(np.sqrt(2 * half_correlation / (1 + half_correlation)))


def shared_control_inflation(n_perturbed: int, n_control: int, n_others: float = np.inf) -> float:
    """Expected `pearson_delta` of perturbations that do nothing, where both are measured against the same controls.

    sqrt(n_p / (n_p + n_c)) for the mean of many other perturbations as the prediction, n_p / (n_p + n_c) for one of as
    many cells (`n_others=1`): the noise of the control mean is in both. Split the controls to be rid of it.
    """
    share = n_perturbed / (n_perturbed + n_control)
    return float(share / np.sqrt(share + (1 - share) / n_others))


def response_weights(perturbed: ArrayLike, others: ArrayLike) -> Float[np.ndarray, " gene"]:
    """Weights of genes by how much this perturbation differs from the others: squared, min-max scaled |t|; sum 1.

    perturbed, others: cells (cell, gene). Source: Mejia et al. 2025, arXiv 2506.22641.
    Raises Undefined where all genes differ alike.
    """
    perturbed, others = points(perturbed, "perturbed"), points(others, "others")
    error = sum(x.var(0, ddof=min(1, len(x) - 1)) / len(x) for x in (perturbed, others))
    return weights_of_t(np.abs(perturbed.mean(0) - others.mean(0)) / np.sqrt(np.maximum(error, 1e-12)))


def weights_of_t(t: Float[np.ndarray, " gene"]) -> Float[np.ndarray, " gene"]:
    """`response_weights` of absolute t statistics."""
    if np.ptp(t) == 0:
        raise Undefined("weights need genes that differ from the other perturbations by different amounts")
    weight = np.square((t - t.min()) / np.ptp(t))
    return weight / weight.sum()


def weighted_r2(
    observed: ArrayLike, predicted: ArrayLike, weights: ArrayLike, reference: ArrayLike | None = None
) -> float:
    """1 - weighted squared error over that of `reference`, by default 0. (-inf, 1], higher is better.

    observed, predicted, reference: changes (gene,); the mean change of all perturbations as reference gives what a
    prediction knows beyond it. Raises Undefined where observed and reference agree.
    """
    observed, predicted = _means(observed, predicted)
    base = np.zeros(len(observed)) if reference is None else _means(reference)[0]
    weight = np.asarray(weights, float)
    total = (weight * np.square(observed - base)).sum()
    if total == 0:
        raise Undefined("weighted R2 needs an observed change")
    return float(1 - (weight * np.square(observed - predicted)).sum() / total)


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
