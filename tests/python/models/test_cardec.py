"""CarDEC: its clustering loss and dispersions written out, planted clusters, and what clusters and counts are for."""

import numpy as np
import pytest
import scanpy as sc
import torch
from named import named
from scipy import stats
from sklearn.metrics import adjusted_rand_score

import scduet as sd
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.data.moments import moments, normalized_dispersion
from scduet.data.samplers import sequential
from scduet.errors import OptionError
from scduet.models.reference.embedded_clusters import EmbeddedClusters

RUN = {"batch_key": "batch", "n_clusters": 4, "n_variable_genes": 40, "callback": lambda event: None}


@pytest.fixture(scope="module")
def cells():
    return sd.datasets.simulate(n_cells=300, n_genes=80, n_batches=2, n_types=4, seed=0)


@pytest.fixture(scope="module")
def model(cells):
    return sd.fit(cells, "cardec", max_epochs=60, lr=5e-3, **RUN)


def test_genes_are_scaled_within_batches(cells, model):
    x = model.map(model.module.scaled).numpy()
    counts = cells.X.toarray()
    logs = np.log1p(counts / counts.sum(1, keepdims=True) * np.median(counts.sum(1)))
    for name in ("batch_0", "batch_1"):
        own = (cells.obs["batch"] == name).to_numpy()
        expected = (logs[own] - logs[own].mean(0)) / logs[own].std(0, ddof=1)
        np.testing.assert_allclose(x[own], expected, atol=2e-3)


def test_dispersions_are_those_of_scanpy(cells, model):
    adata = cells.copy()
    total = np.asarray(adata.X.sum(1)).ravel()
    mean, deviation = (values[0] for values in moments(model.cells, total / np.median(total), of=lambda x: x))
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=40)
    found, theirs = normalized_dispersion(mean, deviation), adata.var["dispersions_norm"].to_numpy()
    assert stats.spearmanr(found, theirs).statistic > 0.97  # bins differ at their edges
    assert set(model.module.variable) == set(np.argsort(-found)[:40])


def test_the_clustering_loss_is_that_of_the_paper():
    clusters = EmbeddedClusters(3, 2, 4, 2).eval()
    clusters.start.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))
    z = torch.tensor([[0.1, 0.0], [0.9, 0.3]])
    q = clusters(z)
    kernel = 1 / (1 + ((z.numpy()[:, None] - clusters.start.numpy()) ** 2).sum(2))
    expected = kernel / kernel.sum(1, keepdims=True)
    np.testing.assert_allclose(q.detach().numpy(), expected, rtol=1e-5)
    clusters.frequency.copy_(torch.tensor([0.5, 0.3, 0.2]))
    p = expected**2 / [0.5, 0.3, 0.2]
    p /= p.sum(1, keepdims=True)
    assert clusters.error(q).item() == pytest.approx((p * np.log(p / expected)).sum(1).mean(), rel=1e-4)


def test_the_loss_is_the_weighted_sum_of_its_terms(model):
    batch = next(iter(minibatches(model.encode(), sequential(300), 300)))
    with torch.no_grad():
        loss = model.module.eval()(batch, Step(kl_weight=0.5, number=9))
    terms = {name: value.item() for name, value in loss.terms.items()}
    squares = terms["reconstruction"] + terms["reconstruction_other"]
    assert loss.total.item() == pytest.approx(squares / 2 + 0.5 * terms["clustering"] + terms["counts"], rel=1e-5)


def test_planted_clusters_are_found_and_memberships_go_with_them(cells, model):
    adata = cells.copy()
    table = sd.cluster_cells(model, adata)
    assert adjusted_rand_score(adata.obs["cell_type"], adata.obs["cardec_cluster"]) > 0.9
    share = table.drop(columns="cluster")
    np.testing.assert_allclose(share.sum(1), 1, atol=1e-5)
    assert (share.idxmax(axis=1) == table["cluster"].astype(str)).all()
    n = table["cluster"].value_counts()
    assert n["0"] == n.max()


def test_counts_of_all_genes_are_decoded(cells, model):
    """Means of the types, of variable and other genes alike, follow the observed ones."""
    shares = sd.normalized_expression(model, cells).to_numpy()
    observed = cells.X.toarray() / cells.X.sum(1).A1[:, None]
    kind = cells.obs["cell_type"].cat.codes.to_numpy()
    for genes in (model.module.variable, model.module.other):
        means = [np.stack([values[kind == k][:, genes].mean(0) for k in range(4)]) for values in (shares, observed)]
        difference = [m - m.mean(0) for m in means]
        assert np.corrcoef(difference[0].ravel(), difference[1].ravel())[0, 1] > 0.8


def test_counts_teach_the_state_nothing(model):
    batch, module = next(iter(minibatches(model.encode(), sequential(300), 300))), model.module
    module.zero_grad()
    module(batch, Step(number=9)).terms["counts"].backward()
    taught = {name.split(".")[0] for name, weight in module.named_parameters() if weight.grad is not None}
    assert taught == {"counts"}


def test_a_new_batch_is_scaled_by_its_own_cells(cells, model):
    """The cells of a batch under a new name are where they were."""
    own = (cells.obs["batch"] == "batch_1").to_numpy()
    query = cells[own].copy()
    query.obs["batch"] = "new"
    mapped = sd.map_query(query, model, callback=RUN["callback"])
    np.testing.assert_allclose(mapped.embed(query), model.embed(cells)[own], atol=1e-4)


def test_what_cannot_be_is_named(cells):
    for wrong in ({"n_clusters": 301}, {"clustering_weight": 2.5}, {"n_variable_genes": 0}):
        with pytest.raises(OptionError, match=named(*wrong)):
            sd.fit(cells, "cardec", **{**RUN, **wrong})
