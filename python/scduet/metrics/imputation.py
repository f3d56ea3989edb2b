"""Imputation error on held-out counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from scduet.metrics.core.deviance import poisson_deviance
from scduet.metrics.core.inputs import dense


def hide_counts(
    counts: ArrayLike, share: float = 0.1, how: Literal["zero", "thin"] = "zero", seed: int = 0
) -> tuple[Float[np.ndarray, "cell gene"], Bool[np.ndarray, "cell gene"]]:
    """Hide a `share` of the nonzero counts (set to 0, or thinned to Binomial(count, 0.1)); also return the mask.

    scVI's paper describes thinning (Lopez et al. 2018), but its code draws one scalar for all entries.

    Raises:
        ValueError: counts that are negative or not whole, or a share outside (0, 1).
    """
    counts = dense(counts).astype(np.float64)
    if (counts < 0).any() or (counts != np.rint(counts)).any() or not 0 < share < 1:
        raise ValueError("hide_counts needs whole non-negative counts and a share between 0 and 1")
    rng = np.random.default_rng(seed)
    entries = np.flatnonzero(counts)
    chosen = rng.choice(entries, max(1, round(share * len(entries))), replace=False) if len(entries) else entries
    hidden = np.zeros(counts.shape, bool)
    hidden.flat[chosen] = True
    kept = rng.binomial(counts[hidden].astype(np.int64), 0.1) if how == "thin" else 0
    shown = counts.copy()
    shown[hidden] = kept
    return shown, hidden


FLOOR = 0.01  # share of the null in every prediction: else a 0 where a molecule is seen costs infinitely much
SHOWN = 10  # molecules below which a cell is not judged


@dataclass(frozen=True)
class Molecules:
    """The molecules of cells dealt out at random to two sets: one to denoise, one to predict."""

    shown: sp.csr_matrix  # (cell, gene), of the cells and genes that are judged
    held_out: sp.csr_matrix
    cells: Int[np.ndarray, " cell"]  # their rows in the counts
    genes: Int[np.ndarray, " gene"]  # and their columns
    share: float  # of the molecules that are shown


@dataclass(frozen=True)
class HeldOutScores:
    """How much better held-out molecules are predicted than by gene mean x depth of the cell; 0 is as good, 1 perfect.

    Even the true rates do not reach 1, for molecules are drawn at random.
    """

    d2: float  # share of the Poisson deviance explained
    r2: float  # share of the squared error explained, each gene by its variance
    deviance: float
    null_deviance: float


def split_molecules(counts: Any, share: float = 0.9, seed: int = 0) -> Molecules:
    """Show each molecule with probability `share`, hold out the others.

    Left out are cells with at most 10 molecules shown or none held out, and genes that are not shown in any cell.

    Raises:
        ValueError: counts that are negative or not whole, a share outside (0, 1), or no cell left.
    """
    counts = sp.csr_matrix(counts, dtype=np.float64)
    if (counts.data < 0).any() or (counts.data != np.rint(counts.data)).any() or not 0 < share < 1:
        raise ValueError("split_molecules needs whole non-negative counts and a share between 0 and 1")
    shown = counts.copy()
    shown.data = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), share).astype(np.float64)
    held_out = counts - shown
    cells = np.flatnonzero((_sums(shown, 1) > SHOWN) & (_sums(held_out, 1) > 0))
    if not len(cells):
        raise ValueError(f"no cell has more than {SHOWN} molecules shown and one held out at share={share}")
    genes = np.flatnonzero(_sums(shown[cells], 0) > 0)
    shown, held_out = shown[cells][:, genes], held_out[cells][:, genes]
    shown.eliminate_zeros()
    return Molecules(shown, sp.csr_matrix(held_out), cells, genes, share)


def held_out_scores(molecules: Molecules, expected: ArrayLike) -> HeldOutScores:
    """How well `expected`, counts (cell, gene) at the depth of what was shown, predicts the molecules held out.

    Every prediction is mixed with 1% of the null; what is below zero counts as zero.

    Raises:
        ValueError: expected counts of another shape, or not finite.
    """
    expected, y = dense(expected).astype(np.float64), molecules.held_out.toarray()
    if expected.shape != y.shape or not np.isfinite(expected).all():
        raise ValueError(f"expected counts have shape {expected.shape}; {y.shape} finite ones are needed")
    null = np.outer(_sums(molecules.shown, 1), _sums(molecules.shown, 0) / molecules.shown.sum())
    rest, seen = (1 - molecules.share) / molecules.share, y.sum(0) > 0
    spread, expected = y.var(0)[seen] + 1e-9, np.maximum(expected, 0)
    means = [((1 - FLOOR) * mean + FLOOR * null) * rest for mean in (expected, null)]
    deviances = [float(poisson_deviance(y, mean).sum()) for mean in means]
    errors = [(np.square(mean * rest - y).mean(0)[seen] / spread).mean() for mean in (expected, null)]
    return HeldOutScores(1 - deviances[0] / deviances[1], 1 - errors[0] / errors[1], *deviances)


def molecular_cross_validation(
    counts: ArrayLike | sp.spmatrix, denoise: Callable[[sp.csr_matrix], Any], share: float = 0.9, seed: int = 0
) -> HeldOutScores:
    """Denoise a `share` of each cell's molecules, predict the others: D2 and R2 against gene mean x depth.

    denoise: of counts (cell, gene) the expected counts at the same depth. Higher is better. What is best for a share of
    the molecules is taken for best for all. Source: Batson, Royer and Webber 2019, bioRxiv 786269.

    Raises:
        ValueError: as `split_molecules` and `held_out_scores` do.
    """
    molecules = split_molecules(counts, share, seed)
    return held_out_scores(molecules, denoise(molecules.shown))


def _sums(counts: sp.csr_matrix, axis: int) -> Float[np.ndarray, " row"]:
    return np.asarray(counts.sum(axis), np.float64).ravel()


def imputation_error(
    counts: ArrayLike, imputed: ArrayLike, hidden: ArrayLike, how: Literal["median", "mean", "rmse"] = "median"
) -> float:
    """Median (mean, root mean squared) error |imputed - count| over the hidden entries, in counts. Lower is better.

    `imputed`: expected counts (cell, gene) from the data with entries hidden. Source: scVI (Lopez et al. 2018), median;
    compare only at the same entries and with the baseline "mean of the gene".

    Raises:
        ValueError: different shapes, or nothing hidden.
    """
    counts, imputed = (dense(x).astype(np.float64) for x in (counts, imputed))
    hidden = np.asarray(hidden, bool)
    if not counts.shape == imputed.shape == hidden.shape or not hidden.any():
        raise ValueError(f"shapes {counts.shape}, {imputed.shape}, {hidden.shape} must agree, and an entry be hidden")
    error = np.abs(imputed[hidden] - counts[hidden])
    return float({"median": np.median, "mean": np.mean, "rmse": lambda e: np.sqrt(np.square(e).mean())}[how](error))


def heldout_log_likelihood(
    counts: ArrayLike, mean: ArrayLike, inverse_dispersion: ArrayLike | None = None, dropout: ArrayLike | None = None
) -> float:
    """Mean over held-out cells of log p(counts | mean): Poisson, negative binomial, or zero-inflated (nats a cell).

    Higher is better; compare only on the same cells and genes and within count likelihoods. `mean`: (cell, gene);
    `inverse_dispersion`: theta, a gene or (cell, gene), variance mean + mean^2 / theta; `dropout`: probability of an
    extra zero. Source: scVI (Lopez et al. 2018).

    Raises:
        ValueError: a mean or theta that is not positive, negative counts, or a dropout outside [0, 1).
    """
    x = dense(counts).astype(np.float64)
    mean = np.asarray(mean, np.float64)
    if mean.shape != x.shape or not (mean > 0).all() or (x < 0).any():
        raise ValueError("mean is positive and has the shape of counts, which are not negative")
    log_p = _log_count(x, mean, inverse_dispersion)
    if dropout is not None:
        pi = np.broadcast_to(np.asarray(dropout, np.float64), x.shape)
        if not ((pi >= 0) & (pi < 1)).all():
            raise ValueError("dropout is a probability in [0, 1)")
        with np.errstate(divide="ignore"):
            log_p = np.where(x == 0, np.logaddexp(np.log(pi), np.log1p(-pi) + log_p), np.log1p(-pi) + log_p)
    return float(log_p.sum(1).mean())


def importance_log_likelihood(log_weights: ArrayLike) -> float:
    """Mean over cells of log mean over samples of exp(log p(x|z) + log p(z) - log q(z|x)), from (sample, cell) weights.

    The importance-sampling estimate of log p(x) in nats a cell, below the truth on average; higher is better.
    Source: Burda et al. 2016.
    """
    from scipy.special import logsumexp

    weights = _weights(log_weights)
    return float((logsumexp(weights, axis=0) - np.log(len(weights))).mean())


def _weights(log_weights: ArrayLike) -> Float[np.ndarray, "sample cell"]:
    weights = np.asarray(log_weights, np.float64)
    if weights.ndim != 2 or np.isnan(weights).any() or not weights.size:
        raise ValueError(f"log_weights has shape {weights.shape}; expected (sample, cell) without NaN")
    return weights


def _log_count(x: np.ndarray, mean: np.ndarray, inverse_dispersion: ArrayLike | None) -> np.ndarray:
    from scipy.special import gammaln, xlogy

    if inverse_dispersion is None:
        return xlogy(x, mean) - mean - gammaln(x + 1)
    theta = np.asarray(inverse_dispersion, np.float64)
    if not (theta > 0).all():
        raise ValueError("inverse_dispersion must be positive")
    chance = gammaln(x + theta) - gammaln(theta) - gammaln(x + 1)
    return chance - theta * np.log1p(mean / theta) + xlogy(x, mean / (theta + mean))
