"""What neighborhoods tell: LISI, kBET, entropy and connectivity against closed forms and simple cases."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist
from scipy.stats import chisquare

from scduet import metrics
from scduet.metrics.core.neighbors import Neighbors, neighbor_counts
from scduet.metrics.integration.kbet import accepted
from scduet.metrics.integration.lisi import lisi_samples, neighborhood_weights


def ring(index, distance=None):
    index = np.asarray(index)
    distance = np.ones(index.shape) if distance is None else np.asarray(distance, float)
    return Neighbors(index, distance, np.arange(len(index)), len(index))


def test_neighbors_are_the_nearest_without_the_cell(cells):
    near = metrics.nearest_neighbors(cells.x, 15)
    distance = cdist(cells.x, cells.x)
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_allclose(near.distance, np.sort(distance)[:, :14], atol=1e-9)
    assert not (near.index == near.queries[:, None]).any()


def test_duplicates_do_not_hide_the_cell_among_its_neighbors():
    near = metrics.nearest_neighbors(np.repeat([[0.0, 0], [5, 5]], 50, axis=0), 10)
    assert not (near.index == near.queries[:, None]).any()
    assert (near.distance == 0).all()


def test_more_neighbors_than_cells_means_all_others(make):
    near = metrics.nearest_neighbors(make(n=20).x, 90)
    assert near.index.shape == (20, 19)


def test_a_graph_of_distances_gives_the_same_neighbors(cells):
    near = metrics.nearest_neighbors(cells.x, 15)
    graph = sp.csr_matrix((near.distance.ravel(), near.index.ravel(), np.arange(0, 600 * 14 + 1, 14)), (600, 600))
    again = metrics.from_graph(graph)
    np.testing.assert_array_equal(again.index, near.index)
    assert metrics.graph_connectivity(None, cells.labels, neighbors=again) == metrics.graph_connectivity(
        cells.x, cells.labels
    )


def test_weights_have_the_wanted_perplexity(cells):
    p = neighborhood_weights(metrics.nearest_neighbors(cells.x, 90))
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    np.testing.assert_allclose(np.exp(entropy), 30, rtol=1e-4)


def test_lisi_counts_batches_where_all_distances_are_equal():
    # 6 neighbors at one distance, uniform weights: 3 of one batch and 3 of the other -> 2; all of one -> 1
    near = ring([[1, 2, 3, 4, 5, 6]] * 8)
    assert lisi_samples(near, np.array([0, 0, 0, 0, 1, 1, 1, 0]))[0] == pytest.approx(2)
    assert lisi_samples(near, np.zeros(8, int))[0] == pytest.approx(1)


def test_lisi_survives_distances_at_which_weights_underflow(cells):
    near = metrics.nearest_neighbors(cells.x, 90)
    far = Neighbors(near.index, near.distance + 1e5, near.queries, near.n_cells)
    np.testing.assert_allclose(lisi_samples(far, cells.batch), lisi_samples(near, cells.batch), rtol=1e-3)


def test_ilisi_and_clisi_reach_their_ends(make):
    rng = np.random.default_rng(0)
    cells = make(n=3000, shift=0, n_batches=2, spread=8)
    assert metrics.ilisi(cells.x, cells.batch) > 0.9
    assert metrics.clisi(cells.x, cells.labels) == pytest.approx(1)
    assert metrics.clisi(cells.x, rng.permutation(cells.labels)) < 0.3
    apart = cells.x + 100 * cells.batch[:, None]
    assert metrics.ilisi(apart, cells.batch) == pytest.approx(0)


def test_cilisi_forgives_a_type_missing_in_a_batch_and_ilisi_does_not(make):
    cells = make(n=2000, shift=0, n_batches=2, spread=8)
    batch = np.where(cells.labels < 3, 0, cells.batch)  # three of four types in one batch only
    assert metrics.cilisi(cells.x, cells.labels, batch) > 0.8
    assert metrics.cilisi(cells.x, cells.labels, batch, per_label=True) > 0.8
    assert metrics.ilisi(cells.x, batch) < 0.1


def test_kbet_statistic_equals_scipys_chisquare(cells):
    near = metrics.nearest_neighbors(cells.x, 30)
    counts = neighbor_counts(near, cells.batch)
    counts[np.arange(600), cells.batch] += 1
    p = [chisquare(row, 30 * np.bincount(cells.batch) / 600).pvalue for row in counts]
    np.testing.assert_array_equal(accepted(near, cells.batch), (np.array(p) >= 0.05).astype(float))


def test_kbet_accepts_about_95_percent_of_random_batches(make):
    cells = make(n=3000, shift=0)
    for value in (metrics.kbet(cells.x, cells.labels, cells.batch), metrics.kbet_global(cells.x, cells.batch)):
        assert 0.9 < value <= 1
    assert metrics.kbet(cells.x + 20 * cells.batch[:, None], cells.labels, cells.batch) == 0


def test_kbet_diffusion_tells_mixed_from_separate_and_forgets_names(make):
    cells = make(n=500, shift=0, n_labels=2)
    mixed = metrics.kbet_diffusion(cells.x, cells.labels, cells.batch)
    assert mixed > 0.7
    assert metrics.kbet_diffusion(cells.x + 20 * cells.batch[:, None], cells.labels, cells.batch) < 0.1
    tiny = cells.labels.copy()
    tiny[np.flatnonzero(cells.labels == 0)[:30]] = 2
    values = [
        metrics.kbet_diffusion(cells.x, np.array(names)[tiny], cells.batch)
        for names in (["b", "c", "a"], ["b", "c", "z"])
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-12)


def test_entropy_in_closed_form():
    # two neighbors of each batch for every cell: log 2 nats, and all there is
    near = ring([[1, 2, 3, 4]] * 6)
    batch = np.array([0, 0, 0, 1, 1, 1])
    assert metrics.batch_entropy(None, batch, neighbors=near) == pytest.approx(1)
    assert metrics.batch_entropy(None, batch, neighbors=near, normalize=False) == pytest.approx(np.log(2))


def test_graph_connectivity_is_the_share_of_the_largest_component():
    # one label of five cells in components of 3 and 2; a cell that nobody names is still connected
    near = ring([[1], [0], [0], [4], [3]])
    assert metrics.graph_connectivity(None, ["a"] * 5, neighbors=near) == pytest.approx(3 / 5)


def test_pcr_equals_regression_on_principal_components(cells):
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LinearRegression

    def pcr(x):
        pca = PCA().fit(x)
        scores, design = pca.transform(x), np.eye(3)[cells.batch]
        r2 = [LinearRegression().fit(design, s).score(design, s) for s in scores.T]
        return np.average(r2, weights=pca.explained_variance_)

    expected = (pcr(cells.before) - pcr(cells.x)) / pcr(cells.before)
    assert metrics.pcr_comparison(cells.before, cells.x, cells.batch) == pytest.approx(expected, abs=1e-10)
    assert metrics.pcr_comparison(cells.before, cells.before, cells.batch) == 0


def test_clusters_of_separate_types_are_the_types(make):
    cells = make(spread=6)
    for metric in (metrics.nmi_kmeans, metrics.ari_kmeans, metrics.nmi_leiden, metrics.ari_leiden):
        assert metric(cells.x, cells.labels) == pytest.approx(1)
        assert metric(np.random.default_rng(1).permutation(cells.x), cells.labels) < 0.1
