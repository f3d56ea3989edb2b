"""pcca and dpcca: exact posteriors, EM that finds what was planted, and cells that lack a modality."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import named

import scduet as sd
from scduet.errors import DataError, OptionError
from scduet.events import silent
from scduet.metrics import foscttm
from scduet.nn.factors import Factors, Layout, Moments, maximized

pytestmark = pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")
SIZES = (30, 14)


def planted(layout, sizes=SIZES, n=2000, seed=0):
    """Parameters, and a draw of both modalities from them."""
    torch.manual_seed(seed)
    coefficient = tuple(torch.randn(p, layout.n_own) for p in sizes)
    true = Factors(layout, coefficient, tuple(torch.rand(p) + 0.5 for p in sizes))
    z, batch = torch.randn(n, layout.n_factors), torch.arange(n) % layout.n_batches
    expected = [true.expected(i, z, batch) for i in range(2)]
    y = [e + true.noise[i].sqrt() * torch.randn_like(e) for i, e in enumerate(expected)]
    return true, z, y, batch


def joint(factors, batch):
    """Mean (cell, feature) and covariance of both modalities side by side, in double precision."""
    loadings = torch.cat([factors.loadings(i) for i in range(2)]).double()
    mean = torch.cat([factors.offset(i, batch) for i in range(2)], 1).double()
    return mean, loadings, loadings @ loadings.T + torch.cat(factors.noise).double().diag()


def test_posterior_and_likelihood_are_those_of_the_joint_normal():
    """With both modalities, and with either alone: conditioning the whole covariance matrix gives the same."""
    layout = Layout(3, 2, 2, n_batches=2)
    true, _, y, batch = planted(layout, n=60)
    known = torch.tensor([[True, True], [True, False], [False, True], [False, False]]).repeat(15, 1)
    found, told = true.posterior(y, known, batch), true.log_likelihood(y, known, batch)
    mean, loadings, covariance = joint(true, batch)
    values, which = torch.cat(y, 1).double(), torch.repeat_interleave(torch.arange(2), torch.tensor(SIZES))
    for i in range(8):
        there = known[i][which]
        w, c, r = loadings[there], covariance[there][:, there], (values[i] - mean[i])[there]
        expected = w.T @ torch.linalg.solve(c, r)
        torch.testing.assert_close(found.mean[i].double(), expected, rtol=1e-3, atol=1e-4)
        variance = (torch.eye(layout.n_factors).double() - w.T @ torch.linalg.solve(c, w)).diagonal()
        torch.testing.assert_close(found.variance[i].double(), variance, rtol=1e-3, atol=1e-4)
        normal = torch.distributions.MultivariateNormal(torch.zeros_like(r), c) if len(r) else None
        assert float(told[i]) == pytest.approx(float(normal.log_prob(r)) if normal else 0.0, rel=1e-3, abs=1e-3)


def test_em_climbs_to_the_planted_factors():
    """No step lowers the likelihood; at the end it is the truth's or more, and shared and own factors come apart."""
    layout = Layout(2, 1, 2)
    true, z, y, batch = planted(layout)
    known = torch.ones(len(z), 2, dtype=torch.bool)
    known[:300, 1] = False
    torch.manual_seed(1)
    found = Factors(layout, tuple(0.3 * torch.randn(p, layout.n_own) for p in SIZES), tuple(v.var(0) for v in y))
    reached = []
    for _ in range(120):
        reached.append(float(found.log_likelihood(y, known, batch).mean()))
        moments = Moments.of(layout, found.posterior(y, known, batch), y, known, batch)
        found = maximized(layout, moments.per_cell())
    assert min(np.diff(reached)) > -1e-3
    assert reached[-1] > float(true.log_likelihood(y, known, batch).mean()) - 0.05
    by_second = found.shared_by(1, y, known, batch)[300:]
    by_truth = true.shared_by(1, y, known, batch)[300:]
    assert explained(by_second, by_truth) > 0.97
    own = found.posterior(y, known, batch).mean[300:, 2:3]
    assert explained(own, z[300:, 2:3]) > 0.85
    cross = found.expected(0, found.posterior(y, known & torch.tensor([False, True]), batch).mean, batch)[300:]
    direct = regression(y[1][300:], y[0][300:])  # the same prediction, by the covariances of the data
    assert np.corrcoef(cross.flatten(), direct.flatten())[0, 1] > 0.99


def explained(x, y):
    """Share of the variance of y that is linear in x."""
    return float(1 - (y - regression(x, y)).var(0).sum() / y.var(0).sum())


