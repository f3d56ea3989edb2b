"""Plots of the score table: circles and bars, and batch mixing against biology."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from textwrap import wrap

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Rectangle

from scduet.errors import DataError
from scduet.metrics import METRICS
from scduet.plots.style import NEUTRAL, STYLE, Figure
from scduet.tasks.quality.shown import notes

BASELINES = ("X_pca", "X_harmony")
_GROUPS = {"bio": ("Biology kept", "Greens"), "batch": ("Batches mixed", "Blues"), "all": ("Means", "Oranges")}
_MEANS = {"bio": "Biology", "batch": "Batch", "total": "Total"}
_WIDE, _BAR, _HIGH = 0.62, 0.95, 0.5  # inches of a circle's column, a bar's column, and a row
_LETTER, _LINE = 0.062, 0.15  # inches of a letter and a line of the notes


def scores(table: pd.DataFrame, starred: Sequence[str] = ()) -> Figure:
    """Plot a table from `scduet.score` as circles (metrics) and bars (means), best total first.

    table: one row per embedding (wide, not long). starred: embeddings of methods that used the labels, marked with a
    star, because label metrics favor them. Circles grow and darken with the value within the metric's range; missing
    values are "–", with the reason below. Baselines are in italics. Raises DataError for another table.
    """
    _check(table)
    table = table.sort_values("total", ascending=False) if table["total"].notna().any() else table
    columns = [(m, METRICS[m].group) for group in ("bio", "batch") for m in table if _is(m, group)]
    columns += [(mean, "all") for mean in _MEANS if table[mean].notna().any()]
    names = [str(name) + (" *" if name in starred else "") for name in table.index]
    left, top = 0.3 + 0.085 * max(map(len, names)), 1.45
    width = left + sum(_BAR if group == "all" else _WIDE for _, group in columns) + 0.2
    told = [line for note in notes(table) for line in wrap(note, int(width / _LETTER))]
    below = top + _HIGH * len(table) + 0.15
    height = below + _LINE * len(told) + (0.1 if told else 0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        _rows(axes, names, list(table.index), top, width)
        x = left
        for column, group in columns:
            draw, step = (_bars, _BAR) if group == "all" else (_circles, _WIDE)
            _header(axes, _MEANS.get(column) or METRICS[column].label, x + step / 2, top)
            draw(axes, column, table[column].to_numpy(float), x, top, _GROUPS[group][1])
            x += step
        _group_names(axes, [group for _, group in columns], left)
        for i, line in enumerate(told):
            axes.text(0.2, below + _LINE * i, line, va="top", fontsize=7, parse_math=False)
    return figure


def tradeoff(table: pd.DataFrame, errors: pd.DataFrame | None = None) -> Figure:
    """Plot the mean of the batch metrics (x) against that of the bio metrics (y); higher is better.

    table: from `scduet.score`. errors: standard deviations over seeds, same index, columns "bio" and "batch", drawn as
    bars. Baselines are gray squares. Raises DataError if no row has both means.
    """
    _check(table)
    shown = table.dropna(subset=["bio", "batch"])
    if not len(shown):
        raise DataError("no embedding has both means", "score with batch_key and labels_key")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.0), layout="constrained")
        axes = figure.add_subplot(xlabel="batches mixed (mean)", ylabel="biology kept (mean)")
        for name, row in shown.iterrows():
            marker, color = ("s", "#777777") if name in BASELINES else ("o", "#0072B2")
            spread = {} if errors is None else {"xerr": errors.loc[name, "batch"], "yerr": errors.loc[name, "bio"]}
            axes.errorbar(row["batch"], row["bio"], marker=marker, color=color, ms=7, lw=1, **spread)
        for name, height in zip(shown.index, _apart(shown["bio"].to_numpy(float)), strict=True):
            end, place = tuple(shown.loc[name, ["batch", "bio"]]), (shown.loc[name, "batch"] + 0.03, height)
            line = {"arrowstyle": "-", "color": NEUTRAL, "lw": 0.6}
            axes.annotate(str(name), end, xytext=place, va="center", arrowprops=line, parse_math=False)
        axes.set(xlim=(0, 1), ylim=(0, 1))  # the full range, so that tiny differences look tiny
    return figure


def _apart(heights: np.ndarray, least: float = 0.06) -> np.ndarray:
    """Heights for names: those of the points, or higher, so that names are a line apart."""
    order, placed = np.argsort(heights, kind="stable"), heights.copy()
    for below, above in pairwise(order):
        placed[above] = max(heights[above], placed[below] + least)
    return placed


def _check(table: pd.DataFrame) -> None:
    missing = [column for column in _MEANS if column not in table]
    if missing or not len(table):
        raise DataError(f"this is not a table of scores: {missing or 'it has no row'}", "pass that of scduet.score")


def _is(column: str, group: str) -> bool:
    return column in METRICS and METRICS[column].group == group


def _rows(axes: Axes, names: Sequence[str], index: Sequence[str], top: float, width: float) -> None:
    for i, (name, key) in enumerate(zip(names, index, strict=True)):
        y = top + i * _HIGH
        if i % 2 == 0:
            axes.add_patch(Rectangle((0.1, y), width - 0.2, _HIGH, facecolor="#f4f4f4", linewidth=0))
        style = "italic" if key in BASELINES else "normal"
        axes.text(0.2, y + _HIGH / 2, name, va="center", fontstyle=style, parse_math=False)


def _header(axes: Axes, label: str, x: float, top: float) -> None:
    axes.text(x - 0.05, top - 0.08, label, rotation=45, ha="left", va="bottom", rotation_mode="anchor", fontsize=8)


def _group_names(axes: Axes, groups: Sequence[str], left: float) -> None:
    x = left
    for group in dict.fromkeys(groups):
        step = groups.count(group) * (_BAR if group == "all" else _WIDE)
        axes.text(x + 0.05, 0.2, _GROUPS[group][0], weight="bold", va="center")
        axes.plot([x + 0.05, x + step - 0.05], [0.36, 0.36], color="#444444", lw=0.8)
        x += step


def _circles(axes: Axes, metric: str, values: np.ndarray, x: float, top: float, cmap: str) -> None:
    row = METRICS[metric]
    size = np.clip((values - row.low) / (row.high - row.low), 0, 1)
    for i, value in enumerate(values):
        y = top + (i + 0.5) * _HIGH
        if np.isnan(value):
            axes.text(x + _WIDE / 2, y, "–", ha="center", va="center", color="#777777")
            continue
        shade = 0.15 + 0.6 * size[i]
        radius = 0.225 * (0.45 + 0.55 * np.sqrt(size[i]))
        axes.add_patch(Circle((x + _WIDE / 2, y), radius, facecolor=matplotlib.colormaps[cmap](shade), linewidth=0))
        _number(axes, x + _WIDE / 2, y, value, shade)


def _bars(axes: Axes, column: str, values: np.ndarray, x: float, top: float, cmap: str) -> None:
    for i, value in enumerate(values):
        y = top + i * _HIGH + 0.08
        axes.add_patch(
            Rectangle((x + 0.06, y), _BAR - 0.12, _HIGH - 0.16, facecolor="white", edgecolor=NEUTRAL, lw=0.6)
        )
        if np.isnan(value):
            continue
        length = (_BAR - 0.12) * float(np.clip(value, 0, 1))
        color = matplotlib.colormaps[cmap](0.35)
        axes.add_patch(Rectangle((x + 0.06, y), length, _HIGH - 0.16, facecolor=color, linewidth=0))
        axes.text(x + 0.12, y + _HIGH / 2 - 0.08, f"{value:.2f}", va="center", fontsize=8)


def _number(axes: Axes, x: float, y: float, value: float, shade: float) -> None:
    text = f"{value:.2f}"
    text = text.removeprefix("0") if text.startswith("0.") else text
    axes.text(x, y, text, ha="center", va="center", fontsize=7, color="white" if shade > 0.6 else "black")
