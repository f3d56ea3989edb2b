"""KPNN: activations and weights of nodes recomputed plainly, bad networks, and a planted regulator that is found."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from named import named

import scduet as sd
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.events import silent

pytestmark = pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")  # of the node "lost"
EDGES = [("tf1", "g0"), ("tf1", "g1"), ("tf2", "g1"), ("tf2", "g2"), ("kinase", "tf1"), ("kinase", "g3")]
EDGES += [("top", "tf2"), ("top", "kinase"), ("lost", "not a gene")]


def network(edges):
    return pd.DataFrame(edges, columns=["parent", "child"])


@pytest.fixture(scope="module")
def cells():
    draw = np.random.default_rng(0)
    counts = draw.poisson(draw.gamma(2, 2, 6), (120, 6)) + 1
    kind = np.where(counts[:, 0] > np.median(counts[:, 0]), "high", "low")
    return AnnData(
        sp.csr_matrix(counts, dtype=np.float32),
        pd.DataFrame({"kind": kind}, [f"c{i}" for i in range(120)]),
        pd.DataFrame(index=[f"g{i}" for i in range(6)]),
    )


@pytest.fixture(scope="module")
def model(cells):
    with pytest.warns(ScduetWarning, match=named(1)):
        return sd.fit(cells, "kpnn", gene_graph=network(EDGES), labels_key="kind", max_epochs=3)


def batch_of(model, cells):
    encoded = model.schema.encode(cells)
    return next(iter(minibatches(encoded, sequential(len(encoded)), len(encoded))))


def test_a_node_is_the_sigmoid_of_its_weighted_children(cells, model):
    """Node by node through the edges as the user gave them."""
    module, x = model.module, cells.X.toarray().astype(np.float64)
    logged = np.log1p(1e6 * x / x.sum(1, keepdims=True))
    active = {f"g{i}": (v - v.min()) / (v.max() - v.min()) for i, v in enumerate(logged.T)}
    graph = module.graph
    names = [*(f"g{row}" for row in graph.genes), *graph.nodes]
    weight = {
        (names[p], names[c]): w for p, c, w in zip(graph.parent, graph.child, module.weight.tolist(), strict=True)
    }
    intercept = dict(zip(graph.nodes, module.intercept.tolist(), strict=True))
    assert set(weight) == set(EDGES[:-1])
    for node in ("tf1", "tf2", "kinase", "top"):
        total = sum(w * active[child] for (parent, child), w in weight.items() if parent == node)
        active[node] = 1 / (1 + np.exp(-total - intercept[node]))
    expected = np.column_stack([active[node] for node in graph.nodes])
    np.testing.assert_allclose(model.embed(), expected, atol=1e-5)
    assert dict(zip(graph.nodes, graph.level, strict=True)) == {"tf1": 1, "tf2": 1, "kinase": 2, "top": 3}


def test_node_weights_are_finite_differences(cells, model):
    module, batch = model.module.eval(), batch_of(model, cells)
    found = module.node_weights(batch).mean(0).reshape(2, -1)
    step = 1e-2
    for i in range(len(module.graph.nodes)):
        push = torch.zeros(len(batch), len(module.graph.nodes))
        push[:, i] = step
        with torch.no_grad():
            up, down = (module._logits(module.units(batch, sign * push)).softmax(-1).mean(0) for sign in (1, -1))
        np.testing.assert_allclose(found[:, i], (up - down) / (2 * step), rtol=1e-2, atol=1e-4)


def test_a_loss_in_which_the_types_count_alike(cells):
    rare = cells.copy()
    rare.obs["kind"] = ["rare"] * 12 + ["common"] * 108
    options = {"node_dropout": 0.0, "gene_dropout": 0.0, "l2": 0.0, "max_epochs": 1, "train_size": 1.0}
    model = sd.fit(rare, "kpnn", gene_graph=network(EDGES), labels_key="kind", callback=silent, **options)
    batch = batch_of(model, rare)
    with torch.no_grad():
        log_p = model.module.classify(batch).log_softmax(-1)
        loss = model.module(batch, None).total
    own = -log_p.gather(1, batch.label[:, None])[:, 0]
    expected = (own[batch.label == 0].mean() + own[batch.label == 1].mean()) / 2
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_nodes_with_few_siblings_are_kept(model):
    graph, kept = model.module.graph, model.module.kept.numpy()
    by_name = dict(zip([*(f"g{row}" for row in graph.genes), *graph.nodes], kept, strict=True))
    assert by_name["top"] == 1  # alone at the top
    assert by_name["kinase"] == by_name["tf1"] == pytest.approx(0.9)  # one of two


def planted(seed):
    """200 genes, 40 regulators of 10 genes, of which 3 and 4 have the same, 10 receptors; the label is regulator 3."""
    draw = np.random.default_rng(seed)
    sets = [draw.choice(200, 10, replace=False) for _ in range(40)]
    sets[4] = sets[3]
    edges = [(f"tf{i}", f"g{gene}") for i, genes in enumerate(sets) for gene in genes]
    above = [draw.choice(40, 8, replace=False) for _ in range(10)]
    above[0][:2], above[1][:2], above[2][:2] = (3, 4), (3, 4), (3, 4)
    edges += [(f"receptor{i}", f"tf{tf}") for i, regulators in enumerate(above) for tf in {*regulators.tolist()}]
    counts = draw.poisson(draw.gamma(2, 1, 200) + 0.2, (900, 200))
    total = np.log1p(counts[:, sets[3]]).sum(1)
    kind = np.where(total + draw.normal(0, 0.5 * total.std(), 900) > np.median(total), "on", "off")
    names = [f"c{i}" for i in range(900)], [f"g{i}" for i in range(200)]
    matrix = sp.csr_matrix(counts, dtype=np.float32)
    return AnnData(matrix, pd.DataFrame({"kind": kind}, names[0]), pd.DataFrame(index=names[1])), network(edges)


def test_a_planted_regulator_and_its_twin_are_on_top_over_control():
    adata, graph = planted(0)
    model = sd.fit(adata, "kpnn", gene_graph=graph, labels_key="kind", max_epochs=80, callback=silent)
    table = sd.node_weights(model, replicates=2)
    regulators = table.loc[table["level"] == 1, "node"]
    assert {"tf3", "tf4"} <= set(regulators[:4])
    assert table.attrs["accuracy"] > 0.6
    assert table.attrs["agreement"] > 0.3
    assert set(table["label"]) == {"on"}


def test_bad_networks_are_refused_and_named(cells):
    def fit(edges, **options):
        table = edges if isinstance(edges, pd.DataFrame) else network(edges)
        return sd.fit(cells, "kpnn", gene_graph=table, callback=silent, **{"labels_key": "kind", **options})

    with pytest.raises(DataError, match=named("a", "b")):
        fit([("a", "g0"), ("a", "b"), ("b", "a")])
    with pytest.raises(DataError, match=named("genes")):
        fit([("a", "x"), ("b", "y")])
    with pytest.raises(DataError, match=named("'from'", "'to'", "parent", "child")):
        fit(pd.DataFrame({"from": ["a"], "to": ["g0"]}))
    with pytest.raises(OptionError, match="labels_key"):
        fit(EDGES, labels_key=None)
    with pytest.raises(OptionError, match="gene_graph"):
        sd.fit(cells, "kpnn", labels_key="kind")
    with pytest.raises(OptionError, match="node_dropout"):
        fit(EDGES, node_dropout=1.0)


def test_weights_are_of_a_kpnn_with_its_cells(cells, model, tmp_path):
    few = {"replicates": 2, "control": False}
    with pytest.raises(OptionError, match="'scvi'"):
        sd.node_weights(sd.fit(cells, "scvi", max_epochs=1, callback=silent))
    model.save(tmp_path / "model")
    loaded = sd.load(tmp_path / "model")
    with pytest.raises(OptionError, match="adata"):
        sd.node_weights(loaded)
    unlabeled = AnnData(cells.X, pd.DataFrame(index=cells.obs_names), cells.var)
    with pytest.raises(DataError, match=named("'kind'")):
        sd.node_weights(loaded, unlabeled)
    pd.testing.assert_frame_equal(sd.node_weights(loaded, cells, **few), sd.node_weights(model, **few), rtol=1e-3)
    network(EDGES).to_csv(tmp_path / "graph.csv", index=False)
    path = str(tmp_path / "graph.csv")
    again = sd.fit(cells, "kpnn", gene_graph=path, labels_key="kind", max_epochs=3, callback=silent)
    np.testing.assert_array_equal(again.embed(), model.embed())
    assert again.predict(cells).shape == (120, 2)
