"""Perturbations that are predicted: exact where the truth is simple, refused where nothing is known."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from named import named
from perturbation_toys import GENES, contexts, screen

import scduet as sd
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.tasks.perturbation import interface
from scduet.tasks.perturbation.baselines import linear_weights

RNG = np.random.default_rng(0)
SINGLES = ["G0", "G1", "G2", "G3", "G4", "G5"]


def additive_screen(seed=0, noise=0.05, n=60):
    """Six genes, and all pairs of the first three as the sum of their changes."""
    rng = np.random.default_rng(seed)
    change = rng.normal(0, 0.5, (6, 60))
    pairs = [(0, 1), (0, 2), (1, 2)]
    names = [*SINGLES, *(f"{SINGLES[i]}+{SINGLES[j]}" for i, j in pairs)]
    return screen(rng, names, np.vstack([change, *(change[i] + change[j] for i, j in pairs)]), n, noise=noise), change


def test_combinations_of_an_additive_screen_are_predicted_to_the_noise():
    cells, change = additive_screen()
    pred = sd.predict_perturbation(cells, "perturbation", ["G4+G3", "G2_G1"])
    assert list(pred.mean.index.get_level_values("target")) == ["G3+G4", "G1+G2"]
    np.testing.assert_allclose(pred.change.loc["all", "G3+G4"], change[3] + change[4], atol=0.06)
    np.testing.assert_allclose(pred.change.loc["all", "G1+G2"], change[1] + change[2], atol=0.06)  # not from its cells
    assert list(pred.support["model"]) == ["additive"] * 2
    rows = pred.table.loc["combination, 2 of 2 seen"]
    assert rows["relative_error"].drop("ceiling").idxmin() == "additive"
    assert rows.loc["additive", "relative_error"] < 0.1 < 0.7 < rows.loc["mean", "relative_error"]
    assert rows.loc["additive", "discrimination"] == 0
    assert rows.loc["ceiling", "delta"] > 0.99


def test_an_observed_perturbation_is_never_learned_from():
    cells, _ = additive_screen()
    own = (cells.obs["perturbation"] == "G0+G1").to_numpy()
    spoiled = cells.copy()
    spoiled.X[own] = 9
    same = [sd.predict_perturbation(x, "perturbation", "G0+G1", evaluate=None).mean for x in (cells, spoiled)]
    pd.testing.assert_frame_equal(*same)


def test_an_unseen_gene_leaves_its_combinations_out_too():
    cells, _ = additive_screen()
    with_gene = cells.obs["perturbation"].str.contains("G0")
    spoiled = cells.copy()
    spoiled.X[with_gene.to_numpy()] = 9
    both = [sd.predict_perturbation(x, "perturbation", "G0", model="linear", evaluate=None) for x in (cells, spoiled)]
    pd.testing.assert_frame_equal(both[0].mean, both[1].mean)
    assert both[0].support["task"].item() == "gene"


def test_the_linear_model_equals_a_direct_solve():
    """W minimizes |Y - b - G W P|^2 with a ridge on each side: (G'G + rI) W (PP' + rI) = G'(Y - b)P', by Kronecker."""
    y, g, p, ridge = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 3)), RNG.normal(size=(2, 4)), 0.1
    weights, offset = linear_weights(y, g, p, ridge)
    np.testing.assert_allclose(offset, y.mean(1))
    left, right = g.T @ g + ridge * np.eye(3), p @ p.T + ridge * np.eye(2)
    direct = np.linalg.solve(np.kron(left, right), (g.T @ (y - y.mean(1, keepdims=True)) @ p.T).ravel())
    np.testing.assert_allclose(weights.ravel(), direct)


def test_the_linear_rule_is_the_published_one():
    """On training means: G their principal components, P the rows of the perturbed genes."""
    cells, _ = additive_screen()
    names = [name for name in cells.obs["perturbation"].unique() if name != "ctrl" and "G5" not in name]
    mean = {name: np.asarray(cells[cells.obs["perturbation"] == name].X).mean(0) for name in [*names, "ctrl"]}
    expression = np.array([*(mean[name] for name in names), mean["ctrl"]], float).T
    centered = expression - expression.mean(0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    g = u[:, :3] * s[:3]
    p = np.array([sum(g[GENES.index(part)] for part in name.split("+")) for name in names]).T
    y = np.array([mean[name] - mean["ctrl"] for name in names], float).T
    b = y.mean(1)
    w = np.linalg.solve(g.T @ g + 0.1 * np.eye(3), g.T @ (y - b[:, None]) @ p.T) @ np.linalg.inv(
        p @ p.T + 0.1 * np.eye(3)
    )
    pred = sd.predict_perturbation(
        cells, "perturbation", "G5", model="linear", n_components=3, evaluate=None, clip=False
    )
    np.testing.assert_allclose(pred.change.to_numpy()[0], g @ w @ g[5] + b, atol=1e-4)


def test_an_unseen_gene_is_predicted_by_an_embedding_that_knows_it_and_by_the_mean_where_none_helps():
    """Two pathways of genes with opposite effects: an embedding of the pathways finds them, a shuffled one does not."""
    rng = np.random.default_rng(1)
    change = rng.normal(0, 0.5, 60)
    names = [f"G{i}" for i in range(12)]
    side = np.tile([1.0, -1.0], 6)
    cells = screen(rng, names, side[:, None] * change, 60)
    told = pd.DataFrame({"pathway": np.tile([1.0, -1.0], 30)}, index=GENES)
    pred = sd.predict_perturbation(cells, "perturbation", ["G13"], gene_embedding=told)
    assert pred.support["model"].item() in ("linear", "neighbors")
    assert np.corrcoef(pred.change.to_numpy()[0], -change)[0, 1] > 0.98
    assert pred.table.loc[("gene", "neighbors"), "relative_error"] < 0.3
    assert pred.table.loc[("gene", "mean"), "relative_error"] > 0.9
    useless = pd.DataFrame(rng.normal(size=(60, 2)), index=GENES)
    by_mean = sd.predict_perturbation(cells, "perturbation", ["G13"], gene_embedding=useless)
    assert by_mean.support["model"].item() == "mean"
    assert any("'G13'" in note for note in by_mean.notes)


def test_gene_sets_are_an_embedding():
    rng = np.random.default_rng(1)
    change = rng.normal(0, 0.5, 60)
    names = [f"G{i}" for i in range(12)]
    cells = screen(rng, names, np.tile([1.0, -1.0], 6)[:, None] * change, 60)
    sets = {"even": GENES[::2], "odd": GENES[1::2]}
    pred = sd.predict_perturbation(
        cells, "perturbation", ["G14"], gene_embedding=sets, model="neighbors", evaluate=None
    )
    assert np.corrcoef(pred.change.to_numpy()[0], change)[0, 1] > 0.98
    assert pred.support["nearest"].item() in GENES[0:12:2]


def test_contexts_weigh_by_likeness_and_the_truth_of_others_is_met():
    rng = np.random.default_rng(2)
    base = {"A": rng.uniform(2, 4, 60), "C": rng.uniform(2, 4, 60)}
    base |= {"B": base["A"] + rng.normal(0, 0.05, 60), "D": base["C"] + rng.normal(0, 0.05, 60)}
    change = {name: rng.normal(0, 0.5, 60) for name in "AC"}
    change |= {"B": change["A"], "D": change["C"]}
    parts = [screen(rng, ["stim"], change[name][None], 60, base[name], context=name) for name in "ABCD"]
    cells = ad.concat(parts, index_unique="-")
    cells = cells[~((cells.obs["context"] == "B") & (cells.obs["perturbation"] == "stim"))].copy()
    pred = sd.predict_perturbation(cells, "perturbation", context_key="context")
    assert list(pred.mean.index) == [("B", "stim")]
    assert pred.support["model"].item() == "weighted"
    assert pred.support["nearest"].item() == "A"
    assert np.corrcoef(pred.change.loc["B", "stim"], change["A"])[0, 1] > 0.95
    equal = sd.predict_perturbation(cells, "perturbation", context_key="context", model="additive", clip=False)
    mean = (change["A"] + 2 * change["C"]) / 3
    np.testing.assert_allclose(equal.change.loc["B", "stim"], mean, atol=0.06)


def test_controls_are_matched_within_batches():
    """Batches shift expression, and two perturbations are in one of them: only matched controls give their changes."""
    rng = np.random.default_rng(3)
    base, shift, change = rng.uniform(2, 4, 60), rng.uniform(0.5, 1, 60), rng.normal(0, 0.5, (3, 60))
    one = screen(rng, ["G0"], change[:1], 80, base)
    two = screen(rng, ["G1", "G2"], change[1:], 80, base + shift)
    cells = ad.concat([one, two], label="run", keys=["1", "2"], index_unique="-")
    wanted = {"evaluate": None, "clip": False}
    matched = sd.predict_perturbation(cells, "perturbation", "G1+G2", batch_key="run", **wanted).change.to_numpy()[0]
    np.testing.assert_allclose(matched, change[1:].sum(0), atol=0.1)
    without = sd.predict_perturbation(cells, "perturbation", "G1+G2", **wanted).change.to_numpy()[0]
    np.testing.assert_allclose(without, change[1:].sum(0) + shift, atol=0.1)  # half of the shift for each


def test_doses_are_interpolated_and_never_beyond_the_largest():
    rng = np.random.default_rng(4)
    change, doses = rng.normal(0, 0.5, 60), np.array([1.0, 3, 9])
    cells = screen(rng, ["drug1", "drug2", "drug3"], np.log1p(doses)[:, None] * change / 2, 60)
    dose = cells.obs["perturbation"].map({"ctrl": 0.0, "drug1": 1.0, "drug2": 3.0, "drug3": 9.0})
    cells.obs = cells.obs.assign(dose=dose, drug=np.where(dose > 0, "drug", "ctrl"))
    pred = sd.predict_perturbation(cells, "drug", ["drug@5", "drug@0.5"], dose_key="dose", clip=False)
    for asked in (5, 0.5):
        np.testing.assert_allclose(pred.change.loc["all", f"drug@{asked}"], np.log1p(asked) * change / 2, atol=0.08)
    assert pred.table.loc[("dose", "interpolation"), "relative_error"] < 0.2
    with pytest.raises(OptionError, match=named("'drug@20'", 9)):
        sd.predict_perturbation(cells, "drug", "drug@20", dose_key="dose")
    cells.obs.loc[cells.obs["drug"] == "drug", "dose"] = np.nan
    with pytest.raises(DataError, match=named("'dose'")):
        sd.predict_perturbation(cells, "drug", "drug@5", dose_key="dose")


def test_escaped_cells_are_left_out_of_training_alone():
    rng = np.random.default_rng(5)
    change = np.vstack([rng.normal(0, 0.5, 60)] * 2)
    cells = screen(rng, ["G0", "G1"], change, 60)
    escaped = (cells.obs["perturbation"] != "ctrl").to_numpy() & (np.arange(cells.n_obs) % 2 == 0)
    cells.X[escaped] = np.asarray(cells.X)[(cells.obs["perturbation"] == "ctrl").to_numpy()].mean(0)
    cells.obs["mixscape_class_global"] = np.where(escaped, "NP", "KO")
    wanted = {"drop_escaped": "mixscape_class_global", "clip": False}
    with pytest.warns(ScduetWarning, match="drop_escaped"):
        pred = sd.predict_perturbation(cells, "perturbation", "G0+G1", **wanted)
    np.testing.assert_allclose(pred.change.to_numpy()[0], change.sum(0), atol=0.1)
    with pytest.warns(ScduetWarning, match="drop_escaped"):
        truth = sd.predict_perturbation(cells, "perturbation", **wanted).profiles["all", "G1"]["observed"]
    np.testing.assert_allclose(truth, change[1] / 2, atol=0.08)  # half of the cells escaped, and are in the truth
    with pytest.raises(DataError, match="'perturbation'"):
        sd.predict_perturbation(cells, "perturbation", "G0+G1", drop_escaped="perturbation")


def test_cells_are_control_cells_moved_and_their_mean_is_the_prediction():
    cells = contexts(np.random.default_rng(6))
    cells = cells[~((cells.obs["context"] == "A") & (cells.obs["perturbation"] == "stim"))].copy()
    pred = sd.predict_perturbation(
        cells, "perturbation", context_key="context", cells="cells", clip=False, evaluate=None
    )
    assert list(pred.cells.obs["source"]) == list(cells.obs_names[(cells.obs["context"] == "A")])
    np.testing.assert_allclose(pred.cells.X.toarray().mean(0), pred.mean.loc["A", "stim"], rtol=1e-4)
    np.testing.assert_allclose(pred.cells.layers["change"], np.tile(pred.change.loc["A", "stim"], (40, 1)), atol=1e-4)


class Adds:
    """A model that learned the change of each context's nearest neighbor: here, of all contexts."""

    def __init__(self, cells):
        x, perturbed = cells.layers["lognormal"].toarray(), cells.obs["perturbation"] == "stim"
        self.seen = set(zip(cells.obs["context"], cells.obs["perturbation"], strict=True))
        self.change = x[perturbed.to_numpy()].mean(0) - x[~perturbed.to_numpy()].mean(0)

    def predict_perturbed(self, control, context, perturbation):
        assert (context, "stim") not in self.seen  # what is held out was not trained on
        x = control.layers["lognormal"].toarray() * 0.5  # a poor reconstruction, which is subtracted
        return x if perturbation == "control" else x + self.change


