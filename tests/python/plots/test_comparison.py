"""Confusion and response figures show the numbers of the metrics, baselines beside."""

import numpy as np
import pytest
from named import named
from perturbation_toys import contexts

from scduet import metrics
from scduet.errors import DataError, OptionError
from scduet.plots import confusion, perturbation

RNG = np.random.default_rng(0)
CONTROL = RNG.normal(2, 0.2, (50, 30))
CHANGE = np.r_[np.full(5, 2.0), np.zeros(25)]
TREATED = CONTROL[:40] + CHANGE
GENES = [f"gene{i}" for i in range(30)]


def test_confusion_counts_cells_and_shows_f1():
    truth, called = ["B", "B", "T$x$", "T$x$"], ["B", "T$x$", "T$x$", "Unknown"]
    figure = confusion(truth, called)
    matrix, bars = figure.axes
    np.testing.assert_allclose(matrix.images[0].get_array(), [[0.5, 0.5, 0], [0, 0.5, 0.5]])
    assert [t.get_text() for t in matrix.get_yticklabels()] == ["B (2)", "T$x$ (2)"]
    assert [t.get_text() for t in matrix.get_xticklabels()] == ["B", "T$x$", "Unknown"]
    assert sorted(t.get_text() for t in matrix.texts) == ["1"] * 4
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], metrics.per_class(truth, called)["f1"])


def test_response_shows_changes_and_baselines():
    figure = perturbation(TREATED, TREATED.mean(0), CONTROL, GENES, baselines={"mean": CONTROL.mean(0) + 0.1}, n_top=5)
    changes, bars = figure.axes
    np.testing.assert_allclose(changes.collections[0].get_offsets()[:, 0], TREATED.mean(0) - CONTROL.mean(0))
    assert {t.get_text() for t in changes.texts} == set(GENES[:5])
    top = metrics.top_genes(TREATED, CONTROL, 5)
    expected = [0, metrics.mse(TREATED, CONTROL, genes=top), metrics.mse(TREATED, CONTROL.mean(0) + 0.1, genes=top)]
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], expected, atol=1e-12)
    assert [t.get_text() for t in bars.get_yticklabels()] == ["model", "no change", "mean"]


def test_no_change_has_no_delta_and_says_so():
    assert "undefined" in perturbation(TREATED, CONTROL.mean(0), CONTROL, GENES).axes[0].get_title()


def test_genes_must_match():
    with pytest.raises(DataError, match=named("predicted", "(40, 29)", 30)):
        perturbation(TREATED, TREATED[:, 1:], CONTROL, GENES)


def test_held_out_perturbations_are_drawn_beside_every_rule_and_the_ceiling():
    import scduet as sd

    cells = contexts(np.random.default_rng(0))
    scores = sd.predict_perturbation(cells, "perturbation", "stim", context_key="context", contexts="A")
    points, bars = perturbation(scores, context="B").axes
    assert "stim in B" in points.get_title()
    profile = scores.profiles["B", "stim"]
    drawn = points.collections[0].get_offsets()
    np.testing.assert_allclose(drawn, profile[["observed", "weighted"]], rtol=1e-6)
    names = [label.get_text() for label in bars.get_yticklabels()]
    assert set(names) == {"no change", "mean", "additive", "weighted", "neighbors"}
    widths = dict(zip(names, [bar.get_width() for bar in bars.patches], strict=True))
    assert widths["no change"] == 1
    assert widths["weighted"] == pytest.approx(scores.table.loc[("context", "weighted"), "relative_error"])
    with pytest.raises(OptionError, match="nothing"):
        perturbation(scores, target="nothing")
    with pytest.raises(OptionError, match="linear"):
        perturbation(scores, model="linear")
    with pytest.raises(DataError):
        perturbation(sd.predict_perturbation(cells, "perturbation", "stim", context_key="context", evaluate=None))
    with pytest.raises(OptionError, match="control"):
        perturbation(CONTROL)
