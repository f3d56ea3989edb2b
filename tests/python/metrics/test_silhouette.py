"""Silhouettes against scikit-learn, closed forms, and the nested batches that the batch silhouette cannot see."""

import numpy as np
import pytest
from named import named
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_samples as sklearn_samples

from scduet import metrics
from scduet.metrics.core.tiles import enough_precision, group_sums
from scduet.metrics.integration.silhouette import silhouette_samples


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "sqeuclidean"])
@pytest.mark.parametrize("n", [7, 600, 1100])  # within a tile, across tiles
def test_sums_of_distances_equal_scipy(make, metric, n):
    cells = make(n=n)
    expected = cdist(cells.x, cells.x, metric) @ np.eye(cells.labels.max() + 1)[cells.labels]
    np.testing.assert_allclose(group_sums(cells.x, cells.labels, metric), expected, rtol=1e-9, atol=1e-9)


def test_silhouette_equals_sklearn_cell_by_cell(cells):
    np.testing.assert_allclose(
        silhouette_samples(cells.x, cells.labels), sklearn_samples(cells.x, cells.labels), atol=1e-10
    )


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_single_precision_moves_no_silhouette(make, metric):
    cells = make(n=2500)
    assert enough_precision(cells.x, cells.labels, metric) is np.float32
    found = silhouette_samples(cells.x, cells.labels, metric=metric)
    expected = sklearn_samples(cells.x, cells.labels, metric=metric)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert found.mean() == pytest.approx(expected.mean(), abs=1e-7)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_tight_groups_that_are_far_apart_are_compared_in_double_precision(make, metric):
    cells = make(n=2500, spread=1e5, shift=0)
    assert enough_precision(cells.x, cells.labels, metric) is np.float64
    found = silhouette_samples(cells.x, cells.labels, metric=metric)
    np.testing.assert_allclose(found, sklearn_samples(cells.x, cells.labels, metric=metric), atol=1e-6)


def test_queries_are_the_rows_of_the_full_result(cells):
    rows = np.array([5, 3, 599])
    s = silhouette_samples(cells.x, cells.labels, queries=rows)
    np.testing.assert_allclose(s, silhouette_samples(cells.x, cells.labels)[rows], atol=1e-12)


def test_tight_groups_far_from_the_origin_keep_their_digits():
    x = np.array([[1e6, 0], [1e6, 1e-3], [1e6 + 1, 0], [1e6 + 1, 1e-3]])
    np.testing.assert_allclose(silhouette_samples(x, np.array([0, 0, 1, 1])), 0.999, atol=1e-3)


def test_silhouette_label_of_two_pairs_in_closed_form():
    # a = 1, b = mean(10, sqrt(101)) for every cell
    x = np.array([[0, 0], [0, 1], [10, 0], [10, 1]])
    s = 1 - 1 / np.mean([10, np.sqrt(101)])
    assert metrics.silhouette_label(x, ["a", "a", "b", "b"]) == pytest.approx((s + 1) / 2)


def test_batch_silhouette_is_blind_to_nested_batches_and_bras_is_not():
    rng = np.random.default_rng(0)
    batch = np.repeat(np.arange(4), 150)
    mixed = rng.normal(size=(600, 10))
    nested = mixed + np.array([0, 0.05, 8, 8.05])[batch][:, None] * np.eye(10)[0]  # pairs overlap, pairs are 8 sd apart
    label = np.zeros(600)
    assert metrics.silhouette_batch(nested, label, batch) > 0.97
    assert metrics.bras(nested, label, batch) < 0.6
    assert metrics.bras(nested, label, batch, metric="euclidean") < 0.6
    assert metrics.bras(mixed, label, batch) > 0.95


def test_labels_without_two_batches_are_left_out(cells):
    only = np.concatenate([cells.batch, [0, 0, 0]])
    x = np.vstack([cells.x, cells.x[:3] + 50])
    labels = np.concatenate([cells.labels, [9, 9, 9]])
    assert metrics.silhouette_batch(x, labels, only) == pytest.approx(
        metrics.silhouette_batch(cells.x, cells.labels, cells.batch)
    )


def test_isolated_labels_is_the_mean_silhouette_of_labels_in_few_batches(cells):
    batch = np.where(cells.labels == 2, 0, cells.batch)
    s = sklearn_samples(cells.x, cells.labels)
    assert metrics.isolated_labels(cells.x, cells.labels, batch) == pytest.approx((s[cells.labels == 2].mean() + 1) / 2)


def test_no_label_is_isolated_where_all_are_everywhere(cells):
    for metric in (metrics.isolated_labels, metrics.isolated_f1):
        with pytest.raises(metrics.Undefined, match=named("label", "batch")):
            metric(cells.x, cells.labels, cells.batch)


def test_isolated_f1_is_one_for_a_label_that_is_a_cluster(make):
    cells = make(spread=6)
    batch = np.where(cells.labels == 2, 0, cells.batch)
    assert metrics.isolated_f1(cells.x, cells.labels, batch) == pytest.approx(1)