def regression(x, y):
    x = torch.cat([x, x.new_ones(len(x), 1)], 1)
    return x @ torch.linalg.lstsq(x, y).solution


def simulated(n=360, seed=0):
    """Three shared factors and one of its own for each modality; a sixth of the cells has RNA alone, in batch b2."""
    draw, world = np.random.default_rng(seed), np.random.default_rng(9)
    shared = draw.normal(size=(n, 3))
    found = []
    for p, level in ((80, 2.0), (24, 3.5)):
        own = np.hstack([shared, draw.normal(size=(n, 1))])
        found.append(draw.poisson(np.exp(own @ world.normal(size=(4, p)) * 0.4 + level)).astype(np.float32))
    obs = pd.DataFrame({"batch": np.repeat(["b0", "b1", "b2"], n // 3)}, [f"c{i}" for i in range(n)])
    adata = anndata.AnnData(sp.csr_matrix(found[0]), obs)
    adata.obsm["protein"] = pd.DataFrame(found[1], obs.index, [f"p{i}" for i in range(24)])
    adata.obsm["truth"] = found[1].copy()
    adata.obsm["protein"].iloc[-n // 6 :] = np.nan
    return adata, shared


@pytest.fixture(scope="module")
def data():
    return simulated()


@pytest.fixture(scope="module", params=["pcca", "dpcca"])
def trained(request, data):
    own = {"pcca": {"max_epochs": 20}, "dpcca": {"max_epochs": 60, "n_hidden": 32, "dropout_rate": 0.0}}
    options = {"protein_key": "protein", "batch_key": "batch", "n_latent": 3, "n_private": 1, "batch_size": 64}
    return sd.fit(data[0], request.param, callback=silent, **options, **own[request.param])


def test_planted_factors_are_found_matched_and_predicted(data, trained):
    adata, shared = data
    z = torch.tensor(trained.embed(adata)).double()
    assert explained(z, torch.tensor(shared)) > {"pcca": 0.85, "dpcca": 0.5}[trained.name]
    test, _ = simulated(300, seed=1)
    test.obsm["protein"] = pd.DataFrame(test.obsm["truth"], test.obs_names, adata.obsm["protein"].columns)
    halves = [trained.embed(test, modality=name) for name in ("rna", "protein")]
    assert foscttm(*halves) < {"pcca": 0.06, "dpcca": 0.3}[trained.name]
    del test.obsm["protein"]
    table = sd.predict_modality(trained, test)
    short = {"pcca": 0.15, "dpcca": 0.6}[trained.name]
    assert table.loc[trained.name, "pearson"] > table.loc["ridge", "pearson"] - short
    predicted, truth = test.obsm["predicted_protein"].to_numpy(), np.log1p(test.obsm["truth"])
    found = np.mean([np.corrcoef(predicted[:, j], truth[:, j])[0, 1] for j in range(24)])
    assert found > {"pcca": 0.6, "dpcca": 0.2}[trained.name]
    found = sd.match_cells(adata[:200].copy(), adata[:200].copy(), trained)
    assert found.table.loc[trained.name, "foscttm"] < {"pcca": 0.15, "dpcca": 0.4}[trained.name]


def test_a_cell_without_proteins_is_embedded_by_rna_alone(data, trained):
    alone = data[0][-20:].copy()
    np.testing.assert_allclose(trained.embed(alone), trained.embed(alone, modality="rna"), atol=1e-5)
    assert np.isnan(trained.embed(alone, modality="protein")).all()


def test_a_query_of_a_new_batch_is_refused_by_pcca(data, trained):
    query = data[0][:20].copy()
    query.obs["batch"] = "b9"
    if trained.name == "pcca":
        with pytest.raises(OptionError, match=named("batch_key")):
            sd.map_query(query, trained, train=False)
    else:
        assert sd.map_query(query, trained, train=False).embed(query).shape == (20, 3)


@pytest.mark.parametrize("model", ["pcca", "dpcca"])
def test_what_cannot_be_trained_is_refused(data, model):
    adata = data[0].copy()
    with pytest.raises(OptionError, match=named(model, "protein_key=")):
        sd.fit(adata, model)
    adata.X = adata.X.copy()
    adata.X[: len(adata) - 60] = 0  # every cell has one modality
    with pytest.raises(DataError, match=named("rna", "protein", "translation")):
        sd.fit(adata, model, protein_key="protein", allow_empty_cells=True)
    if model == "pcca":
        data[0].obs["age"] = 1.0
        with pytest.raises(OptionError, match=named("pcca", "batch")):
            sd.fit(data[0], model, protein_key="protein", continuous_covariate_keys=["age"])
