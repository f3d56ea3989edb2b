"""Scatter plots of two-dimensional embeddings, one column per embedding and one row per annotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from scduet.errors import DataError
from scduet.plots.style import NEUTRAL, STYLE, Figure, categorical_colors

_LEGEND_ROWS = 14  # more levels than this start a second column


def embedding_panels(
    coordinates: Mapping[str, Float[np.ndarray, "cell 2"]],
    annotations: Mapping[str, Sequence[Any]],
    *,
    axes_name: str = "UMAP",
    size: float = 2.7,
    legend: bool = True,
) -> Figure:
    """Scatter plots of every embedding (column) colored by every annotation (row).

    `coordinates`: title -> (cell, 2). `annotations`: title -> one value per cell; numbers get a color bar, others a
    legend outside the panels unless `legend=False`. `size`: of one panel, in inches. Cells are drawn in random order,
    so that no group hides another, and rasterized, so that a PDF of a million cells can be opened.
    """
    _check(coordinates, annotations)
    entries = [legend_entries(values) for values in annotations.values()]
    with matplotlib.rc_context(STYLE):
        room = max(map(legend_width, annotations, entries)) if legend else 0.0
        figure, panels = grid(len(annotations), len(coordinates), size, room)
        for row, (annotation, values), levels in zip(panels, annotations.items(), entries, strict=True):
            drawn = [scatter(axes, np.asarray(xy), values) for axes, xy in zip(row, coordinates.values(), strict=True)]
            row[0].set_ylabel(f"{axes_name} 2")
            if legend:
                explain(row[-1], drawn[-1], levels, annotation)
        for axes, title in zip(panels[0], coordinates, strict=True):
            axes.set_title(title, parse_math=False)
        for axes in panels[-1]:
            axes.set_xlabel(f"{axes_name} 1")
    return figure


def legend_entries(values: Sequence[Any]) -> dict[str, str]:
    """The legend of `values`: level -> color, in the order of the categories; empty for numbers."""
    if _numeric(values):
        return {}
    categories = pd.Categorical(values)
    levels = [str(level) for level in categories.remove_unused_categories().categories]
    return categorical_colors(levels) | ({"not annotated": NEUTRAL} if (categories.codes < 0).any() else {})


def grid(
    n_rows: int, n_columns: int, size: float, legend: float, gap: float = 0.15, left: float = 0.3
) -> tuple[Figure, list[list[Axes]]]:
    """Square panels of `size` inches with space for titles, axis labels, and a legend on the right."""
    top, bottom = 0.3, 2 * left - 0.3
    width = left + n_columns * (size + gap) + legend
    height = top + n_rows * (size + gap) - gap + bottom
    figure = Figure(figsize=(width, height))

    def panel(row: int, column: int) -> Axes:
        x, y = left + column * (size + gap), height - top - size - row * (size + gap)
        return figure.add_axes((x / width, y / height, size / width, size / height))

    return figure, [[panel(row, column) for column in range(n_columns)] for row in range(n_rows)]


def _check(coordinates: Mapping[str, Any], annotations: Mapping[str, Sequence[Any]]) -> None:
    if not coordinates or not annotations:
        raise DataError("nothing to draw", "give at least one embedding and one annotation")
    n_cells = {len(values) for values in (*coordinates.values(), *annotations.values())}
    if len(n_cells) > 1:
        raise DataError(f"embeddings and annotations differ in their number of cells: {sorted(n_cells)}")
    for title, points in coordinates.items():
        if np.ndim(points) != 2 or np.shape(points)[1] != 2:
            raise DataError(f"{title!r} has shape {np.shape(points)}", "a figure needs (cell, 2)")


def scatter(axes: Axes, points: Float[np.ndarray, "cell 2"], values: Sequence[Any], alpha: float = 1.0):
    """The cells in random order, colored by `values`."""
    order = np.random.default_rng(0).permutation(len(points))
    numeric = _numeric(values)
    color = np.asarray(values, dtype=float) if numeric else np.array(cell_colors(values))
    scale = {"cmap": "viridis", "plotnonfinite": True} if numeric else {}
    drawn = axes.scatter(
        *points[order].T, c=color[order], s=point_size(len(points)), linewidths=0, rasterized=True, alpha=alpha, **scale
    )
    axes.set(xticks=[], yticks=[])
    axes.margins(0.04)
    return drawn


def point_size(n_cells: int) -> float:
    """Point size decreases with the number of cells as in scanpy, with a minimum."""
    return float(np.clip(9000 / n_cells, 0.6, 14))


def explain(axes: Axes, drawn: Any, levels: dict[str, str], title: str) -> None:
    """The legend of levels, or the color bar of numbers, to the right of a row's last panel."""
    if not levels:
        axes.figure.colorbar(drawn, cax=axes.inset_axes((1.06, 0.15, 0.05, 0.7)), label=title)
        return
    marks = [Line2D([], [], marker="o", ls="", ms=5, color=color) for color in levels.values()]
    legend = axes.legend(
        marks, list(levels), loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=_columns(levels), title=title,
        alignment="left", handletextpad=0.1, columnspacing=0.8, borderaxespad=0.4,
    )  # fmt: skip
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)  # a cell type may be called "$"


def _numeric(values: Sequence[Any]) -> bool:
    series = pd.Series(values)
    return pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_bool_dtype(series)


def cell_colors(values: Sequence[Any]) -> list[str]:
    colors = legend_entries(values)
    return [NEUTRAL if pd.isna(value) else colors[str(value)] for value in values]


def _columns(levels: dict[str, str]) -> int:
    return 1 + (len(levels) - 1) // _LEGEND_ROWS


def legend_width(title: str, levels: dict[str, str]) -> float:
    """Width of the legend in inches, from the extent of its longest text."""
    if not levels:
        return 0.8
    return 0.25 + max(_text_width(title), _columns(levels) * (max(map(_text_width, levels)) + 0.35))


def _text_width(text: str) -> float:
    return TextPath((0, 0), text.replace("$", "S"), size=STYLE["legend.fontsize"]).get_extents().width / 72
