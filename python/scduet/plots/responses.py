"""Predicted against observed responses to perturbations, with the errors of simple rules beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from scduet.errors import DataError, OptionError, some
from scduet.metrics import perturbation as response
from scduet.metrics.core.inputs import Undefined
from scduet.plots.style import STYLE, Figure

CEILING = "ceiling"
MODEL, OTHER, TOP = "#0072B2", "#999999", "#D55E00"


def perturbation(
    observed: Any,
    predicted: Float[np.ndarray, "cell gene"] | Float[np.ndarray, " gene"] | None = None,
    control: Float[np.ndarray, "cell gene"] | None = None,
    genes: Sequence[str] | None = None,
    *,
    target: str | None = None,
    context: str | None = None,
    model: str | None = None,
    baselines: Mapping[str, Float[np.ndarray, " gene"]] | None = None,
    n_top: int = 20,
    n_named: int = 8,
) -> Figure:
    """Plot predicted against observed changes of mean expression, with top genes in color and errors of baselines.

    Either what `predict_perturbation` or `score_perturbation` gave, alone: a held-out perturbation, `target` in
    `context` (default: the one whose change repeats itself best), predicted by `model` (default: the one that was
    chosen, else the best), beside the error of every method over all held-out ones of the task, dots for each of them,
    relative to "no change", and the ceiling. Or observed, predicted, control and genes:

    observed, control: (cell, gene), log-normalized; predicted: cells or their mean. Counts models predict cells by
    sampled counts, log-normalized like the others (`sample_states`, `posterior_predictive_sample`), not by log1p of
    expected counts, which lies above the mean of log1p of counts. baselines: name -> mean expression, e.g. of the
    training perturbations; "no change" (the control) is always included. The bars are mean squared errors on the
    `n_top` most differential genes: a useful model is below the baselines.

    Raises DataError where genes do not match, or nothing was held out; OptionError for a target or model not there.
    """
    if hasattr(observed, "profiles"):
        return _of_scores(observed, target, context, model, n_top, n_named)
    if predicted is None or control is None or genes is None:
        raise OptionError("predicted, control and genes are missing", "pass them, or the result of a prediction alone")
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
    mean = predicted.mean(0) if predicted.ndim == 2 else predicted
    _points(axes, observed.mean(0) - base, mean - base, genes, top, n_named)


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, genes: Sequence[str], top: np.ndarray, n_named: int) -> None:
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


def _of_scores(scores: Any, target: str | None, context: str | None, model: str | None, n_top: int, n_named: int):
    held = scores.held_out
    if held.empty:
        raise DataError("no perturbation was held out", "pass evaluate='held-out' with more perturbations or contexts")
    rows = held[(held["target"] == (target or held["target"])) & (held["context"] == (context or held["context"]))]
    if rows.empty:
        raise OptionError(f"{target or context!r} was not held out", f"these were: {some(held['target'].unique(), 9)}")
    best = rows.loc[rows["half_correlation"].idxmax()]
    profile = scores.profiles[best["context"], best["target"]]
    chosen = _model_of(scores, best, model, list(profile.columns[1:]))
    x, y = profile["observed"].to_numpy(float), profile[chosen].to_numpy(float)
    top = np.argsort(-np.abs(x), kind="stable")[:n_top]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.8), layout="constrained")
        axes, bars = figure.subplots(1, 2, width_ratios=[3, 3])
        _points(axes, x, y, list(profile.index), top, n_named)
        where = "" if best["context"] == "all" else f" in {best['context']}"
        axes.set_title(f"{best['target']}{where}, predicted by {chosen}\n{axes.get_title()}", fontsize=9)
        axes.title.set_parse_math(False)
        _errors(bars, held[held["task"] == best["task"]], chosen)
    return figure


def _model_of(scores: Any, row: pd.Series, model: str | None, there: Sequence[str]) -> str:
    if model is not None:
        if model not in there:
            raise OptionError(f"model={model!r} is not among the methods", f"these are {some(there, 9)}")
        return model
    support = getattr(scores, "support", pd.DataFrame())
    used = [] if support.empty else list(support.loc[support["task"] == row["task"], "model"])
    known = [name for name in [*used, "prediction"] if name in there]
    errors = scores.held_out[scores.held_out["task"] == row["task"]].groupby("method")["relative_error"].mean()
    return known[0] if known else str(errors.reindex(there).drop("no change", errors="ignore").idxmin())


def _errors(axes: Axes, held: pd.DataFrame, chosen: str) -> None:
    """Mean relative error of each method over held-out perturbations with a measurable effect, and each of them."""
    kept = held[held["measurable"]] if held["measurable"].any() else held
    groups = kept.groupby("method", sort=False)["relative_error"]
    mean = groups.mean().drop(CEILING, errors="ignore").sort_values(ascending=False)
    axes.barh(range(len(mean)), mean, color=[MODEL if name == chosen else OTHER for name in mean.index], height=0.6)
    for i, name in enumerate(mean.index):
        each = groups.get_group(name).to_numpy()
        axes.scatter(each, np.full(len(each), i), s=7, color="k", alpha=0.5, linewidths=0, zorder=3)
    axes.axvline(1, color="k", lw=0.8, ls="--", zorder=4)
    floor = groups.get_group(CEILING).mean()
    axes.axvline(floor, color=TOP, lw=1.2, zorder=4)
    axes.set_yticks(range(len(mean)), mean.index)
    widest = max(float(kept["relative_error"].max()), 1.0)
    number = groups.size().max()
    axes.set(xlabel="error relative to no change (dashed)", xlim=(0, 1.08 * widest))
    axes.set_title(f"{number} held out; the best that noise allows: {floor:.2f}", fontsize=9)
