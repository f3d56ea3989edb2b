"""Proteins predicted from RNA: near the truth that was hidden, judged on cells that were held out, bad input named."""

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from named import assert_named, named

import scduet as sd
from scduet.cli import main
from scduet.errors import DataError, OptionError
from scduet.events import silent
from scduet.tasks.quality import simple_regressors
from scduet.tasks.quality.simple_regressors import REGRESSORS

METHODS = ["totalvi", "knn", "ridge", "kernel_ridge", "mean"]


def simulated(n=400):
    """Three types in two batches; RNA and six proteins by type. One protein was not stained for in the second batch."""
    draw = np.random.default_rng(0)
    kind, batch = draw.integers(0, 3, n), draw.integers(0, 2, n)
    genes = draw.poisson(draw.gamma(0.6, 4, (3, 40))[kind] * draw.gamma(5, 0.2, (n, 1)) + 0.05)
    level = np.array([[40, 5, 5], [5, 40, 5], [5, 5, 40], [60, 60, 5], [5, 80, 80], [30, 3, 30]]).T
    proteins = draw.poisson(draw.gamma(6, level[kind] / 6)).astype(np.float32)
    obs = pd.DataFrame({"batch": [f"b{i}" for i in batch], "kind": kind}, [f"c{i}" for i in range(n)])
    adata = anndata.AnnData(genes.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(40)]))
    table = pd.DataFrame(proteins, obs.index, [*(f"p{i}" for i in range(5)), "HLA-A/B"])
    adata.obsm["truth"] = table.copy()
    table.loc[obs["batch"] == "b1", "p4"] = np.nan
    table.iloc[-100:] = np.nan  # cells of RNA alone
    adata.obsm["protein"] = table
    return adata


@pytest.fixture(scope="module")
def adata():
    return simulated()


@pytest.fixture(scope="module")
def model(adata):
    options = {"batch_key": "batch", "n_hidden": 32, "n_latent": 6, "max_epochs": 60, "batch_size": 64}
    return sd.fit(adata, "totalvi", protein_key="protein", callback=silent, **options)


@pytest.fixture
def query(adata):
    """The cells of RNA alone."""
    query = adata[-100:].copy()
    del query.obsm["protein"]
    return query


def correlations(predicted, truth):
    return [np.corrcoef(predicted.iloc[:, j], np.log1p(truth.iloc[:, j]))[0, 1] for j in range(truth.shape[1])]


def test_what_was_hidden_is_predicted_and_what_was_not_stained_for_in_a_batch_too(model, query):
    table = sd.predict_modality(model, query)
    predicted = query.obsm["predicted_protein"]
    assert list(predicted.columns) == ["p0", "p1", "p2", "p3", "p4", "HLA-A-B"]
    assert np.mean(correlations(predicted, query.obsm["truth"])) > 0.75
    unstained = query.obs["batch"] == "b1"
    assert correlations(predicted[unstained], query.obsm["truth"][unstained])[4] > 0.75
    off = predicted.to_numpy() - np.log1p(query.obsm["truth"].to_numpy())
    assert np.sqrt(np.square(off).mean()) < 0.7 * table.loc["mean", "rmse"]
    assert list(table.index) == METHODS
    assert table.loc["totalvi", "pearson"] == pytest.approx(
        np.mean(correlations(predicted, query.obsm["truth"])), abs=0.1
    )
    told = query.uns["predicted_protein"]
    assert told == {"method": "totalvi", **table.loc["totalvi", ["pearson", "rmse"]].to_dict()}


def test_the_table_is_of_cells_that_were_held_out(model, query, adata):
    """Its rows of simple methods are what these find when taught the other cells alone."""
    from scduet.data.samplers import split

    table = sd.predict_modality(model, query)
    train, held_out = split(400, model.training.train_size, model.training.seed)
    assert (table["n_cells"] == (held_out < 300).sum()).all()
    known, judged = train[train < 300], held_out[held_out < 300]
    values = np.log1p(adata.obsm["protein"].to_numpy(float))
    (scores,) = simple_regressors.scores_of(adata.X, known, [])
    for name in ("knn", "ridge", "kernel_ridge"):
        complete = REGRESSORS[name](scores[known], values[known][:, :4], 0)(scores[judged])
        found = [np.corrcoef(complete[:, j], values[judged, j])[0, 1] for j in range(4)]
        np.testing.assert_allclose(table.attrs["by_feature"][name].to_numpy()[:4], found, rtol=1e-6)
    assert np.isnan(table.loc["mean", "pearson"])
    assert table.loc["mean", "rmse"] > 1.5 * table.loc["ridge", "rmse"]


@pytest.mark.parametrize("use", ["knn", "ridge", "kernel_ridge", "best"])
def test_simple_methods_predict_too(model, query, use):
    table = sd.predict_modality(model, query, use=use, key_added="by_other")
    method = table["pearson"].idxmax() if use == "best" else use
    assert table.attrs["used"] == query.uns["by_other"]["method"] == method
    assert np.mean(correlations(query.obsm["by_other"], query.obsm["truth"])) > 0.75


