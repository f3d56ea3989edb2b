"""Metrics of generated cells against closed forms."""

import numpy as np
import pytest
from scipy.stats import norm

from scduet.metrics import (
    Undefined,
    copied_share,
    correlation_agreement,
    label_accuracy,
    shuffled_within,
    two_sample_auc,
)

DRAW = np.random.default_rng(0)


def test_the_auc_is_that_of_the_best_line_between_two_normal_distributions():
    """Of N(0, I) and N(d, I) it is Phi(|d| / sqrt 2)."""
    shift = np.array([1.0, 0, 0])
    found = two_sample_auc(DRAW.normal(size=(800, 3)), DRAW.normal(size=(800, 3)) + shift, "logistic")
    assert abs(found - norm.cdf(1 / np.sqrt(2))) < 0.03
    for name in ("forest", "logistic"):
        assert abs(two_sample_auc(DRAW.normal(size=(300, 3)), DRAW.normal(size=(300, 3)), name) - 0.5) < 0.08
    ring = DRAW.normal(size=(300, 2))
    ring *= 3 / np.linalg.norm(ring, axis=1, keepdims=True)
    assert two_sample_auc(DRAW.normal(size=(300, 2)) * 0.5, ring, "forest") > 0.99
    with pytest.raises(Undefined):
        two_sample_auc(np.zeros((3, 2)), np.zeros((9, 2)))


def test_correlations_agree_by_their_pearson_correlation():
    mixing = DRAW.normal(size=(6, 6))
    x, y = DRAW.normal(size=(5000, 6)) @ mixing, DRAW.normal(size=(5000, 6)) @ mixing
    assert correlation_agreement(x, y) > 0.99
    pairs = np.triu_indices(6, 1)
    z = DRAW.normal(size=(50, 6))
    assert np.isclose(correlation_agreement(x, z), np.corrcoef(np.corrcoef(x.T)[pairs], np.corrcoef(z.T)[pairs])[0, 1])
    assert abs(correlation_agreement(x, shuffled_within(x, np.zeros(5000, int)))) < 0.8
    with pytest.raises(Undefined):
        correlation_agreement(x[:, :2], y[:, :2])


def test_copies_are_counted():
    training, real = DRAW.normal(size=(500, 4)), DRAW.normal(size=(400, 4))
    assert copied_share(training[:100], training, real) == 1
    assert abs(copied_share(DRAW.normal(size=(400, 4)), training, real) - 0.05) < 0.03
    mixed = np.vstack([training[:50], DRAW.normal(size=(50, 4)) + 9])
    assert copied_share(mixed, training, real) == 0.5


def test_shuffling_keeps_every_gene_of_a_label_and_no_pair():
    labels = np.repeat([0, 1], 500)
    x = np.repeat(DRAW.normal(size=(1000, 1)), 2, 1) + labels[:, None] * 5
    found = shuffled_within(x, labels)
    for label in (0, 1):
        assert np.array_equal(np.sort(found[labels == label], 0), np.sort(x[labels == label], 0))
        assert abs(np.corrcoef(found[labels == label].T)[0, 1]) < 0.15


def test_each_label_weighs_the_same():
    """All of the many cells of one label are right, none of the few of the other."""
    training, labels = np.array([[-1.0], [1.0]] * 20), np.array(["a", "b"] * 20)
    cells, truth = np.full((100, 1), -1.0), np.array(["a"] * 90 + ["b"] * 10)
    assert label_accuracy(training, labels, cells, truth) == 0.5