def adds(cells, *, seed, callback, **options):
    return Adds(cells)


def test_a_model_of_the_table_is_trained_without_what_it_predicts(monkeypatch):
    monkeypatch.setattr(interface, "MODELS", {"adds": f"{__name__}:adds"})
    for module in ("choice", "predict_perturbation"):
        monkeypatch.setattr(f"scduet.tasks.perturbation.{module}.MODELS", interface.MODELS)
    cells = contexts(np.random.default_rng(7))
    pred = sd.predict_perturbation(
        cells, "perturbation", "stim", context_key="context", contexts=["A"], model="adds", cells="cells", clip=False
    )
    np.testing.assert_allclose(pred.change.to_numpy()[0][:10], 1, atol=0.35)
    np.testing.assert_allclose(pred.cells.X.toarray().mean(0), pred.mean.to_numpy()[0], rtol=1e-3)
    rows = pred.table.loc["context"]
    assert rows.loc["adds", "n"] == 3  # the most for which a model is trained
    assert rows.loc["additive", "n"] == 4
    auto = sd.predict_perturbation(
        cells, "perturbation", "stim", context_key="context", contexts=["A"], compare=["adds"]
    )
    assert auto.support["model"].item() in ("weighted", "adds")
    few = cells[cells.obs["context"].isin(["A", "B"])].copy()
    with pytest.raises(DataError, match=named("'adds'", 1, 2)):
        sd.predict_perturbation(few, "perturbation", "stim", context_key="context", contexts="A", model="adds")


