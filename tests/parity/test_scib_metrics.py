"""The same numbers as scib-metrics 0.5.10 where definitions agree, and a test for each defect that we do not share."""

import logging

import numpy as np
import pytest
from named import named
from sklearn.neighbors import NearestNeighbors

from scduet import metrics
from scduet.metrics.integration import clustering

scib = pytest.importorskip("scib_metrics", reason="scib-metrics is not installed: pip install scduet[parity]")
logging.getLogger("scib_metrics").setLevel(logging.ERROR)
N = 400


@pytest.fixture(scope="module")
def data():
    """Three types in three batches that are partly mixed; type 2 only in batch 0; and one neighbor list for both."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    rng = np.random.default_rng(0)
    labels, batch = rng.integers(0, 3, N), rng.integers(0, 3, N)
    batch[labels == 2] = 0
    x = rng.normal(size=(3, 8))[labels] * 1.5 + rng.normal(size=(N, 8)) + rng.normal(size=(3, 8))[batch] * 0.4
    near = metrics.nearest_neighbors(x, 90)
    index = np.column_stack([np.arange(N), near.index]).astype(np.int32)
    distance = np.column_stack([np.zeros(N), near.distance]).astype(np.float32)
    theirs = NeighborsResults(indices=index, distances=distance)
    return x, labels, batch, near, theirs


def close(ours, theirs):
    return ours == pytest.approx(float(theirs), abs=1e-4)


def test_silhouettes(data):
    x, labels, batch, *_ = data
    assert close(metrics.silhouette_label(x, labels), scib.silhouette_label(x, labels))
    assert close(metrics.silhouette_batch(x, labels, batch), scib.silhouette_batch(x, labels, batch))
    assert close(metrics.isolated_labels(x, labels, batch), scib.isolated_labels(x, labels, batch))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_bras(data, metric):
    x, labels, batch, *_ = data
    assert close(metrics.bras(x, labels, batch, metric), scib.bras(x, labels, batch, metric=metric))


def test_lisi(data):
    x, labels, batch, near, theirs = data
    assert close(metrics.ilisi(x, batch, neighbors=near), scib.ilisi_knn(theirs, batch))
    assert close(metrics.clisi(x, labels, neighbors=near), scib.clisi_knn(theirs, labels))


def test_global_kbet(data):
    x, _, batch, near, theirs = data
    assert close(metrics.kbet_global(x, batch, neighbors=near), scib.kbet(theirs.subset_neighbors(50), batch)[0])


def exact(x, n_neighbors, **_):
    """In place of their approximate search; in double precision, since in single near ties fall on either side."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    x = x.astype(np.float64)
    distance, index = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(x).kneighbors(x)
    return NeighborsResults(indices=index.astype(np.int32), distances=distance.astype(np.float32))


def test_diffused_kbet_given_exact_neighbors_in_diffusion_space(data, monkeypatch):
    x, labels, batch, near, theirs = data
    monkeypatch.setattr(scib.nearest_neighbors, "pynndescent", exact)
    expected = scib.kbet_per_label(theirs.subset_neighbors(50), batch, labels)
    assert close(metrics.kbet_diffusion(x, labels, batch, neighbors=near), expected)


def test_pcr_comparison(data):
    x, _, batch, *_ = data
    after = x - 0.7 * np.stack([x[batch == b].mean(0) for b in range(3)])[batch]
    expected = scib.pcr_comparison(x, after, batch, categorical=True)
    assert close(metrics.pcr_comparison(x, after, batch), expected)


def test_leiden_given_the_seed(data):
    x, labels, _, near, theirs = data
    expected = scib.nmi_ari_cluster_labels_leiden(theirs.subset_neighbors(15), labels, optimize_resolution=True)
    assert close(metrics.nmi_leiden(x, labels, seed=42, neighbors=near), expected["nmi"])
    assert close(metrics.ari_leiden(x, labels, seed=42, neighbors=near), expected["ari"])


def test_nmi_and_ari_given_the_clusters(data):
    x, labels, *_ = data
    clusters = scib.utils.KMeans(3).fit(x).labels_
    theirs = scib.nmi_ari_cluster_labels_kmeans(x, labels)
    assert close(clustering.nmi(labels, np.asarray(clusters)), theirs["nmi"])
    assert close(clustering.ari(labels, np.asarray(clusters)), theirs["ari"])


# Where we differ, since theirs is wrong


def test_defect_missing_labels_are_merged_into_the_first_type(data):
    import pandas as pd

    x, labels, *_ = data
    names = pd.Series([f"type {code}" for code in labels], dtype=object)
    names[:10] = np.nan
    assert np.isfinite(scib.silhouette_label(x, names.to_numpy()))
    with pytest.raises(ValueError, match=named("labels", 10)):
        metrics.silhouette_label(x, names)


def test_defect_isolated_labels_scores_all_where_none_is_isolated(data):
    x, labels, *_ = data
    everywhere = np.arange(N) % 2
    assert np.isfinite(scib.isolated_labels(x, labels, everywhere))
    with pytest.raises(metrics.Undefined):
        metrics.isolated_labels(x, labels, everywhere)


def test_defect_connectivity_counts_strong_components_of_a_directed_graph(data):
    # a cell that names others but that no other names is cut off there
    x, labels, _, near, theirs = data
    assert scib.graph_connectivity(theirs.subset_neighbors(15), labels) < 0.99
    assert metrics.graph_connectivity(x, labels, neighbors=near) == 1


def test_defect_diffused_kbet_depends_on_the_names_of_small_labels(data, monkeypatch):
    monkeypatch.setattr(scib.nearest_neighbors, "pynndescent", exact)
    x, labels, batch, near, theirs = data
    small = labels.copy()
    small[np.flatnonzero(labels == 0)[:30]] = 3

    def both(names):
        named = np.array(names)[small]
        return (
            scib.kbet_per_label(theirs.subset_neighbors(50), batch, named),
            metrics.kbet_diffusion(x, named, batch, neighbors=near),
        )

    (their_last, our_last), (their_first, our_first) = both(["b", "c", "d", "z"]), both(["b", "c", "d", "a"])
    assert our_first == our_last
    assert abs(their_first - their_last) > 0.002


def test_defect_one_batch_gives_noise_in_pcr(data):
    x, *_ = data
    with pytest.raises(metrics.Undefined, match=named("PCR", "batches", 2, 1)):
        metrics.pcr_comparison(x, 2 * x, np.zeros(N))


def test_defect_one_kmeans_start_is_luck():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 12, 600)
    x = rng.normal(size=(12, 10))[labels] * 4 + rng.normal(size=(600, 10))
    ours = [metrics.nmi_kmeans(x, labels, seed=seed) for seed in range(3)]
    assert min(ours) > 0.99
    assert scib.nmi_ari_cluster_labels_kmeans(x, labels)["nmi"] < min(ours) - 0.005
