"""The figure of scores shows the table's own numbers, in the order of the totals, and says what is missing."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Circle
from named import named

from scduet.errors import DataError
from scduet.plots import scores, tradeoff

TABLE = pd.DataFrame(
    {
        "silhouette_label": [0.55, 0.64, 0.61],
        "nmi_kmeans": [0.71, 0.92, np.nan],
        "bras": [0.43, 0.87, 0.9],
        "bio": [0.55, 0.64, 0.61],
        "batch": [0.43, 0.87, 0.9],
        "total": [0.5, 0.73, 0.72],
        "rank": [3, 1, 2],
    },
    index=pd.Index(["X_pca", "X_scVI", "X_$odd$"], name="embedding"),
)


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_rows_are_in_the_order_of_the_total_and_numbers_are_the_tables():
    shown = texts(scores(TABLE, starred=["X_scVI"]))
    assert [t for t in shown if t.startswith("X_")] == ["X_scVI *", "X_$odd$", "X_pca"]
    assert {".64", ".92", ".87", "0.73", "–"} < set(shown)
    assert {"Biology kept", "Batches mixed", "Means", "Silhouette label", "BRAS", "Total"} < set(shown)


def test_circles_grow_with_the_value_and_missing_ones_have_none():
    figure = scores(TABLE)
    circles = [p for p in figure.axes[0].patches if isinstance(p, Circle)]
    assert len(circles) == 8
    silhouette = sorted((c for c in circles if c.center[0] == circles[0].center[0]), key=lambda c: c.center[1])
    assert np.argsort([-c.radius for c in silhouette]).tolist() == [0, 1, 2]  # 0.64, 0.61, 0.55 from the top


def with_reasons():
    table = TABLE.copy()
    table.attrs = {
        "reasons": {"X_pca": {}, "X_scVI": {}, "X_$odd$": {"nmi_kmeans": "it needs an embedding, and " * 12}},
        "notes": ["Harmony is not installed"],
    }
    return table


def test_the_figure_tells_the_reasons():
    shown = " ".join(texts(scores(with_reasons())))
    assert "NMI k-means is not defined for X_$odd$: it needs" in shown
    assert "Harmony is not installed" in shown


@pytest.mark.parametrize("table", [TABLE, with_reasons()], ids=["numbers", "notes"])
def test_everything_is_inside_the_picture(table):
    figure = scores(table)
    figure.canvas.draw()
    width, height = figure.bbox.max
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width + 60 * figure.dpi / 110  # a slanted header may lean over the last bar
        assert box.y1 <= height


def test_tradeoff_puts_embeddings_where_their_means_are():
    figure = tradeoff(TABLE, errors=TABLE[["bio", "batch"]] / 10)
    points = {t.get_text(): t.xy for t in figure.axes[0].texts}
    assert points == {name: (row.batch, row.bio) for name, row in TABLE.iterrows()}


def test_names_of_close_embeddings_do_not_overlap():
    close = TABLE.assign(batch=[0.3, 0.75, 0.76], bio=[0.9, 0.905, 0.9])
    figure = tradeoff(close)
    figure.canvas.draw()
    names = figure.axes[0].texts
    heights = sorted(figure.axes[0].transData.transform(name.xyann)[1] for name in names)
    assert np.diff(heights).min() > names[0].get_fontsize() * figure.dpi / 72


@pytest.mark.parametrize("table", [TABLE.drop(columns="total"), TABLE.iloc[:0], pd.DataFrame({"value": [1]})])
def test_other_tables_are_refused(table):
    with pytest.raises(DataError, match=named("scduet.score")):
        scores(table)
    with pytest.raises(DataError):
        tradeoff(table)


def test_tradeoff_needs_both_means():
    with pytest.raises(DataError, match=named("batch_key", "labels_key")):
        tradeoff(TABLE.assign(batch=np.nan))
