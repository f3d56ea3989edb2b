"""Arrows point where the velocities do; phase portraits have the slopes they are given."""

import numpy as np
import pytest
from named import named

import scduet as sd
from scduet.errors import DataError, OptionError

DRAW = np.random.default_rng(0)
PLACES = DRAW.uniform(0, 1, (300, 2))
RIGHT = np.tile([1.0, 0.0], (300, 1))
KIND = np.array(["a", "b", "c"])[DRAW.integers(0, 3, 300)]


@pytest.mark.parametrize("style", ["grid", "cells"])
def test_arrows_are_those_of_the_cells(style):
    (axes,) = sd.pl.velocity(PLACES, RIGHT, KIND, style=style, name="kind").axes
    arrows = axes.collections[-1]
    np.testing.assert_allclose(arrows.U, 1)
    np.testing.assert_allclose(arrows.V, 0, atol=1e-12)
    assert len(arrows.U) == (300 if style == "cells" else pytest.approx(720, abs=80))  # not in the gaps between cells


def test_streams_run_along_the_arrows_and_numbers_get_a_color_bar():
    figure = sd.pl.velocity(PLACES, RIGHT, np.arange(300.0), name="time")
    lines = figure.axes[0].collections[-1].get_segments()
    assert max(abs(line[-1][1] - line[0][1]) for line in lines) < 1e-9
    assert figure.axes[0].child_axes[0].get_ylabel() == "time"


def test_phase_portraits_have_slopes():
    s = np.linspace(0, 4, 300)
    genes = {"Sox2": (s, 0.5 * s), "Pax6": (s, 2 * s)}
    figure = sd.pl.phase_portraits(genes, KIND, slopes={"Sox2": 0.5, "Pax6": 2.0}, fits={"Sox2": (s, s)})
    assert [axes.get_title() for axes in figure.axes] == ["Sox2", "Pax6"]
    for axes, slope in zip(figure.axes, (0.5, 2.0), strict=True):
        (x0, x1), (y0, y1) = axes.lines[0].get_data()
        assert (y1 - y0) / (x1 - x0) == pytest.approx(slope)
    assert [len(axes.collections) for axes in figure.axes] == [2, 1]


def test_bad_input_is_named():
    with pytest.raises(OptionError, match=named("'style'", "'wind'")):
        sd.pl.velocity(PLACES, RIGHT, KIND, style="wind")
    with pytest.raises(DataError, match=named(299, 300)):
        sd.pl.velocity(PLACES, RIGHT, KIND[1:])
    with pytest.raises(DataError, match=named("(300, 1)")):
        sd.pl.velocity(PLACES, RIGHT[:, :1], KIND)
    with pytest.raises(DataError, match=named("'Sox2'")):
        sd.pl.phase_portraits({"Sox2": (np.ones(3), np.ones(2))}, KIND)
