"""Graph-DiffVAE: its graph, convolution and loss in closed form, and a planted ring of cells."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from named import named
from sklearn.metrics import roc_auc_score

import scduet as sd
from scduet.contract import Step
from scduet.data.graphs import most_correlated, without_edge
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import DataError, OptionError
from scduet.models.reference.graphdiffvae import auc
from scduet.nn.graphs import Propagation

QUIET = {"n_hidden": 32, "n_latent": 8, "callback": lambda event: None}


@pytest.fixture(scope="module")
def ring():
    """300 cells on a circle in order, whose genes are bumps along it."""
    angle = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    peak = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    rate = 40 * np.exp(4 * (np.cos(angle[:, None] - peak) - 1)) + 0.5
    return AnnData(sp.csr_matrix(np.random.default_rng(0).poisson(rate).astype(np.float32)))


@pytest.fixture(scope="module")
def model(ring):
    return sd.fit(ring, "graphdiffvae", max_epochs=100, lr=5e-3, **QUIET)


def test_edges_go_to_the_cells_that_correlate_most(monkeypatch):
    monkeypatch.setattr("scduet.data.graphs.PIECE", 7)
    x = np.random.default_rng(0).poisson(2, (20, 12)).astype(float)
    correlation = np.corrcoef(x) - 3 * np.eye(20)
    wanted = {tuple(sorted((i, int(j)))) for i in range(20) for j in np.argsort(-correlation[i])[:2]}
    assert {tuple(pair) for pair in most_correlated(sp.csr_matrix(x), 2).T.tolist()} == wanted


def test_pairs_without_an_edge_have_none():
    draw = np.random.default_rng(0)
    edges = np.array([[i for i in range(9) for j in range(i)], [j for i in range(9) for j in range(i)]])
    pairs = without_edge(edges, 11, 12, draw)
    assert 0 < pairs.shape[1] <= 12
    assert (pairs.max(0) >= 9).all()  # the first nine are all joined
    assert (pairs[0] < pairs[1]).all()
    assert np.unique(pairs, axis=1).shape == pairs.shape


def test_propagation_is_the_normalized_adjacency():
    edges, values = torch.tensor([[0, 1], [1, 2]]), torch.randn(4, 3)
    a = np.eye(4)
    a[[0, 1, 1, 2], [1, 0, 2, 1]] = 1
    root = np.diag(a.sum(1) ** -0.5)
    np.testing.assert_allclose(Propagation(edges, 4)(values).numpy(), root @ a @ root @ values.numpy(), atol=1e-6)


def test_auc_is_that_of_scikit_learn():
    draw = np.random.default_rng(0)
    positive, negative = draw.integers(0, 9, 40) + 1.0, draw.integers(0, 9, 50) * 1.0
    wanted = roc_auc_score([1] * 40 + [0] * 50, np.concatenate([positive, negative]))
    assert auc(torch.tensor(positive), torch.tensor(negative)).item() == pytest.approx(wanted, abs=1e-6)


def test_the_loss_is_that_of_the_page(model):
    module, n = model.module, 300
    batch = next(iter(minibatches(model.encode(), sequential(n), n)))
    with torch.no_grad():
        torch.manual_seed(0)
        loss = module(batch, Step(kl_weight=0.5))
        torch.manual_seed(0)
        mean, variance = module._posterior()
        z = module._refined(mean + variance.sqrt() * torch.randn_like(mean)).double()
    a = np.zeros((n, n))
    a[tuple(module.spread.ends.numpy())] = 1
    n_edges, p = a.sum() - n, torch.sigmoid(z @ z.T).numpy()
    cost = -np.where(a == 1, (n * n - n_edges) / n_edges * np.log(p), np.log1p(-p)).sum() / n
    kl = 0.5 * (variance + mean**2 - 1 - variance.log()).sum(1).mean().item()
    assert loss.terms["reconstruction"].item() == pytest.approx(cost * n**2 / (2 * (n**2 - n_edges)), rel=1e-3)
    assert loss.total.item() == pytest.approx(loss.terms["reconstruction"].item() + 0.5 * kl, rel=1e-4)


def test_a_planted_ring_is_learned_from_the_other_edges(model):
    """Held-out edges are told from other pairs, and the model is never shown them."""
    module = model.module
    shown = {tuple(sorted(pair)) for pair in module.spread.ends.T.tolist()}
    held_out = {tuple(sorted(pair)) for pair in module.held_out.T.tolist()}
    assert not shown & held_out
    assert len(held_out) == round(0.1 * model.reference.arrays["edges"].shape[1])
    assert module.held_out_auc().item() > 0.8  # by chance 0.5
    assert model.history["held_out_auc_train"].iloc[-1] == pytest.approx(module.held_out_auc().item(), abs=0.1)
    z = model.embed()
    near = np.linalg.norm(z - np.roll(z, 5, 0), axis=1).mean()
    assert near < 0.5 * np.linalg.norm(z - np.roll(z, 150, 0), axis=1).mean()


def test_each_minibatch_sees_the_whole_graph(ring, model):
    """Terms of the cells, in any minibatches, add up to those of all; embedding needs no other cells."""
    np.testing.assert_allclose(model.embed(batch_size=17), model.embed(), atol=1e-5)
    module = model.module
    target = torch.cat([module._adjacency(torch.arange(i, i + 100)) for i in (0, 100, 200)])
    a = torch.zeros(300, 300)
    a[tuple(module.spread.ends)] = 1
    assert torch.equal(target, a)


def test_what_cannot_be_is_named(ring, model):
    with pytest.raises(OptionError, match=named("held_out_edges")):
        sd.fit(ring, "graphdiffvae", held_out_edges=1.0, **QUIET)
    with pytest.raises(DataError):
        model.embed(ring[:100].copy())
    big = AnnData(sp.csr_matrix(np.ones((10_001, 2), np.float32)))
    with pytest.raises(OptionError, match=named("Graph-DiffVAE", "10000")):
        sd.fit(big, "graphdiffvae", **QUIET)
    whole = sd.fit(ring, "graphdiffvae", held_out_edges=0.0, max_epochs=1, **QUIET)
    assert "held_out_auc_train" not in whole.history