def test_where_nothing_happens_nothing_is_ranked():
    cells = screen(np.random.default_rng(8), SINGLES, np.zeros((6, 60)), 30)
    pred = sd.predict_perturbation(cells, "perturbation")
    assert set(pred.held_out["verdict"]) == {"", "no measurable effect"}
    assert pred.table.empty
    assert pred.mean.empty


def test_a_prediction_that_hardly_moves_is_called_no_transfer(monkeypatch):
    cells = contexts(np.random.default_rng(9))
    x = cells.X
    far = (cells.obs["context"] == "A").to_numpy() & (cells.obs["perturbation"] == "stim").to_numpy()
    x[far, :10] += 3  # A responds four times as much as the others
    pred = sd.predict_perturbation(cells, "perturbation", "stim", context_key="context", contexts="A")
    assert pred.support["verdict"].item() == "no transfer"


def test_two_contexts_have_no_likeness_to_weigh_by():
    cells = contexts(np.random.default_rng(10), ("A", "B", "C"))
    pred = sd.predict_perturbation(cells, "perturbation", "stim", context_key="context", contexts="C")
    assert pred.support["model"].item() == "additive"
    with pytest.raises(DataError, match=named("'weighted'", 2, 3)):
        sd.predict_perturbation(cells, "perturbation", "stim", context_key="context", contexts="C", model="weighted")


