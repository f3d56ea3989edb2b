"""Predicted cell types compared with the truth."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np

from scduet.metrics import transfer
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
