"""Cells of two modalities matched: own halves found within batches, judged on cells held out, bad input named."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from named import assert_named, named

import scduet as sd
from scduet.cli import main
from scduet.errors import DataError, OptionError
from scduet.events import silent
from scduet.metrics import match_probability
from scduet.tasks.multimodal.cca import CCA

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
N = 400


@pytest.fixture(scope="module")
def adata():
    """Four continuous factors that genes and proteins share, in two batches; proteins of batch b2 are missing."""
    draw = np.random.default_rng(0)
    state = draw.normal(size=(N, 4))
    weights = draw.normal(size=(4, 60)), draw.normal(size=(4, 20))
    genes = draw.poisson(np.exp(state @ weights[0] * 0.5 + 2)).astype(np.float32)
    proteins = draw.poisson(np.exp(state @ weights[1] * 0.5 + 4)).astype(np.float32)
    obs = pd.DataFrame({"batch": np.repeat(["b0", "b1", "b2"], [180, 180, 40])}, [f"c{i}" for i in range(N)])
    adata = anndata.AnnData(sp.csr_matrix(genes), obs, pd.DataFrame(index=[f"g{i}" for i in range(60)]))
    adata.obsm["protein"] = pd.DataFrame(proteins, obs.index, [f"p{i}" for i in range(20)])
    adata.obsm["protein"].iloc[360:] = np.nan
    return adata


@pytest.fixture(scope="module")
def model(adata):
    options = {"n_latent": 6, "n_hidden": 32, "max_epochs": 60, "lr": 0.01, "batch_size": 64, "train_size": 0.7}
    given = {"protein_key": "protein", "batch_key": "batch", "callback": silent}
    return sd.fit(adata, "mmvae", preset="contrastive", **given, **options)


@pytest.fixture(scope="module")
def halves(adata, model):
    """The cells held out, by RNA and, in another order, by proteins alone."""
    from scduet.data.samplers import split

    rows = np.sort(split(N, 0.7, 0)[1])
    a = adata[rows[rows < 360]].copy()
    order = np.random.default_rng(1).permutation(a.n_obs)
    b = a[order].copy()
    del a.obsm["protein"]
    b.X = b.X * 0
    return a, b, np.argsort(order)


def test_cells_find_their_own_halves_within_their_batch(adata, model, halves):
    a, b, place = halves
    found = sd.match_cells(a, b, model)
    weights = found.weights
    assert sp.issparse(weights)
    np.testing.assert_allclose(np.asarray(weights.sum(1)).ravel(), 1, rtol=1e-5)
    batch = a.obs["batch"].to_numpy(), b.obs["batch"].to_numpy()
    entries = weights.tocoo()
    assert (batch[0][entries.row] == batch[1][entries.col]).all()
    right = match_probability(weights[:, place])
    assert right > 5 * found.table.loc["chance", "match_probability"]
    assert found.table.loc["mmvae", "foscttm"] < 0.1
    assert list(found.table.index) == ["mmvae", "cca", "chance"]
    assert (found.table["n_cells"] == a.n_obs).all()
    assert found.used == "mmvae"
    best = found.best()
    assert best["match"].isin(b.obs_names).all()
    assert (best["match"].to_numpy() == a.obs_names).mean() > 5 / a.n_obs


def test_assigned_one_to_one_and_by_canonical_correlation(model, halves):
    a, b, place = halves
    found = sd.match_cells(a, b, model, use="cca", method="bipartite")
    assert found.used == "cca"
    assert found.table.loc["cca", "foscttm"] < 0.1
    assert np.array_equal(np.asarray(found.weights.sum(1)).ravel(), np.ones(a.n_obs))
    assert np.array_equal(np.asarray(found.weights.sum(0)).ravel(), np.ones(b.n_obs))
    assert (found.best()["match"].to_numpy() == a.obs_names).mean() > 0.1
    best = sd.match_cells(a, b, model, use="best")
    assert best.used == best.table["foscttm"].drop("chance").idxmin()


def test_what_the_other_modality_says_is_not_looked_at(adata, model, halves):
    a, b, _ = halves
    both = adata[a.obs_names].copy()
    both.obsm["protein"] = both.obsm["protein"].iloc[::-1].set_axis(both.obs_names)
    assert abs(sd.match_cells(both, b, model).weights - sd.match_cells(a, b, model).weights).max() < 1e-6


def test_a_loaded_model_and_the_command_line(adata, model, halves, tmp_path, capsys):
    a, b, _ = halves
    model.save(tmp_path / "model")
    loaded = sd.load(tmp_path / "model")
    with pytest.raises(DataError, match=named("reference=")):
        sd.match_cells(a, b, loaded)
    expected = sd.match_cells(a, b, model)
    again = sd.match_cells(a, b, loaded, reference=adata, modalities=["rna", "protein"])
    assert abs(again.weights - expected.weights).max() < 1e-5
    for name, cells in {"a": a, "b": b, "known": adata}.items():
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    paths = [str(tmp_path / name) for name in ("a.h5ad", "b.h5ad", "model", "known.h5ad", "best.csv")]
    options = ["--model", paths[2], "--reference", paths[3], "--output", paths[4]]
    assert main(["match-cells", *paths[:2], *options]) == 0
    assert_named(capsys.readouterr().out, "mmvae", "cca", "chance")
    written = pd.read_csv(paths[4], index_col=0)
    assert list(written["match"]) == list(expected.best()["match"])


def test_cca_is_that_of_a_shared_factor():
    """y_m = W_m z + noise: the first correlation is that of the best linear guesses of z by either."""
    draw = np.random.default_rng(0)
    z, noise = draw.normal(size=(4000, 1)), draw.normal(size=(2, 4000, 3))
    x, y = (z @ np.ones((1, 3)) + part for part in noise)
    cca = CCA.of(x, y, 3)
    assert cca.correlations[0] == pytest.approx(3 / 4, abs=0.03)  # of the mean of three: 1 / (1 + 1/3)
    assert cca.correlations[1:].max() < 0.1
    turned = CCA.of(x @ np.linalg.qr(draw.normal(size=(3, 3)))[0], y * 7, 3)
    np.testing.assert_allclose(turned.correlations, cca.correlations, atol=2e-3)


def test_bad_input_is_named(adata, model, halves):
    a, b, _ = halves
    missing = adata[350:370].copy()
    with pytest.raises(DataError, match=named("10", "b", "'protein'", "c360")):
        sd.match_cells(a, missing, model)
    first, second = a[a.obs["batch"] == "b0"].copy(), b[b.obs["batch"] == "b1"].copy()
    with pytest.raises(DataError, match=named("'batch'", "b0", "b1")):
        sd.match_cells(first, second, model)
    for option, value in {"use": "magic", "method": "greedy", "n_neighbors": 0}.items():
        with pytest.raises(OptionError, match=named(option, str(value))):
            sd.match_cells(a, b, model, **{option: value})
    for names in ("rna", ["rna", "rna"], ["rna", "peaks"]):
        with pytest.raises(OptionError, match=named("rna" if names != ["rna", "peaks"] else "'peaks'")):
            sd.match_cells(a, b, model, modalities=names)
    rna = sd.fit(adata, "scvi", max_epochs=1, n_hidden=4, callback=silent)
    with pytest.raises(OptionError, match=named("'scvi'")):
        sd.match_cells(a, b, rna)
    total = sd.fit(adata, "totalvi", protein_key="protein", max_epochs=1, n_hidden=4, callback=silent)
    with pytest.raises(OptionError, match=named("'totalvi'")):
        sd.match_cells(a, b, total)