@pytest.mark.parametrize(
    ("change", "options", "error", "names"),
    [
        ({}, {"control": "NT"}, DataError, ("'NT'",)),
        ({}, {"targets": "UNKNOWN"}, DataError, ("'UNKNOWN'",)),
        ({}, {"targets": "UNKNOWN1+UNKNOWN2"}, DataError, ("'UNKNOWN1'",)),
        ({}, {"targets": "G50", "gene_embedding": pd.DataFrame({"x": range(6)}, SINGLES)}, DataError, ("'G50'",)),
        ({}, {"targets": "ctrl"}, OptionError, ("'ctrl'",)),
        ({}, {"model": "wieghted"}, OptionError, ("'wieghted'", "weighted")),
        ({}, {"targets": "G0+G3", "model": "weighted"}, OptionError, ("'weighted'", "'G0+G3'")),
        ({}, {"contexts": "A"}, OptionError, ("context_key",)),
        ({}, {"cells": "many"}, OptionError, ("'cells'", "'many'")),
        ({}, {"evaluate": "all"}, OptionError, ("'evaluate'",)),
        ({}, {"n_splits": 0}, OptionError, ("'n_splits'",)),
        ({}, {"ridge": -1}, OptionError, ("'ridge'",)),
        ({}, {"max_epochs": 3}, OptionError, ("'max_epochs'",)),
        ({}, {"compare": ["linear"]}, OptionError, ("'linear'",)),
        ({}, {"model": object()}, OptionError, ("object",)),
        ({}, {"batch_key": "nowhere"}, DataError, ("'nowhere'",)),
        ({}, {"gene_embedding": 5}, OptionError, ("gene_embedding",)),
        ({}, {"gene_embedding": pd.DataFrame({"x": [1.0]}, ["other"])}, DataError, ("'other'",)),
        ({"negative": True}, {}, DataError, ("X",)),
        ({"unlogged": True}, {}, DataError, ("X",)),
        ({"n": 15}, {}, DataError, (15, 20)),
    ],
)
def test_bad_input_is_named(change, options, error, names):
    cells, _ = additive_screen(n=change.get("n", 30))
    if "negative" in change:
        cells.X = cells.X - 5
    if "unlogged" in change:
        cells.X = cells.X * 50 + 0.5
    with pytest.raises(error, match=named(*names)):
        sd.predict_perturbation(cells, "perturbation", **options)


