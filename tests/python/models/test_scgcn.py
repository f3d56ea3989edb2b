"""scGCN: its graph and convolution in closed form, and types of shallow cells, which their neighbors tell better."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import named

import scduet as sd
from scduet.errors import DataError, OptionError
from scduet.models.reference.scgcn import mutual_neighbors, telling_genes

SILENT = {"callback": lambda event: None}


@pytest.fixture(scope="module")
def cells():
    """300 cells of three types, each with 20 genes of its own of 200; a third has no label."""
    draw = np.random.default_rng(0)
    kind = draw.integers(0, 3, 300)
    rate = np.full((3, 200), 0.15)
    for i in range(3):
        rate[i, 20 * i : 20 * i + 20] = 0.45
    x = sp.csr_matrix(draw.poisson(rate[kind]).astype(np.float32))
    names = np.array(["A", "B", "C"])[kind]
    obs = pd.DataFrame({"truth": names, "kind": names}, index=[f"c{i}" for i in range(300)])
    obs.loc[obs.index[1::3], "kind"] = "Unknown"
    return anndata.AnnData(x, obs=obs)


@pytest.fixture(scope="module")
def trained(cells):
    return sd.fit(cells, "scgcn", labels_key="kind", max_epochs=60, **SILENT)


def right(model, cells):
    """Share of the cells without a label that are given the true type."""
    called = model.predict(cells).idxmax(axis=1).to_numpy()
    return (called == cells.obs["truth"])[1::3].mean()


def test_genes_are_those_of_the_largest_f_statistic(monkeypatch):
    from sklearn.feature_selection import f_classif

    monkeypatch.setattr("scduet.models.reference.scgcn.N_GENES", 7)
    draw = np.random.default_rng(0)
    x, label = draw.poisson(1, (60, 40)).astype(np.float32), draw.integers(-1, 3, 60)
    logged = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    best = np.sort(np.argsort(-f_classif(logged[label >= 0], label[label >= 0])[0])[:7])
    np.testing.assert_allclose(telling_genes(sp.csr_matrix(x), x.sum(1), label), logged[:, best], rtol=1e-4)


def test_edges_join_mutual_neighbors_across_and_among_unlabeled_cells():
    draw = np.random.default_rng(0)
    place, labeled = draw.normal(size=(90, 3)), draw.random(90) < 0.6
    distance = np.linalg.norm(place[:, None] - place, axis=-1)
    np.fill_diagonal(distance, np.inf)

    def among_nearest(i, j):
        """Whether j is among the ten nearest of i, of the cells on the side of j."""
        side = np.flatnonzero(labeled == labeled[j])
        return j in side[np.argsort(distance[i, side])[:10]]

    expected = np.zeros((90, 90))
    for i in range(90):
        for j in range(90):
            if i != j and not (labeled[i] and labeled[j]):
                expected[i, j] = among_nearest(i, j) and among_nearest(j, i)
    found = mutual_neighbors(place, labeled).toarray()
    np.testing.assert_array_equal(found, expected)
    assert expected[np.ix_(labeled, ~labeled)].any()


def test_the_network_is_two_products_with_the_normalized_graph(cells, trained):
    module, arrays = trained.module, trained.reference.arrays
    graph = np.eye(300)
    graph[tuple(arrays["edges"].astype(int))] = 1
    spread = graph / np.sqrt(np.outer(graph.sum(1), graph.sum(1)))
    hidden = np.maximum(spread @ arrays["x"] @ module.hidden.weight.detach().numpy().T, 0)
    logits = spread @ hidden @ module.types.weight.detach().numpy().T
    expected = torch.from_numpy(logits).softmax(-1).numpy()
    np.testing.assert_allclose(trained.predict(cells), expected, atol=1e-4)
    np.testing.assert_allclose(trained.embed(), spread @ hidden, rtol=1e-3, atol=1e-3)
    label = arrays["label"].astype(int)
    known = np.eye(3)[label] * (label >= 0)[:, None]
    votes = spread @ spread @ known
    np.testing.assert_allclose(trained.map(module.vote), votes / votes.sum(1, keepdims=True), atol=1e-5)


def test_a_planted_graph_tells_types_that_a_cell_alone_does_not(cells, monkeypatch):
    """Genes that hardly differ, and edges at random between the cells of a type."""
    draw, kind = np.random.default_rng(1), cells.obs["truth"].astype("category").cat.codes.to_numpy()
    rate = np.full((3, 200), 0.3)
    for i in range(3):
        rate[i, 20 * i : 20 * i + 20] = 0.5
    faint = anndata.AnnData(sp.csr_matrix(draw.poisson(rate[kind]).astype(np.float32)), obs=cells.obs)
    planted = np.triu(draw.random((300, 300)) < 0.2, 1) & (kind[:, None] == kind)
    graph = sp.csr_matrix((planted | planted.T).astype(np.float32))
    monkeypatch.setattr("scduet.models.reference.scgcn.mutual_neighbors", lambda place, labeled: graph)
    options = {"labels_key": "kind", "max_epochs": 60, **SILENT}
    joined, alone = (sd.fit(faint, "scgcn", use_graph=flag, **options) for flag in (True, False))
    assert right(joined, faint) > 0.9
    assert right(alone, faint) < 0.7
    vote = np.array(["A", "B", "C"])[joined.map(joined.module.vote).argmax(-1).numpy()]
    assert (vote == faint.obs["truth"]).all()


def test_planted_types_are_told(cells, trained):
    vote = np.array(["A", "B", "C"])[trained.map(trained.module.vote).argmax(-1).numpy()]
    assert right(trained, cells) > 0.7  # by chance 0.33
    assert (vote == cells.obs["truth"])[1::3].mean() > 0.7


def test_labels_that_are_not_shown_change_nothing(cells, trained):
    other = cells.copy()
    other.obs["truth"] = "A"
    other.X[1::3] = other.X[1::3] * 3  # the genes are chosen on labeled cells, and shares do not change
    again = sd.fit(other, "scgcn", labels_key="kind", max_epochs=1, **SILENT).reference.arrays
    np.testing.assert_allclose(again["x"], trained.reference.arrays["x"], rtol=1e-5)


def test_what_cannot_work_is_refused(cells):
    for options, name in (({}, "labels_key"), ({"labels_key": "truth"}, "unlabeled_category")):
        with pytest.raises(OptionError, match=named(name)):
            sd.fit(cells, "scgcn", **options, **SILENT)
    with pytest.raises(OptionError, match=named("n_hidden")):
        sd.fit(cells, "scgcn", labels_key="kind", n_hidden=0, **SILENT)
    x, names = sp.csr_matrix(np.ones((20_001, 2), np.float32)), [f"c{i}" for i in range(20_001)]
    many = anndata.AnnData(x, obs=pd.DataFrame({"kind": np.repeat(["A", "Unknown"], [20_000, 1])}, names))
    with pytest.raises(OptionError, match=named("20001", "20000")):
        sd.fit(many, "scgcn", labels_key="kind", **SILENT)


def test_cells_that_are_not_in_the_graph_are_refused(cells, trained):
    with pytest.raises(DataError, match=named("fit")):
        trained.predict(cells[:100].copy())


@pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")
def test_annotate_sets_it_beside_a_vote_over_its_edges_and_plain_classifiers(cells):
    query = cells[1::3].copy()
    table = sd.annotate(query, cells[np.arange(300) % 3 != 1].copy(), "truth", "scgcn", max_epochs=60, **SILENT)
    rows = ["scgcn", "vote over its edges", "knn on pca", "logistic regression", "linear svm"]
    assert list(table.index) == rows
    assert (query.obs["predicted"] == query.obs["truth"]).mean() > 0.75
