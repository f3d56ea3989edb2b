"""Spots at their places in a tissue: one value a spot, or the proportions of cell types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, PatchCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Wedge

from scduet.errors import DataError, OptionError, some
from scduet.plots.embedding import legend_entries
from scduet.plots.style import NEUTRAL, STYLE, Figure, categorical_colors

MANY_PIES = 3000  # a figure of more cannot be read, and takes minutes to write
N_PANELS = 12
COLUMNS = 4
FILLED = 0.95  # diameter of a spot relative to the distance between spots, where the file tells no diameter

Places = Float[np.ndarray, "spot 2"]


def spatial(spots: Any, color: str, *, basis: str = "spatial", image: bool = True, size: float = 3.6) -> Figure:
    """Plot one value of each spot at its place: a column of obs, a gene (as in X), or a cell type of `deconvolve`.

    spots: AnnData with coordinates (x to the right, y down) in obsm[basis]. color: looked up in obs, var_names, then in
        the columns of every DataFrame in obsm. image: draw the tissue behind, where uns["spatial"] has it.

    Raises DataError without coordinates, and OptionError for a color that is not there.
    """
    places, values = coordinates(spots, basis), _values(spots, color)
    levels = legend_entries(values)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(size + 1.2, size), layout="constrained")
        axes = figure.subplots()
        if levels:
            colors = [NEUTRAL if pd.isna(value) else levels[str(value)] for value in values]
            _circles(axes, spots, places, image, facecolors=colors)
            _legend(figure, levels)
        else:
            drawn = _circles(axes, spots, places, image, array=np.asarray(values, float), cmap="viridis")
            figure.colorbar(drawn, ax=axes, shrink=0.6)
        axes.set_title(color, parse_math=False)
    return figure


def proportions(
    spots: Any,
    key: str = "proportions",
    *,
    types: Sequence[str] | None = None,
    kind: Literal["panels", "pies"] = "panels",
    basis: str = "spatial",
    image: bool = False,
    size: float = 2.2,
) -> Figure:
    """Plot the proportions of cell types that `deconvolve` wrote, at the places of the spots.

    spots: AnnData with proportions in obsm[key] and coordinates (x to the right, y down) in obsm[basis]. types: which
        to draw; None for the 12 most frequent. kind: "panels" has one for each type, each with a scale of its own, in
        order of frequency. "pies" has one pie for each spot, and the other types in gray; for up to 3,000 spots.
    image: draw the tissue behind, where uns["spatial"] has it. size: of a panel, in inches.

    Raises DataError without coordinates or proportions, and OptionError for types that are not there.
    """
    if kind not in ("panels", "pies"):
        raise OptionError(f"kind={kind!r}", "it is 'panels' or 'pies'")
    places, table = coordinates(spots, basis), _table(spots, key)
    shown = _shown(table, types)
    with matplotlib.rc_context(STYLE):
        if kind == "pies":
            return _pies(spots, places, table, shown, image, size)
        n_columns = min(COLUMNS, len(shown))
        n_rows = -(-len(shown) // n_columns)
        figure = Figure(figsize=(n_columns * (size + 0.5), n_rows * (size + 0.2)), layout="constrained")
        panels = np.ravel(figure.subplots(n_rows, n_columns, squeeze=False))
        for axes, name in zip(panels, shown, strict=False):
            drawn = _circles(axes, spots, places, image, array=table[name].to_numpy(float), cmap="viridis")
            drawn.set_clim(0, None)
            figure.colorbar(drawn, ax=axes, shrink=0.7)
            axes.set_title(f"{name} ({table[name].mean():.1%})", parse_math=False)
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
    return figure


def coordinates(spots: Any, basis: str = "spatial") -> Places:
    """Places of the spots in two dimensions. Raises DataError where there are none, or not for all spots."""
    stored = getattr(spots, "obsm", {})
    if basis not in stored:
        remedy = f"put x and y into obsm[{basis!r}], or pass basis=; obsm has {some(stored, 9)}"
        raise DataError(f"no coordinates in obsm[{basis!r}]", remedy)
    found = np.asarray(stored[basis], np.float64)
    if found.ndim != 2 or found.shape[1] < 2:
        raise DataError(f"obsm[{basis!r}] has shape {found.shape}", "a figure needs (spot, 2): x and y")
    lost = ~np.isfinite(found[:, :2]).all(1)
    if lost.any():
        raise DataError(f"{lost.sum()} spots have no coordinates: {some(spots.obs_names[lost])}", "remove them")
    return found[:, :2]


def _table(spots: Any, key: str) -> pd.DataFrame:
    stored = getattr(spots, "obsm", {})
    if not isinstance(stored.get(key), pd.DataFrame):
        tables = [name for name in stored if isinstance(stored[name], pd.DataFrame)]
        raise DataError(
            f"no proportions in obsm[{key!r}]", f"run deconvolve first; obsm has the tables {some(tables, 9)}"
        )
    return stored[key]


def _shown(table: pd.DataFrame, types: Sequence[str] | None) -> list[str]:
    if types is None:
        return [str(name) for name in table.mean().sort_values(ascending=False, kind="stable").index[:N_PANELS]]
    wanted = [types] if isinstance(types, str) else list(types)
    absent = [name for name in wanted if name not in table]
    if absent or not wanted:
        raise OptionError(f"types={some(absent)} are not there", f"there are {some(table.columns, 30)}")
    return wanted


def _values(spots: Any, color: str) -> Any:
    if color in spots.obs:
        return spots.obs[color]
    if color in spots.var_names:
        column = spots[:, color].X
        return np.ravel(column.toarray() if hasattr(column, "toarray") else column)
    for table in spots.obsm.values():
        if isinstance(table, pd.DataFrame) and color in table:
            return table[color]
    tables = [name for table in spots.obsm.values() if isinstance(table, pd.DataFrame) for name in table]
    raise OptionError(f"no {color!r} to color by", f"obs has {some(spots.obs.columns, 9)}; obsm has {some(tables, 20)}")


def _circles(axes: Axes, spots: Any, places: Places, image: bool, **look: Any) -> EllipseCollection:
    """Circles of the size of a spot, with the tissue behind if there is one."""
    diameter = np.full(len(places), _diameter(spots, places))
    drawn = EllipseCollection(
        diameter, diameter, np.zeros(len(places)), units="xy", offsets=places, offset_transform=axes.transData,
        linewidths=0, rasterized=True, **look,
    )  # fmt: skip
    axes.add_collection(drawn)
    _frame(axes, spots, places, diameter[0], image)
    return drawn


def _frame(axes: Axes, spots: Any, places: Places, diameter: float, image: bool) -> None:
    """Axes of equal units with y down, around the spots."""
    picture = _picture(spots) if image else None
    if picture is not None:
        pixels, scale = picture
        height, width = pixels.shape[:2]
        axes.imshow(pixels, extent=(0, width / scale, height / scale, 0), zorder=0)
    low, high = places.min(0) - diameter, places.max(0) + diameter
    axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _diameter(spots: Any, places: Places) -> float:
    """Of a spot, in units of the coordinates: as the file tells, else nearly the distance of the nearest neighbor."""
    for library in _libraries(spots):
        told = library.get("scalefactors", {}).get("spot_diameter_fullres")
        if told:
            return float(told)
    from scipy.spatial import cKDTree

    if len(places) < 2:
        return 1.0
    apart = cKDTree(places).query(places, k=2)[0][:, 1]
    return FILLED * float(np.median(apart[apart > 0])) if (apart > 0).any() else 1.0


def _picture(spots: Any) -> tuple[np.ndarray, float] | None:
    """The tissue's picture, and its pixels for each unit of the coordinates; None where it is not stored."""
    for library in _libraries(spots):
        for name in ("hires", "lowres"):
            pixels = library.get("images", {}).get(name)
            scale = library.get("scalefactors", {}).get(f"tissue_{name}_scalef")
            if pixels is not None and scale:
                return np.asarray(pixels), float(scale)
    return None


