"""Outside predictions are scored by the same rule as ours, and known perturbations recognize a change."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from named import named
from perturbation_toys import GENES, contexts, screen

import scduet as sd
from scduet.errors import DataError, OptionError, ScduetWarning

NAMES = [f"G{i}" for i in range(8)]


def eight(seed=0, noise=0.3, size=0.4):
    rng = np.random.default_rng(seed)
    change = rng.normal(0, size, (8, 60)) + rng.normal(0, size, 60)
    return screen(rng, NAMES, change, 60, noise=noise), change


def test_the_truth_itself_scores_best_and_its_table_is_that_of_the_rules():
    cells, change = eight()
    base = np.asarray(cells[cells.obs["perturbation"] == "ctrl"].X).mean(0)
    perfect = pd.DataFrame(base + change, NAMES, GENES)
    scores = sd.score_perturbation(perfect, cells, "perturbation")
    rows = scores.table.loc["gene"]
    assert rows["relative_error"].drop("ceiling").idxmin() == "prediction"
    assert rows.loc["prediction", "delta"] > 0.95
    assert rows.loc["prediction", "discrimination"] == 0
    assert rows.loc["prediction", "delta"] == pytest.approx(rows.loc["ceiling", "delta"], abs=0.02)
    changes = sd.score_perturbation(pd.DataFrame(change, NAMES, GENES), cells, "perturbation", kind="change").table
    floor = changes.loc[("gene", "ceiling"), "relative_error"]
    assert changes.loc[("gene", "prediction"), "relative_error"] == pytest.approx(floor, rel=0.15)
    ours = sd.predict_perturbation(cells, "perturbation").table.loc["gene"]
    pd.testing.assert_frame_equal(rows.drop("prediction"), ours, check_like=True)


def test_changes_means_cells_and_several_predictions_are_taken_alike():
    cells, change = eight()
    base = np.asarray(cells[cells.obs["perturbation"] == "ctrl"].X).mean(0)
    means = pd.DataFrame(base + change, NAMES, GENES)
    of_cells = ad.AnnData(np.repeat(means.to_numpy(), 3, 0), pd.DataFrame({"perturbation": np.repeat(NAMES, 3)}))
    of_cells.var_names = GENES
    both = sd.score_perturbation({"means": means, "cells": of_cells}, cells, "perturbation").table.loc["gene"]
    np.testing.assert_allclose(both.loc["means"], both.loc["cells"], rtol=1e-5)
    as_change = sd.score_perturbation(pd.DataFrame(change, NAMES, GENES), cells, "perturbation", kind="change")
    assert as_change.table.loc[("gene", "prediction"), "delta"] > 0.95
    with_context = contexts(np.random.default_rng(0))
    pred = sd.predict_perturbation(with_context, "perturbation", "stim", context_key="context", contexts=["A", "B"])
    again = sd.score_perturbation(pred, with_context, "perturbation", context_key="context")
    assert set(again.held_out["context"]) == {"A", "B"}
    row = again.table.loc["context"]
    assert row.loc["prediction", "relative_error"] == pytest.approx(row.loc["weighted", "relative_error"], abs=0.05)


def test_a_prediction_from_all_controls_of_no_effect_is_exposed_by_cells_that_it_has_not_seen():
    """The mean of the others "predicts" nothing: r is the closed form with shared controls, 0 with others."""
    rng = np.random.default_rng(1)
    names = [f"P{i}" for i in range(30)]
    cells = screen(rng, names, np.zeros((30, 60)), 50, noise=1.0)
    perturbed = (cells.obs["perturbation"] != "ctrl").to_numpy()
    x = np.asarray(cells.X, float)
    grand = x[perturbed].mean(0)
    guess = pd.DataFrame(np.tile(grand, (30, 1)), names, GENES)
    controls = cells.obs_names[~perturbed]
    expected = sd.metrics.shared_control_inflation(50, 50)
    shared = sd.score_perturbation(guess, cells, "perturbation", controls="shared").held_out
    assert shared[shared["method"] == "mean"]["delta"].mean() == pytest.approx(expected, abs=0.1)
    seen = list(controls[:25])
    apart = sd.score_perturbation(guess, cells, "perturbation", control_cells=seen).held_out
    split = sd.score_perturbation(guess, cells, "perturbation", n_splits=20).held_out
    for found in (apart, split):
        assert abs(found[found["method"] == "mean"]["delta"].mean()) < 0.2
    assert split["delta_shared"].dropna().mean() > 0.5


def test_what_leaked_into_training_is_refused_and_rules_learn_from_the_rest():
    cells, change = eight()
    base = np.asarray(cells[cells.obs["perturbation"] == "ctrl"].X).mean(0)
    guess = pd.DataFrame(base + change[:2], NAMES[:2], GENES)
    for leak in ("G0", "G0+ctrl", "ctrl+G0", "G0_sg1"):
        with pytest.raises(DataError, match=named("'G0'")):
            sd.score_perturbation(guess, cells, "perturbation", trained_on=["G5", leak])
    few = sd.score_perturbation(guess, cells, "perturbation", trained_on=NAMES[6:])
    mean = few.profiles["all", "G0"]["mean"]
    np.testing.assert_allclose(mean, change[6:].mean(0), atol=0.2)
    with pytest.raises(DataError, match="trained_on"):
        sd.score_perturbation(guess, cells, "perturbation", trained_on=["X1"])


@pytest.mark.parametrize(
    ("predictions", "options", "error", "names"),
    [
        (pd.DataFrame(np.zeros((1, 60)), ["Z"], GENES), {}, DataError, ("'Z'",)),
        (pd.DataFrame(np.zeros((1, 2)), ["G0"], ["x", "y"]), {}, DataError, ("'x'",)),
        (pd.DataFrame(np.full((1, 60), np.nan), ["G0"], GENES), {}, DataError, ("NaN",)),
        (pd.DataFrame(np.zeros((2, 60)), ["G0", "G0+ctrl"], GENES), {}, DataError, ("'G0+ctrl'",)),
        (5, {}, DataError, ("int",)),
        (pd.DataFrame(np.zeros((1, 60)), ["G0"], GENES), {"context_key": "context"}, DataError, ("context",)),
        (pd.DataFrame(np.zeros((1, 60)), ["G0"], GENES), {"kind": "log"}, OptionError, ("'kind'",)),
        (pd.DataFrame(np.zeros((1, 60)), ["G0"], GENES), {"control_cells": ["no"]}, DataError, ("control_cells",)),
        (ad.AnnData(np.zeros((2, 60), np.float32)), {}, DataError, ("'perturbation'",)),
    ],
)
def test_bad_predictions_are_named(predictions, options, error, names):
    cells, _ = eight()
    with pytest.raises(error, match=named(*names)):
        sd.score_perturbation(predictions, cells, "perturbation", **options)


def test_predictions_without_a_truth_are_named_and_left_out():
    cells, change = eight()
    guess = pd.DataFrame(np.vstack([change[:1], change[:1]]), ["G0", "Z"], GENES)
    with pytest.warns(ScduetWarning, match="Z"):
        found = sd.score_perturbation(guess, cells, "perturbation", kind="change").held_out
    assert set(found["target"]) == {"G0"}


def test_cells_of_a_perturbation_are_recognized():
    cells, change = eight(noise=0.5)
    own = np.flatnonzero(cells.obs["perturbation"] == "G3")
    profile, rest = cells[own[:30]].copy(), cells[np.setdiff1d(np.arange(cells.n_obs), own[:30])].copy()
    for given in (profile, pd.Series(change[3], GENES)):
        ranked = sd.rank_perturbations(given, rest, "perturbation")
        assert ranked.index[0] == "G3"
        assert ranked["similarity_vs_mean"].idxmax() == "G3"
        assert ranked.attrs["chance_rank"] == 4.5
        assert list(ranked["rank"]) == list(range(1, 9))
    kinds = {name: ("low" if i < 4 else "high") for i, name in enumerate(NAMES)}
    by_kind = sd.rank_perturbations(profile, rest, "perturbation", mechanisms=kinds)
    assert by_kind.loc["G3", "mechanism"] == "low"
    assert by_kind.attrs["mechanisms"].loc["low", "best_rank"] == 1


def test_cells_in_which_nothing_happened_are_like_no_perturbation():
    """Against the same controls they would be alike to all: the noise of the control mean would be in both."""
    rng = np.random.default_rng(2)
    cells = screen(rng, NAMES, np.zeros((8, 60)), 40, noise=1.0)
    unknown = screen(rng, ["G0"], np.zeros((1, 60)), 40, np.full(60, 3.0), noise=1.0)
    base = np.asarray(cells[cells.obs["perturbation"] == "ctrl"].X).mean(0)
    unknown.X = np.asarray(unknown.X) - 3 + base.clip(2)
    found = sd.rank_perturbations(unknown, cells, "perturbation", n_splits=20)
    assert not found["measurable"].any()


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        (pd.Series([1.0, 2], ["x", "y"]), ("'x'",)),
        (pd.Series(np.ones(60), GENES), ("same",)),
        (pd.Series(np.r_[np.nan, np.arange(59)], GENES), ("missing",)),
        (pd.Series(np.arange(60.0), ["G0", *GENES[:-1]]), ("'G0'",)),
    ],
)
def test_bad_profiles_are_named(profile, names):
    with pytest.raises(DataError, match=named(*names)):
        sd.rank_perturbations(profile, eight()[0], "perturbation")
