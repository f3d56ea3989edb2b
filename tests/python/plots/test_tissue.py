"""Figures of tissues: circles of the right size, place and color; pies with the right angles; what cannot be drawn."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection, PatchCollection
from named import named

import scduet as sd
from scduet.errors import DataError, OptionError


@pytest.fixture
def spots():
    """A grid of 5 x 4 spots, 10 units apart."""
    places = np.array([[10 * x, 10 * y] for y in range(4) for x in range(5)], float)
    made = ad.AnnData(np.arange(40, dtype=np.float32).reshape(20, 2), obsm={"spatial": places})
    made.var_names = ["CD3E", "MS4A1"]
    share = np.linspace(0, 1, 20)
    table = {"B": share / 2, "T": share / 2, "NK": 1 - share}
    made.obsm["proportions"] = pd.DataFrame(table, made.obs_names)
    made.obs["region"] = pd.Categorical(["left", "right"] * 10)
    return made


def circles(axes):
    return next(part for part in axes.collections if isinstance(part, EllipseCollection))


def test_panels_show_each_type_at_its_place(spots):
    figure = sd.pl.proportions(spots)
    titled = {axes.get_title().split(" (")[0]: axes for axes in figure.axes if axes.get_title()}
    assert list(titled) == ["NK", "B", "T"]
    for name, axes in titled.items():
        drawn = circles(axes)
        assert np.allclose(drawn.get_array(), spots.obsm["proportions"][name])
        assert np.allclose(drawn.get_offsets(), spots.obsm["spatial"])
        assert np.allclose(drawn.get_widths(), 9.5)
        low, high = axes.get_ylim()
        assert low > high  # y goes down
    assert len(sd.pl.proportions(spots, types=["T"]).axes) == 2  # a panel and its scale


def test_pies_have_the_angles_of_the_proportions(spots):
    figure = sd.pl.proportions(spots, kind="pies", types=["NK", "B"])
    pies = next(part for part in figure.axes[0].collections if isinstance(part, PatchCollection))
    assert len(pies.get_paths()) == 1 + 18 * 3 + 2  # only NK in the first spot, none in the last
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["NK", "B", "other types"]
    many = ad.AnnData(np.zeros((3001, 1)), obsm={"spatial": np.random.default_rng(0).random((3001, 2))})
    many.obsm["proportions"] = pd.DataFrame(np.full((3001, 2), 0.5), many.obs_names, ["B", "T"])
    with pytest.raises(OptionError, match=named("3001", "panels")):
        sd.pl.proportions(many, kind="pies")


def test_spots_are_colored_by_columns_genes_and_types(spots):
    assert np.allclose(circles(sd.pl.spatial(spots, "MS4A1").axes[0]).get_array(), np.arange(1, 40, 2))
    assert np.allclose(circles(sd.pl.spatial(spots, "NK").axes[0]).get_array(), spots.obsm["proportions"]["NK"])
    figure = sd.pl.spatial(spots, "region")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["left", "right"]
    assert len(np.unique(circles(figure.axes[0]).get_facecolors(), axis=0)) == 2


def test_the_tissue_is_drawn_behind_at_its_scale(spots):
    scale = {"tissue_hires_scalef": 0.5, "spot_diameter_fullres": 8.0}
    spots.uns["spatial"] = {"slide": {"images": {"hires": np.zeros((30, 40, 3))}, "scalefactors": scale}}
    axes = sd.pl.spatial(spots, "NK").axes[0]
    assert tuple(axes.images[0].get_extent()) == (0, 80, 60, 0)
    assert np.allclose(circles(axes).get_widths(), 8)
    assert len(sd.pl.spatial(spots, "NK", image=False).axes[0].images) == 0


def test_what_is_missing_is_named(spots):
    with pytest.raises(OptionError, match=named("'CD19'", "'region'", "'NK'")):
        sd.pl.spatial(spots, "CD19")
    with pytest.raises(OptionError, match=named("'CD8'", "'NK'")):
        sd.pl.proportions(spots, types=["CD8"])
    with pytest.raises(OptionError, match=named("'bars'", "pies")):
        sd.pl.proportions(spots, kind="bars")
    with pytest.raises(DataError, match=named("obsm['shares']", "'proportions'")):
        sd.pl.proportions(spots, "shares")
    spots.obsm["spatial"][3] = np.nan
    with pytest.raises(DataError, match=named("'3'", "coordinates")):
        sd.pl.spatial(spots, "NK")
    del spots.obsm["spatial"]
    with pytest.raises(DataError, match=named("obsm['spatial']", "basis=")):
        sd.pl.proportions(spots)
