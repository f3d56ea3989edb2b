"""Panels hold every cell in its own colour, and legends stay outside the panels and inside the picture."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from named import named

from scduet.errors import DataError, OptionError
from scduet.plots import categorical_colors, embedding_panels, save_figure

POINTS = np.random.default_rng(0).normal(size=(60, 2))
BATCH = pd.Categorical(["a", "b", "b"] * 20)
DEPTH = np.arange(60.0)


def panels(figure):
    return [axes for axes in figure.axes if axes.collections and len(axes.collections[0].get_offsets()) == 60]


def test_a_panel_for_each_embedding_and_annotation():
    figure = embedding_panels({"PCA": POINTS, "scVI": POINTS * 2}, {"batch": BATCH, "depth": DEPTH})
    assert [axes.get_title() for axes in figure.axes[:4]] == ["PCA", "scVI", "", ""]
    assert [axes.get_xlabel() for axes in figure.axes[:4]] == ["", "", "UMAP 1", "UMAP 1"]
    assert [axes.get_ylabel() for axes in figure.axes[:4]] == ["UMAP 2", "", "UMAP 2", ""]
    for axes, scale in zip(figure.axes[:4], (1, 2, 1, 2), strict=True):
        drawn = np.asarray(axes.collections[0].get_offsets())
        np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(POINTS * scale, axis=0))
        assert axes.collections[0].get_rasterized()


def test_every_cell_has_the_colour_of_its_level():
    figure = embedding_panels({"scVI": POINTS}, {"batch": BATCH})
    drawn, colors = figure.axes[0].collections[0], categorical_colors(["a", "b"])
    of_point = {tuple(p): to_hex(c) for p, c in zip(drawn.get_offsets(), drawn.get_facecolors(), strict=True)}
    assert all(of_point[tuple(p)] == colors[b].lower() for p, b in zip(POINTS, BATCH, strict=True))
    legend = figure.axes[0].get_legend()
    assert legend.get_title().get_text() == "batch"
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert [to_hex(mark.get_color()) for mark in legend.legend_handles] == [colors["a"].lower(), colors["b"].lower()]


def test_numbers_get_a_colour_bar():
    figure = embedding_panels({"scVI": POINTS}, {"depth": DEPTH})
    drawn = figure.axes[0].collections[0]
    value = {tuple(p): v for p, v in zip(drawn.get_offsets(), drawn.get_array(), strict=True)}
    assert all(value[tuple(p)] == d for p, d in zip(POINTS, DEPTH, strict=True))
    assert figure.axes[0].get_legend() is None
    assert drawn.colorbar.ax.get_ylabel() == "depth"


@pytest.mark.parametrize(
    "levels", [["a", "b"], [f"a rather long name of a cell type {i}" for i in range(40)], ["$", "_x"]]
)
def test_the_legend_is_beside_the_panel_and_inside_the_picture(levels):
    figure = embedding_panels({"scVI": POINTS}, {"an annotation with a long name": np.resize(levels, 60)})
    figure.draw_without_rendering()
    legend = figure.axes[0].get_legend().get_window_extent()
    assert legend.x0 >= figure.axes[0].get_window_extent().x1
    assert legend.x1 <= figure.bbox.x1
    assert len(figure.axes[0].get_legend().get_texts()) == len(levels)


def test_cells_without_annotation_are_grey_and_named():
    labels = pd.Series(["T", None, "B"] * 20)
    figure = embedding_panels({"scVI": POINTS}, {"label": labels})
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["B", "T", "not annotated"]
    assert sum(to_hex(c) == "#c8c8c8" for c in figure.axes[0].collections[0].get_facecolors()) == 20


@pytest.mark.parametrize("n", [2, 6, 7, 10, 11, 30, 60])
def test_colours_differ(n):
    colors = categorical_colors([str(i) for i in range(n)])
    assert len(set(colors.values())) == n == len(colors)


def test_wrong_shapes_are_named():
    with pytest.raises(DataError, match=named(59, 60)):
        embedding_panels({"scVI": POINTS}, {"batch": BATCH[1:]})
    with pytest.raises(DataError, match=named("'scVI'", "(60, 3)")):
        embedding_panels({"scVI": np.zeros((60, 3))}, {"batch": BATCH})
    with pytest.raises(DataError, match=named("embedding", "annotation")):
        embedding_panels({}, {"batch": BATCH})


def test_figures_are_saved_by_the_ending(tmp_path):
    figure = embedding_panels({"scVI": POINTS}, {"batch": BATCH})
    assert save_figure(figure, tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert b">batch<" in save_figure(figure, tmp_path / "x.svg").read_bytes()
    with pytest.raises(OptionError, match=named("'x.doc'", ".png")):
        save_figure(figure, tmp_path / "x.doc")
