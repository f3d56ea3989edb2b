"""Plots training curves: each term of the loss by epoch, for training and validation cells."""

from __future__ import annotations

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scduet.errors import DataError
from scduet.plots.style import STYLE, Figure

SPLITS = {"train": ("#0072B2", "-"), "validation": ("#D55E00", "--")}
_SCHEDULES = {"kl_weight": "KL weight", "lr": "learning rate"}


def training_curves(history: pd.DataFrame, *, size: float = 2.4, legend: bool = True) -> Figure:
    """Plot one panel per term of the loss, then the KL weight and the learning rate if they changed.

    `history`: `model.history`, one row per epoch, columns "<term>_train" and "<term>_validation". A dotted line marks
    the epoch of the lowest validation loss. Terms of the autoencoders are per cell, in nats. `size`: height of a panel
    in inches. `legend=False` omits the legend.
    """
    terms = [column.removesuffix("_train") for column in history.columns if column.endswith("_train")]
    if not terms or not len(history):
        raise DataError("the history has no epoch", "train the model first")
    schedules = [name for name in _SCHEDULES if name in history and history[name].nunique() > 1]
    n_panels = len(terms) + len(schedules)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.25 * size * n_panels, size + 0.35), layout="constrained")
        panels = figure.subplots(1, n_panels, squeeze=False)[0]
        for axes, term in zip(panels, terms, strict=False):
            _draw_term(axes, history, term)
        for axes, name in zip(panels[len(terms) :], schedules, strict=True):
            axes.plot(history.index, history[name], color="#555555", label="schedule")
            axes.set_title(_SCHEDULES[name])
        for axes in panels:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        panels[0].set_ylabel("nats per cell" if "kl" in terms else "loss")
        if legend:
            columns = 3 if n_panels > 1 else 1
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=columns)
    return figure


def _draw_term(axes: Axes, history: pd.DataFrame, term: str) -> None:
    for split, (color, dashes) in SPLITS.items():
        if f"{term}_{split}" in history:
            values = history[f"{term}_{split}"].dropna()
            marker = "o" if len(values) == 1 else ""
            axes.plot(values.index, values, color=color, ls=dashes, marker=marker, label=split)
    held_out = history["loss_validation"].dropna() if "loss_validation" in history else pd.Series(dtype=float)
    if len(held_out):
        axes.axvline(held_out.idxmin(), color="#555555", ls=":", lw=1, label="lowest validation loss")
    axes.set_title(term.replace("_", " "))
