"""Predictions compared with the truth: confusion matrices, and predicted against observed responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from scduet.errors import DataError
from scduet.metrics import perturbation as response
from scduet.metrics import transfer
from scduet.metrics.core.inputs import Undefined
from scduet.plots.style import STYLE, Figure


def confusion(truth: Sequence, predicted: Sequence) -> Figure:
    """Plot a confusion matrix: fraction of each true class (row) predicted as each class (column), with F1.

    truth, predicted: one label per cell. Raises ValueError for missing labels or different lengths.
    """
    counts, f1 = transfer.confusion(truth, predicted), transfer.per_class(truth, predicted)["f1"]
    share = (counts.div(counts.sum(axis=1), axis=0)).to_numpy()
    side = 0.36
    height, width = 1.4 + side * len(counts), 2.9 + side * counts.shape[1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(width, 4.2), max(height, 2.4)), layout="constrained")
        axes, bars = figure.subplots(1, 2, sharey=True, width_ratios=[side * counts.shape[1], 0.8])
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set(xlabel="predicted", ylabel="truth")
        axes.set_xticks(range(counts.shape[1]), counts.columns, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(counts)), [f"{name} ({n})" for name, n in counts.sum(axis=1).items()])
        for (i, j), n in np.ndenumerate(counts.to_numpy()):
            if n:
                axes.text(
                    j, i, str(n), ha="center", va="center", fontsize=7, color="white" if share[i, j] > 0.6 else "k"
                )
        bars.barh(range(len(f1)), f1, color="#0072B2", height=0.6)
        bars.set(xlim=(0, 1), xlabel="F1", xticks=[0, 1])
        bars.tick_params(axis="y", length=0, labelleft=False)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set_parse_math(False)
    return figure


def perturbation(
    observed: Float[np.ndarray, "cell gene"],
    predicted: Float[np.ndarray, "cell gene"] | Float[np.ndarray, " gene"],
    control: Float[np.ndarray, "cell gene"],
    genes: Sequence[str],
    *,
    baselines: Mapping[str, Float[np.ndarray, " gene"]] | None = None,
    n_top: int = 20,
    n_named: int = 8,
) -> Figure:
    """Plot predicted against observed changes of mean expression, with top genes in color and errors of baselines.

    observed, control: (cell, gene), log-normalized; predicted: cells or their mean. Counts models predict cells by
    sampled counts, log-normalized like the others (`sample_states`, `posterior_predictive_sample`), not by log1p of
    expected counts, which lies above the mean of log1p of counts. baselines: name -> mean expression, e.g. of the
    training perturbations; "no change" (the control) is always included. The bars are mean squared errors on the
    `n_top` most differential genes: a useful model is below the baselines. Raises DataError where genes do not match.
    """
    observed, control = np.asarray(observed, float), np.asarray(control, float)
    if not observed.shape[1] == control.shape[1] == len(genes) == np.shape(predicted)[-1]:
        shapes = [np.shape(a) for a in (observed, predicted, control)]
        raise DataError(f"observed, predicted, control {shapes} and {len(genes)} genes do not match")
    top = response.top_genes(observed, control, n_top)
    guesses = {"model": predicted, "no change": control, **(baselines or {})}
    errors = {name: response.mse(observed, guess, genes=top) for name, guess in guesses.items()}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.6), layout="constrained")
        axes, bars = figure.subplots(1, 2, width_ratios=[3, 2])
        _changes(axes, observed, predicted, control, genes, top, n_named)
        bars.barh(list(errors), list(errors.values()), color=["#0072B2", *["#999999"] * (len(errors) - 1)], height=0.6)
        bars.invert_yaxis()
        bars.set_xlabel(f"mean squared error, top {len(top)} genes")
    return figure


def _changes(axes: Axes, observed, predicted, control, genes: Sequence[str], top: np.ndarray, n_named: int) -> None:
    base = control.mean(0)
    predicted = np.asarray(predicted, float)
    x, y = observed.mean(0) - base, (predicted.mean(0) if predicted.ndim == 2 else predicted) - base
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axes.plot(ends, ends, color="#999999", lw=0.8, ls="--", zorder=0)
    axes.scatter(x, y, s=8, color="#bbbbbb", linewidths=0, rasterized=True)
    axes.scatter(x[top], y[top], s=14, color="#D55E00", linewidths=0, label=f"top {len(top)} differential genes")
    for gene in top[:n_named]:
        axes.annotate(
            str(genes[gene]),
            (x[gene], y[gene]),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=7,
            parse_math=False,
        )
    axes.set(xlabel="observed change", ylabel="predicted change")
    axes.set_title(f"delta r: all {_delta(x, y)}, top {len(top)} {_delta(x[top], y[top])}")
    axes.legend(loc="upper left", handletextpad=0.2)


def _delta(x: Float[np.ndarray, " gene"], y: Float[np.ndarray, " gene"]) -> str:
    try:
        return f"{response.pearson(x, y):.2f}"
    except Undefined:
        return "undefined"
