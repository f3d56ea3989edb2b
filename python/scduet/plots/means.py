"""Mean expression of genes in one group of cells against that in another."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float

from scduet.errors import DataError, some
from scduet.plots.style import STYLE, Figure


def mean_scatter(
    x: Float[np.ndarray, " gene"],
    y: Float[np.ndarray, " gene"],
    genes: Sequence[str],
    named: Sequence[str] | None = None,
    *,
    labels: tuple[str, str] = ("x", "y"),
    title: str | None = None,
) -> Figure:
    """Plot a statistic of each gene in two groups of cells, with R² (squared Pearson correlation) and `named` genes.

    Raises DataError for named genes that are not among `genes`.
    """
    unknown = [name for name in named or () if name not in genes]
    if unknown or not len(x) == len(y) == len(genes):
        what = f"no genes {some(unknown)}" if unknown else f"{len(x)}, {len(y)} values and {len(genes)} genes"
        raise DataError(what, "pass names from var_names")
    place = [list(genes).index(name) for name in named or ()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.0, 3.8), layout="constrained")
        axes = figure.subplots()
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        axes.plot(ends, ends, color="#999999", lw=0.8, ls="--", zorder=0)
        axes.scatter(x, y, s=8, color="#bbbbbb", linewidths=0, rasterized=True)
        axes.scatter(x[place], y[place], s=16, color="#D55E00", linewidths=0)
        for i in place:
            text = axes.annotate(genes[i], (x[i], y[i]), xytext=(4, -3), textcoords="offset points", fontsize=8)
            text.set_parse_math(False)
        r2 = float(np.corrcoef(x, y)[0, 1] ** 2)
        axes.text(0.03, 0.97, f"R² = {r2:.3f}", transform=axes.transAxes, va="top")
        axes.set(xlabel=labels[0], ylabel=labels[1], title=title or "")
    return figure
