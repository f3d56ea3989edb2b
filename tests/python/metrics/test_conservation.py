"""Conservation of biology against scanpy and simple truths."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from named import named
from scipy.stats import spearmanr

from scduet import metrics
from scduet.metrics.integration.conservation import G2M_GENES, S_GENES
from scduet.metrics.integration.genes import variable_genes
from scduet.metrics.integration.graph import adjacency, umap_weights


@pytest.fixture
def expression():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.3, 2, 300) * rng.gamma(2, 0.5, (200, 300)))
    return np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_variable_genes_are_scanpys_cell_ranger_genes(expression, form):
    import anndata
    import scanpy as sc

    found = sc.pp.highly_variable_genes(
        anndata.AnnData(expression), flavor="cell_ranger", n_top_genes=50, inplace=False
    )
    assert set(variable_genes(form(expression), 50)) == set(np.flatnonzero(found["highly_variable"]))


def test_variable_genes_survive_where_nothing_changes_and_not_where_genes_are_shuffled(expression):
    batch = np.arange(200) % 2
    assert metrics.hvg_overlap(expression, expression, batch) == 1
    shuffled = np.random.default_rng(0).permuted(expression, axis=1)
    assert metrics.hvg_overlap(expression, shuffled, batch) < 0.7
    with pytest.raises(ValueError, match=named("before", "(200, 300)", "after", "(200, 5)")):
        metrics.hvg_overlap(expression, expression[:, :5], batch)


def test_cell_cycle_is_kept_or_lost():
    rng = np.random.default_rng(0)
    phase, batch = rng.normal(size=(300, 2)), np.arange(300) % 2
    before = np.hstack([phase, rng.normal(size=(300, 4))])
    assert metrics.cell_cycle_conservation(before, before @ np.linalg.qr(rng.normal(size=(6, 6)))[0], phase, batch) == (
        pytest.approx(1)
    )
    assert metrics.cell_cycle_conservation(before, before[:, 2:], phase, batch) < 0.1
    with pytest.raises(metrics.Undefined):
        metrics.cell_cycle_conservation(before, before, np.ones((300, 2)), batch)


def test_phase_scores_find_cycling_cells():
    rng = np.random.default_rng(0)
    genes = [*S_GENES.split()[:20], *[g.title() for g in G2M_GENES.split()[:20]], *[f"g{i}" for i in range(60)]]
    x = rng.gamma(1, 1, (100, 100))
    x[:30, :20] += 2
    x[30:60, 20:40] += 2
    scores = metrics.phase_scores(x, genes, np.zeros(100))
    assert scores[:30, 0].min() > scores[30:, 0].max()
    assert scores[30:60, 1].min() > scores[60:, 1].max()
    with pytest.raises(metrics.Undefined, match=named(0, "genes", "cell-cycle")):
        metrics.phase_scores(x[:, 40:], genes[40:], np.zeros(100))


def test_trajectory_is_kept_or_reversed_or_noise():
    rng = np.random.default_rng(0)
    time = np.sort(rng.uniform(size=300))
    path = np.column_stack([time * 20, np.sin(time * 3)]) + rng.normal(0, 0.05, (300, 2))
    assert metrics.trajectory_conservation(time, path) > 0.99
    assert metrics.trajectory_conservation(time, path, root=299) < 0.01
    assert metrics.trajectory_conservation(time, rng.permutation(path)) == pytest.approx(0.5, abs=0.15)
    off = np.where(np.arange(300) % 3, time, np.nan)
    assert metrics.trajectory_conservation(off, path) > 0.99
    with pytest.raises(metrics.Undefined):
        metrics.trajectory_conservation(np.full(300, np.nan), path)


def scanpys_pseudotime(x):
    import anndata
    import scanpy as sc

    obs = pd.DataFrame(index=[str(i) for i in range(len(x))])
    near = metrics.nearest_neighbors(x, 15)
    graphs = {"connectivities": umap_weights(near), "distances": adjacency(near, near.distance)}
    adata = anndata.AnnData(np.zeros((len(x), 1)), obs=obs, obsm={"X": x}, obsp=graphs)
    adata.uns["neighbors"] = {  # as sc.pp.neighbors leaves it, without the time that numba takes to compile it
        "connectivities_key": "connectivities",
        "distances_key": "distances",
        "params": {"n_neighbors": 15, "method": "umap", "use_rep": "X"},
    }
    sc.tl.diffmap(adata, n_comps=15)
    adata.uns["iroot"] = 0
    sc.tl.dpt(adata, n_dcs=15)
    return adata.obs["dpt_pseudotime"].to_numpy()


def test_pseudotime_is_scanpys_but_for_long_trajectories_which_scanpy_loses():
    rng = np.random.default_rng(0)
    short = np.column_stack([np.linspace(0, 5, 150), rng.normal(0, 1, 150)])
    np.testing.assert_allclose(metrics.pseudotime(short, 0, n_components=15), scanpys_pseudotime(short), atol=1e-3)
    long = np.column_stack([np.linspace(0, 20, 300), rng.normal(0, 0.05, 300)])
    assert spearmanr(np.arange(300), metrics.pseudotime(long, 0)).statistic > 0.99
    assert spearmanr(np.arange(300), scanpys_pseudotime(long)).statistic < 0.8


def test_pseudotime_is_missing_where_the_graph_does_not_reach():
    x = np.vstack([np.random.default_rng(0).normal(size=(50, 2)), np.random.default_rng(1).normal(size=(50, 2)) + 99])
    time = metrics.pseudotime(x, 0, n_neighbors=10)
    assert np.isfinite(time[:50]).all()
    assert np.isnan(time[50:]).all()