def test_few_cells_are_told_and_a_context_without_controls_is_left_out_or_refused():
    cells, _ = additive_screen(n=30)
    few = cells[np.r_[0:30, 30:38, 60 : cells.n_obs]].copy()  # eight cells of G0
    with pytest.warns(ScduetWarning, match="'G0'"):
        sd.predict_perturbation(few, "perturbation", evaluate=None)
    many = contexts(np.random.default_rng(11))
    many = many[~((many.obs["context"] == "D") & (many.obs["perturbation"] == "ctrl"))].copy()
    with pytest.warns(ScduetWarning, match=named("D", 20)):
        pred = sd.predict_perturbation(many, "perturbation", "stim", context_key="context", contexts="A")
    assert pred.support["n_rows"].item() == 2
    with pytest.raises(DataError, match=named("D", 20)):
        sd.predict_perturbation(many, "perturbation", "stim", context_key="context", contexts="D")


def test_counts_are_normalized_and_that_is_said():
    rng = np.random.default_rng(12)
    cells, _ = additive_screen(n=30)
    counts = cells.copy()
    counts.X = rng.poisson(np.expm1(np.asarray(cells.X))).astype(np.float32)
    of_counts = sd.predict_perturbation(counts, "perturbation", "G3+G4", evaluate=None)
    x = counts.X / counts.X.sum(1, keepdims=True) * 1e4
    counts.X = np.log1p(x)
    logged = sd.predict_perturbation(counts, "perturbation", "G3+G4", evaluate=None)
    np.testing.assert_allclose(of_counts.mean, logged.mean, rtol=1e-4)
    assert any("counts" in note for note in of_counts.notes)
    assert not any("counts" in note for note in logged.notes)
    assert of_counts.notes[0] in repr(of_counts)


def test_two_spellings_of_a_pair_are_one_perturbation():
    cells, _ = additive_screen()
    other = cells.copy()
    own = np.flatnonzero(other.obs["perturbation"] == "G0+G1")[::2]
    names = other.obs["perturbation"].astype(object).to_numpy()
    names[own] = "G1+G0"
    other.obs["perturbation"] = names
    both = [sd.predict_perturbation(x, "perturbation").held_out for x in (cells, other)]
    assert "G1+G0" not in set(both[1]["target"])
    pd.testing.assert_frame_equal(*both)
