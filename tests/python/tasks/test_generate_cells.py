"""Cells that a model makes, and how they are judged."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from named import named

import scduet as sd
from scduet.errors import DataError, OptionError

SILENT = {"callback": lambda event: None}
SMALL = {"n_hidden": 32, "n_latent": 5, "max_epochs": 40, "lr": 5e-3, **SILENT}


@pytest.fixture(scope="module")
def cells():
    """600 cells of two types in two batches, the second of which has three times the counts."""
    draw = np.random.default_rng(0)
    kind, batch = draw.integers(0, 2, 600), draw.integers(0, 2, 600)
    profile = draw.dirichlet(np.full(80, 0.7), 2)
    library = draw.integers(200, 400, 600) * np.where(batch == 1, 3, 1)
    x = draw.poisson(library[:, None] * profile[kind])
    obs = {
        "kind": np.array(["A", "B"])[kind],
        "batch": np.array(["few", "many"])[batch],
        "number": draw.normal(size=600),
    }
    names = [f"cell{i}" for i in range(600)]
    return anndata.AnnData(sp.csr_matrix(x.astype(np.float32)), obs=pd.DataFrame(obs, index=names))


@pytest.fixture(scope="module")
def model(cells):
    return sd.fit(cells, "scvi", batch_key="batch", labels_key="kind", gene_likelihood="poisson", **SMALL)


def shares(adata):
    total = np.asarray(adata.X.sum(0)).ravel()
    return total / total.sum()


def test_cells_of_a_type_have_its_expression_and_the_library_of_their_source(cells, model):
    made = sd.generate_cells(model, 400, label="A")
    assert set(made.obs["kind"]) == {"A"}
    assert sp.issparse(made.X)
    assert (made.X.data == np.rint(made.X.data)).all()
    source = cells[made.obs["source"].to_numpy()]  # places among the cells trained on
    assert (source.obs["kind"] == "A").all()
    assert (source.obs["batch"].to_numpy() == made.obs["batch"]).all()
    expected, drawn = np.asarray(source.X.sum(1)).ravel(), np.asarray(made.X.sum(1)).ravel()
    assert np.abs((drawn - expected) / np.sqrt(expected)).mean() < 1.0  # 0.8 of a Poisson variable
    apart = np.abs(shares(cells[cells.obs["kind"] == "A"]) - shares(cells[cells.obs["kind"] == "B"])).sum()
    assert np.abs(shares(made) - shares(cells[cells.obs["kind"] == "A"])).sum() < 0.1 * apart
    assert (made.X[0] != cells[made.obs["source"].iloc[0]].X).nnz > 0  # no copies


def test_types_come_in_the_shares_of_the_data_and_seeds_repeat(cells, model):
    made, again, other = (sd.generate_cells(model, 500, seed=seed) for seed in (1, 1, 2))
    assert (made.X != again.X).nnz == 0
    assert made.obs.equals(again.obs)
    assert (made.X != other.X).nnz > 0
    assert abs((made.obs["kind"] == "A").mean() - (cells.obs["kind"] == "A").mean()) < 0.07
    both = sd.generate_cells(model, 50, label=["A", "B"], adata=cells[:100])
    assert set(both.obs["source"]) <= set(cells.obs_names[:100])


def test_the_library_and_the_batch_can_be_set(model):
    fixed = sd.generate_cells(model, 200, library=1000)
    assert abs(fixed.X.sum(1).mean() - 1000) < 10
    sizes = np.linspace(100, 5000, 50)
    assert np.corrcoef(np.asarray(sd.generate_cells(model, 50, library=sizes).X.sum(1)).ravel(), sizes)[0, 1] > 0.99
    assert set(sd.generate_cells(model, 20, batch="many").obs["batch"]) == {"many"}


def test_a_loaded_model_makes_cells_of_cells_that_are_passed(cells, model, tmp_path):
    model.save(tmp_path / "model")
    loaded = sd.load(tmp_path / "model")
    with pytest.raises(DataError, match=named("adata")):
        sd.generate_cells(loaded, 5)
    made = sd.generate_cells(loaded, 30, adata=cells, label="B", labels_key="kind", seed=3)
    assert (made.X != sd.generate_cells(model, 30, adata=cells, label="B", seed=3).X).nnz == 0


def test_a_model_of_log_normalized_values_gives_these(cells):
    logged = cells.copy()
    logged.X = sp.csr_matrix(np.log1p(1e4 * cells.X.toarray() / cells.X.sum(1)).astype(np.float32))
    trained = sd.fit(logged, "scgen", labels_key="kind", **{**SMALL, "lr": 3e-3, "max_epochs": 60})
    made = sd.generate_cells(trained, 300, label="B")
    real = logged[logged.obs["kind"] == "B"].X
    assert made.X.min() >= 0
    assert np.corrcoef(made.X.toarray().mean(0), real.toarray().mean(0))[0, 1] > 0.95
    assert made.X.toarray().var(0).sum() < real.toarray().var(0).sum()


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"n": 0}, OptionError, "'n'"),
        ({"n": 2.5}, OptionError, "'n'"),
        ({"label": "C"}, DataError, "'C'"),
        ({"label": ["A", "C"]}, DataError, "'C'"),
        ({"label": "A", "labels_key": "nowhere"}, DataError, "'nowhere'"),
        ({"library": 0}, OptionError, "library"),
        ({"library": [1, 2, 3]}, OptionError, "library"),
        ({"library": "many"}, OptionError, "library"),
        ({"batch": "none"}, DataError, "'none'"),
    ],
)
def test_bad_options_are_named(model, options, error, name):
    with pytest.raises(error, match=named(name)):
        sd.generate_cells(model, **{"n": 5, **options})


def test_a_model_without_types_needs_to_be_told(cells):
    plain = sd.fit(cells, "scvi", **{**SMALL, "max_epochs": 1})
    assert sd.generate_cells(plain, 3).obs.columns.tolist() == ["source"]
    with pytest.raises(OptionError, match=named("labels_key")):
        sd.generate_cells(plain, 3, label="A")


def test_the_table_ranks_what_is_generated(cells, model):
    """Copies are called copies; means are told from cells; real cells and the model's pass."""
    held_out, training = cells[:200], cells[200:]
    copies = training[np.random.default_rng(0).choice(400, 200, replace=False)].copy()
    mean = anndata.AnnData(np.repeat(np.log1p(1e4 * shares(training))[None], 200, 0), obs=training.obs[:200].copy())
    mean.var_names = training.var_names
    sets = {"scVI": sd.generate_cells(model, 300), "copies": copies, "mean": mean}
    table = sd.score_generated(sets, held_out, training=training, labels_key="kind")
    assert list(table.index) == ["real cells", "genes shuffled within types", "scVI", "copies", "mean"]
    passing = ["real cells", "scVI", "copies", "genes shuffled within types"]
    assert (table.loc[["real cells", "copies"], "auc_forest"] < 0.6).all()
    assert (table.loc[passing, "auc_forest"] < 0.8).all()
    assert table.loc["mean", "auc_forest"] > 0.95
    assert table.loc["mean", "energy_distance"] > 10 * table.loc[passing, "energy_distance"].abs().max()
    assert table.loc["copies", "copied"] == 1
    assert (table.loc[["real cells", "scVI"], "copied"] < 0.2).all()
    assert (table.loc[["real cells", "scVI"], "type"] > 0.95).all()
    assert (table.loc[["real cells", "scVI"], "trains"] > 0.95).all()
    assert table.attrs["n_cells"] == 200
    halves = sd.score_generated(copies, cells, max_cells=100)
    assert list(halves.index) == ["real cells", "genes shuffled within types", "generated"]
    assert "type" not in halves


def test_cells_that_cannot_be_judged_are_refused(cells):
    with pytest.raises(DataError, match=named("'nowhere'")):
        sd.score_generated(cells, cells, labels_key="nowhere")
    with pytest.raises(DataError, match=named(20)):
        sd.score_generated(cells[:5], cells)
    other = cells.copy()
    other.var_names = [f"x{i}" for i in range(80)]
    with pytest.raises(DataError, match=named("genes")):
        sd.score_generated(other, cells)
    with pytest.raises(OptionError, match=named("generated=")):
        sd.score_generated({"real cells": cells}, cells)