@pytest.mark.parametrize("use", ["model", "ridge"])
def test_the_spread_covers_the_truth_as_often_as_it_should(model, query, use):
    """A normal is within two standard deviations of its mean in 95 % of cases; neither far wider nor narrower."""
    sd.predict_modality(model, query, use=use)
    spread, names = query.obsm["predicted_protein_sd"], query.obsm["predicted_protein"].columns
    assert list(spread.columns) == list(names)
    off = (query.obsm["predicted_protein"].to_numpy() - np.log1p(query.obsm["truth"].to_numpy())) / spread.to_numpy()
    assert (np.abs(off) < 2).mean() > 0.87
    assert (spread.std() == 0).all() == (use == "ridge")
    assert 0.4 < np.sqrt(np.square(off).mean()) < 1.5


def test_proteins_of_the_query_are_not_looked_at(model, query, adata):
    sd.predict_modality(model, query)
    with_proteins = adata[-100:].copy()
    with_proteins.obsm["protein"] = with_proteins.obsm["truth"] * 100
    sd.predict_modality(model, with_proteins)
    pd.testing.assert_frame_equal(with_proteins.obsm["predicted_protein"], query.obsm["predicted_protein"])


def test_a_mudata_of_other_cells_and_a_loaded_model(model, query, adata, tmp_path):
    model.save(tmp_path / "model")
    loaded = sd.load(tmp_path / "model")
    with pytest.raises(DataError, match=named("reference=")):
        sd.predict_modality(loaded, query)
    with pytest.raises(DataError, match=named(100, 400, "reference=")):
        sd.predict_modality(loaded, query, reference=query)
    expected = sd.predict_modality(model, query)
    pd.testing.assert_frame_equal(sd.predict_modality(loaded, query.copy(), reference=adata), expected)
    alone = anndata.AnnData(query.X, query.obs[["batch"]], query.var)
    mdata = mudata.MuData({"rna": alone})
    mdata.obs["batch"] = alone.obs["batch"]
    sd.predict_modality(loaded, mdata, reference=adata)
    pd.testing.assert_frame_equal(mdata.obsm["predicted_protein"], query.obsm["predicted_protein"])


def test_kernel_ridge_is_the_formula():
    draw = np.random.default_rng(0)
    x, y, new = draw.normal(size=(30, 5)), draw.normal(size=(30, 2)), draw.normal(size=(7, 5))
    a, b = ((one - one.mean(1, keepdims=True)) / one.std(1, keepdims=True) for one in (x, new))

    def kernel(p, q):
        return np.exp(-np.square(p[:, None] - q[None]).sum(-1) / 200)

    weights = np.linalg.inv(kernel(a, a) + 0.2 * np.eye(30)) @ (y - y.mean(0))
    np.testing.assert_allclose(simple_regressors.kernel_ridge(x, y, 0)(new), y.mean(0) + kernel(b, a) @ weights)


def test_bad_input_is_named(model, query, adata):
    with pytest.raises(OptionError, match=named("'totalvi'", "'atac'", "protein")):
        sd.predict_modality(model, query, "atac")
    with pytest.raises(OptionError, match=named("'rna'", "'totalvi'")):
        sd.predict_modality(model, query, "rna")
    with pytest.raises(OptionError, match=named("use='lasso'", "ridge")):
        sd.predict_modality(model, query, use="lasso")
    with pytest.raises(OptionError, match=named("'n_samples'", 0)):
        sd.predict_modality(model, query, n_samples=0)
    query.obsm["mine"] = np.ones((100, 2))
    with pytest.raises(OptionError, match=named("obsm['mine']", "key_added=")):
        sd.predict_modality(model, query, key_added="mine")
    query.obs["batch"] = "b7"
    with pytest.raises(DataError, match=named("'batch'", "b7", "map_query()")):
        sd.predict_modality(model, query)
    few = adata.copy()
    few.obsm["protein"].iloc[20:] = np.nan
    small = sd.fit(few, "totalvi", protein_key="protein", max_epochs=1, n_hidden=8, callback=silent)
    with pytest.raises(DataError, match=named("'protein'", "train_size=")):
        sd.predict_modality(small, query)
    rna = sd.fit(adata, "scvi", max_epochs=1, n_hidden=8, callback=silent)
    with pytest.raises(OptionError, match=named("'scvi'", "'protein'")):
        sd.predict_modality(rna, query)


def test_the_command_does_as_python(model, query, adata, tmp_path, capsys):
    model.save(tmp_path / "model")
    adata.write_h5ad(tmp_path / "reference.h5ad")
    query.write_h5ad(tmp_path / "query.h5ad")
    paths = [str(tmp_path / name) for name in ("query.h5ad", "model", "reference.h5ad", "out.h5ad", "table.csv")]
    arguments = [paths[0], "-m", paths[1], "-r", paths[2], "-o", paths[3], "--use", "ridge", "--table", paths[4]]
    assert main(["predict-modality", *arguments]) == 0
    assert_named(capsys.readouterr().out, *METHODS)
    expected = sd.predict_modality(model, query, use="ridge")
    pd.testing.assert_frame_equal(pd.read_csv(paths[4], index_col="method"), expected)
    written = anndata.read_h5ad(paths[3]).obsm["predicted_protein"]
    pd.testing.assert_frame_equal(written, query.obsm["predicted_protein"])
    assert main(["predict-modality", *arguments]) == 1  # the file exists