def _libraries(spots: Any) -> list[dict]:
    stored = getattr(spots, "uns", {}).get("spatial", {})
    return [library for library in stored.values() if hasattr(library, "get")] if hasattr(stored, "values") else []


def _pies(spots: Any, places: Places, table: pd.DataFrame, shown: list[str], image: bool, size: float) -> Figure:
    if len(table) > MANY_PIES:
        raise OptionError(f"{len(table)} pies cannot be read", "pass kind='panels', or fewer spots")
    colors = categorical_colors(shown)
    share = np.column_stack([table[shown].to_numpy(float), np.clip(1 - table[shown].sum(axis=1), 0, None)])
    diameter = _diameter(spots, places)
    figure = Figure(figsize=(2.5 * size + 1.6, 2.5 * size), layout="constrained")
    axes = figure.subplots()
    wedges, faces = [], []
    for place, row in zip(places, share, strict=True):
        ends = np.concatenate([[0], np.cumsum(row / row.sum())]) * 360
        for i in np.flatnonzero(np.diff(ends) > 0.5):
            wedges.append(Wedge(tuple(place), diameter / 2, ends[i], ends[i + 1]))
            faces.append([*colors.values(), NEUTRAL][i])
    axes.add_collection(PatchCollection(wedges, facecolors=faces, linewidths=0))
    _frame(axes, spots, places, diameter, image)
    _legend(figure, {**colors, **({"other types": NEUTRAL} if len(shown) < table.shape[1] else {})})
    return figure


def _legend(figure: Figure, colors: dict[str, str]) -> None:
    marks = [Line2D([], [], marker="o", ls="", ms=5, color=color) for color in colors.values()]
    legend = figure.legend(marks, list(colors), loc="outside right center", handletextpad=0.1)
    for text in legend.get_texts():
        text.set_parse_math(False)
