"""RNA velocity: arrows and streams on an embedding, and phase portraits of genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from scduet.errors import DataError, OptionError
from scduet.plots.embedding import explain, grid, legend_entries, legend_width, point_size, scatter
from scduet.plots.style import STYLE, Figure

COLORED = 1, 99  # percentiles of numbers that the colors span
GRID = 30  # arrows along an axis
SMOOTH = 0.5  # width of the kernel that arrows are averaged with, in steps of the grid
LEAST_MASS = 0.02  # of cells around a point of the grid, as a share of the densest


def velocity(
    embedding: Float[np.ndarray, "cell 2"],
    arrows: Float[np.ndarray, "cell 2"],
    annotation: Sequence[Any],
    *,
    style: Literal["stream", "grid", "cells"] = "stream",
    name: str = "",
    axes_name: str = "UMAP",
    size: float = 4.0,
) -> Figure:
    """Where cells are going, on an embedding colored by an annotation.

    embedding, arrows: obsm["X_umap"] and obsm["velocity_umap"]. annotation: one value per cell, e.g. the type or the
    uncertainty; colors of numbers end at the 1st and 99th percentile. style: "stream" lines, or "grid" arrows, of means
    over nearby cells, or an arrow for each of "cells". name: of the annotation. size: of the panel, in inches. Streams
    look smooth whatever the data: see `velocity`'s verdict before reading a direction from them.
    """
    embedding, arrows = np.asarray(embedding, float), np.asarray(arrows, float)
    if embedding.ndim != 2 or embedding.shape[1] != 2 or embedding.shape != arrows.shape:
        raise DataError(f"embedding {embedding.shape} and arrows {arrows.shape}", "both need (cell, 2)")
    if len(annotation) != len(embedding):
        raise DataError(f"{len(annotation)} annotations of {len(embedding)} cells", "give one value a cell")
    if style not in ("stream", "grid", "cells"):
        raise OptionError(f"option 'style' cannot be {style!r}", "choose stream, grid or cells")
    entries = legend_entries(annotation)
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(1, 1, size, legend_width(name, entries) + (0.0 if entries else 0.3))
        axes = panels[0][0]
        drawn = scatter(axes, embedding, annotation, alpha=0.5)
        if not entries:  # a few cells apart would take most of the colors
            drawn.set_clim(*np.nanpercentile(np.asarray(annotation, float), COLORED))
        axes.set(xlabel=f"{axes_name} 1", ylabel=f"{axes_name} 2")
        explain(axes, drawn, entries, name)
        limits = axes.get_xlim(), axes.get_ylim()
        if style == "cells":
            axes.quiver(*embedding.T, *arrows.T, angles="xy", color="black", width=0.002, headwidth=4)
        else:
            _draw_averaged(axes, embedding, arrows, style)
        axes.set(xlim=limits[0], ylim=limits[1])
    return figure


def phase_portraits(
    genes: Mapping[str, tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]],
    annotation: Sequence[Any],
    *,
    slopes: Mapping[str, float] | None = None,
    fits: Mapping[str, tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]] | None = None,
    name: str = "",
    size: float = 2.2,
) -> Figure:
    """Unspliced against spliced values of genes, a panel each: above the line a gene is on the rise.

    genes: name -> spliced and unspliced moments of the cells, layers "Ms" and "Mu". slopes: name -> slope of the steady
    state, var["velocity_gamma"]. fits: name -> spliced and unspliced values expected by a model, drawn as gray points.
    """
    if not genes:
        raise DataError("no gene to draw", "name one or more")
    wrong = [gene for gene, pair in genes.items() if {len(part) for part in pair} != {len(annotation)}]
    if wrong:
        raise DataError(f"the values of {wrong[0]!r} are not one a cell", "give spliced and unspliced values of all")
    entries, drawn = legend_entries(annotation), None
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(1, len(genes), size, legend_width(name, entries), gap=0.45, left=0.65)
        for axes, (gene, (s, u)) in zip(panels[0], genes.items(), strict=True):
            drawn = scatter(axes, np.stack([s, u], 1), annotation)
            if fits and gene in fits:
                axes.scatter(*fits[gene], s=point_size(len(s)) / 2, color="0.35", linewidths=0, rasterized=True)
            if slopes is not None and gene in slopes:
                end = min(np.nanmax(s), np.nanmax(u) / max(slopes[gene], 1e-9))
                axes.plot([0, end], [0, slopes[gene] * end], color="black", lw=1.2, ls="--")
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3))  # type: ignore[attr-defined]
            axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3))  # type: ignore[attr-defined]
            axes.set_title(gene, parse_math=False)
            axes.set_xlabel("spliced")
        panels[0][0].set_ylabel("unspliced")
        explain(panels[0][-1], drawn, entries, name)
    return figure


def averaged(embedding: np.ndarray, arrows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of a grid (by rows of y) and the arrows there, averages with a Gaussian kernel; NaN where no cells are."""
    low, high = embedding.min(0), embedding.max(0)
    x, y = (np.linspace(a, b, GRID) for a, b in zip(low, high, strict=True))
    step = (high - low) / (GRID - 1)
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    mean, mass = np.zeros((len(points), 2)), np.zeros(len(points))
    for i, point in enumerate(points):
        weight = np.exp(-0.5 * (((embedding - point) / (SMOOTH * step + 1e-12)) ** 2).sum(1))
        mass[i] = weight.sum()
        mean[i] = weight @ arrows / max(mass[i], 1e-12)
    mean[mass < LEAST_MASS * mass.max()] = np.nan
    return points, mean


def _draw_averaged(axes: Axes, embedding: np.ndarray, arrows: np.ndarray, style: str) -> None:
    """Streams or arrows on a grid."""
    points, mean = averaged(embedding, arrows)
    if style == "grid":
        there = np.isfinite(mean).all(1)
        axes.quiver(*points[there].T, *mean[there].T, angles="xy", color="black", width=0.004, headwidth=4)
        return
    x, y = points[:GRID, 0], points[::GRID, 1]
    u, v = np.ma.masked_invalid(mean.T.reshape(2, GRID, GRID))
    width = np.sqrt(u**2 + v**2)
    axes.streamplot(x, y, u, v, color="black", density=1.3, linewidth=(0.4 + 0.9 * width / width.max()), arrowsize=0.9)
