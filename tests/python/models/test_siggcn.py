"""sigGCN: its convolution and graph in closed form, and a planted graph whose neighbors average the noise of a type."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import named

import scduet as sd
from scduet.errors import DataError, OptionError
from scduet.models.reference.siggcn import nearest, scaled_laplacian

SMALL = {"labels_key": "kind", "max_epochs": 15, "batch_size": 32, "callback": lambda event: None}


@pytest.fixture(scope="module")
def cells():
    """Three types, each with eight genes of its own, of 64 genes; 120 cells to learn and 120 without a label."""
    draw = np.random.default_rng(0)
    kind = draw.integers(0, 3, 240)
    rate = np.ones((3, 64))
    for i in range(3):
        rate[i, 8 * i : 8 * i + 8] = 4
    x = sp.csr_matrix(draw.poisson(rate[kind]).astype(np.float32))
    names = np.array(["A", "B", "C"])[kind]
    obs = pd.DataFrame({"truth": names, "kind": names}, index=[f"c{i}" for i in range(240)])
    obs.loc[obs.index[120:], "kind"] = "Unknown"
    adata = anndata.AnnData(x, obs=obs)
    graph = np.kron(np.eye(8), np.ones((8, 8)))
    adata.varp["pathways"] = sp.csr_matrix(graph - np.eye(64))
    return adata


def test_the_laplacian_is_that_of_the_graph_with_self_loops_scaled_to_its_spectrum():
    """Of two joined genes and one alone: A + I has degrees 2, 2, 1, and L the eigenvalues 0, 1, 0."""
    edges = np.array([[0, 3, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    found = scaled_laplacian(edges)
    expected = 2 * np.array([[0.5, -0.5, 0], [-0.5, 0.5, 0], [0, 0, 0]]) - np.eye(3)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    values = np.linalg.eigvalsh(scaled_laplacian(np.random.default_rng(0).random((9, 9)).astype(np.float32)))
    np.testing.assert_allclose([values[0], values[-1]], [-1, 1], atol=1e-5)


def test_edges_are_to_the_genes_that_correlate_most():
    correlation = np.abs(np.corrcoef(np.random.default_rng(0).normal(size=(30, 12)))).astype(np.float32)
    edges = nearest(correlation)
    assert ((edges > 0).sum(1) == 10).all()
    assert (np.diag(edges) == 0).all()
    for i in range(30):
        others = np.delete(correlation[i], i)
        np.testing.assert_allclose(np.sort(edges[i])[-10:], np.sort(others)[-10:])


def test_the_convolution_is_a_filter_on_the_spectrum_of_the_graph(cells):
    """sum_k w_k T_k(L) x = U (sum_k w_k cos(k arccos(eigenvalue))) U' x."""
    module = sd.fit(cells, "siggcn", graph_key="pathways", **{**SMALL, "max_epochs": 1}).module.eval()
    x = torch.rand(5, 64)
    values, vectors = np.linalg.eigh(module.laplacian.numpy().astype(float))
    spectrum = np.cos(np.arange(5)[:, None] * np.arccos(np.clip(values, -1, 1)))
    weight, bias = module.filters.weight.detach().numpy(), module.filters.bias.detach().numpy()
    filtered = np.stack([x.numpy() @ vectors * (w @ spectrum) @ vectors.T for w in weight], 1) + bias[:, None]
    pooled = np.maximum(filtered, 0).reshape(5, 5, 8, 8).max(-1).reshape(5, -1)
    expected = np.maximum(pooled @ module.pooled.weight.detach().numpy().T + module.pooled.bias.detach().numpy(), 0)
    np.testing.assert_allclose(module._convolved(x).detach().numpy(), expected, atol=1e-4)


def test_planted_types_are_told_and_unlabeled_cells_do_not_choose_genes(cells):
    model = sd.fit(cells, "siggcn", lr=3e-3, **SMALL)
    called = model.predict(cells[120:]).idxmax(axis=1).to_numpy()
    assert (called == cells.obs["truth"][120:]).mean() > 0.9  # by chance 0.33
    other = cells.copy()
    other.X[120:] = other.X[120:] * 50
    again = sd.fit(other, "siggcn", **{**SMALL, "max_epochs": 1}).module.reference.arrays
    for name in ("variance", "largest", "correlation"):
        np.testing.assert_array_equal(again[name], model.module.reference.arrays[name])


def test_a_permuted_graph_has_the_same_edges_between_other_genes(cells):
    options = {**SMALL, "max_epochs": 1, "graph_key": "pathways"}
    plain, dealt = (sd.fit(cells, "siggcn", permute_graph=flag, **options).module.laplacian for flag in (False, True))
    assert not torch.equal(plain, dealt)
    np.testing.assert_allclose(np.sort(plain.numpy().ravel()), np.sort(dealt.numpy().ravel()), atol=1e-6)


def test_what_is_missing_is_named(cells):
    silent = {"callback": SMALL["callback"]}
    with pytest.raises(OptionError, match=named("labels_key")):
        sd.fit(cells, "siggcn", **silent)
    with pytest.raises(OptionError, match=named("n_input_genes")):
        sd.fit(cells, "siggcn", labels_key="kind", n_input_genes=3, **silent)
    with pytest.raises(DataError, match=named("'nowhere'")):
        sd.fit(cells, "siggcn", labels_key="kind", graph_key="nowhere", **silent)


@pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")
def test_annotate_sets_it_beside_plain_classifiers(cells):
    query = cells[120:].copy()
    table = sd.annotate(query, cells[:120].copy(), "kind", "siggcn", max_epochs=10, callback=SMALL["callback"])
    assert list(table.index) == ["siggcn", "knn on pca", "logistic regression", "linear svm"]
    assert (query.obs["predicted"] == query.obs["truth"]).mean() > 0.8
