"""The metrics that scib has and scib-metrics has not, beside scib's own."""

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest

from scduet import metrics
from scduet.metrics.integration.clustering import RESOLUTIONS
from scduet.metrics.integration.graph import umap_weights
from scduet.tasks.quality.baselines import log_normalized

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    scib = pytest.importorskip("scib", reason="scib is not installed: pip install --no-deps scib deprecated wrapt")
pytestmark = pytest.mark.filterwarnings("ignore")
N = 600


@pytest.fixture
def cells():
    """Two AnnData, before and after: four types in three batches, the last type in one batch only, two phases."""
    rng = np.random.default_rng(0)
    labels, batch = rng.integers(0, 4, N), rng.integers(0, 3, N)
    batch[labels == 3] = 0
    phase = rng.normal(size=(N, 2))
    x = rng.normal(size=(4, 12))[labels] * 1.2 + rng.normal(size=(N, 12)) + phase @ rng.normal(size=(2, 12)) * 0.4
    names = {"label": labels.astype(str), "batch": batch.astype(str), "S_score": phase[:, 0], "G2M_score": phase[:, 1]}
    obs = pd.DataFrame(names, index=[f"c{i}" for i in range(N)]).astype({"label": "category", "batch": "category"})
    after = anndata.AnnData(x * 0.8 + rng.normal(size=(N, 12)) * 0.3, obs=obs.copy())
    after.obsm["X_emb"] = after.X.copy()
    near = metrics.nearest_neighbors(after.X, 15)
    after.obsp["connectivities"] = umap_weights(near).tocsr()
    after.uns["neighbors"] = {"connectivities_key": "connectivities", "params": {"n_neighbors": 15, "method": "umap"}}
    before = anndata.AnnData(x + rng.normal(size=(3, 12))[batch], obs=obs.copy())
    return before, after, labels, batch, phase, near


def test_graph_connectivity(cells):
    _, after, labels, _, _, near = cells
    ours = metrics.graph_connectivity(after.X, labels, neighbors=near)
    assert ours == pytest.approx(scib.me.graph_connectivity(after, "label"), abs=1e-9)


def test_pcr_comparison(cells):
    before, after, _, batch, *_ = cells
    theirs = scib.me.pcr_comparison(before, after, "batch", embed="X_emb", n_comps=11)
    assert metrics.pcr_comparison(before.X, after.X, batch) == pytest.approx(theirs, abs=0.02)  # they drop a component


def test_cell_cycle(cells):
    before, after, _, batch, phase, _ = cells
    theirs = scib.me.cell_cycle(before, after, "batch", embed="X_emb", recompute_cc=False, n_comps=11)
    ours = metrics.cell_cycle_conservation(before.X, after.X, phase, batch)
    assert ours == pytest.approx(theirs, abs=0.02)


def test_highly_variable_genes_stay(cells):
    import scduet as sd

    counts = sd.datasets.pbmc68k()
    before = anndata.AnnData(log_normalized(counts.X), obs=counts.obs[[]].copy(), var=counts.var[[]].copy())
    before.obs["batch"] = pd.Categorical(np.where(np.arange(before.n_obs) % 2, "a", "b"))
    after = before.copy()
    after.X = after.X.copy()
    after.X.data *= np.random.default_rng(0).uniform(0.5, 1.5, len(after.X.data))
    theirs = scib.me.hvg_overlap(before, after, "batch", n_hvg=200)
    assert 0.3 < theirs < 0.99
    ours = metrics.hvg_overlap(before.X, after.X, before.obs["batch"], n_top=200)
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_isolated_f1(cells):
    _, after, labels, batch, _, near = cells
    theirs = scib.me.isolated_labels_f1(after, "label", "batch", None, resolutions=list(RESOLUTIONS), verbose=False)
    ours = metrics.isolated_f1(after.X, labels, batch, neighbors=near)
    assert 0.3 < theirs < 1
    assert ours == pytest.approx(theirs, abs=0.05)  # both take the best of ten Leiden runs, with other seeds


def test_trajectory_conservation_from_the_same_root():
    """Theirs votes for the root; ours is given it. A graph of one piece, as theirs sets cells off the largest to 0."""
    rng = np.random.default_rng(0)
    time = np.sort(rng.uniform(size=N))
    x = np.stack([np.cos(3 * time), np.sin(3 * time), *rng.normal(size=(6, N))], 1) * ([2.0] * 2 + [0.4] * 6)
    observed = time + rng.normal(0, 0.1, N)
    obs = pd.DataFrame({"label": (time * 4).astype(int).astype(str), "dpt_pseudotime": observed})
    obs.index = [f"c{i}" for i in range(N)]
    before, after = anndata.AnnData(x, obs=obs.copy()), anndata.AnnData(x, obs=obs[["label"]].copy())
    after.obsp["connectivities"] = umap_weights(metrics.nearest_neighbors(x, 15)).tocsr()
    after.uns["neighbors"] = {"connectivities_key": "connectivities", "params": {"n_neighbors": 15, "method": "umap"}}
    root = scib.metrics.trajectory.get_root(before.copy(), after.copy(), "label")[0]
    theirs = scib.me.trajectory_conservation(before, after, "label")
    assert 0.6 < theirs < 0.999
    assert metrics.trajectory_conservation(observed, x, root=int(root)) == pytest.approx(theirs, abs=1e-4)
