"""Metrics of matched modalities: values that are known, symmetries, and input that is refused."""

import numpy as np
import pytest
import scipy.sparse as sp

from scduet.metrics import Undefined, foscttm, knn_overlap, match_probability, modality_mixing, top_k_accuracy


@pytest.fixture
def cells():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(1500, 5))
    return x, x + 0.3 * draw.normal(size=x.shape), draw.permutation(1500)


def test_values_counted_by_hand():
    """Of 2 the half is at 4, and 1.6 is closer (0 is a tie); of 1.6 the half is at 1, and 2 is closer."""
    x, y = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.6], [4.0]])
    assert foscttm(x, y) == pytest.approx((1 / 6 + 1 / 6) / 2)
    assert top_k_accuracy(x, y, 1) == pytest.approx(2 / 3)
    assert top_k_accuracy(x, y, 2) == 1


def test_perfect_and_shuffled(cells):
    x, y, order = cells
    assert (foscttm(x, x), top_k_accuracy(x, x, 1), knn_overlap(x, x)) == (0, 1, 1)
    assert foscttm(x, x[order]) == pytest.approx(0.5, abs=0.02)
    assert top_k_accuracy(x, x[order], 15) == pytest.approx(0.01, abs=0.01)
    assert knn_overlap(x, x[order], 30) == pytest.approx(30 / 1499, abs=0.01)
    assert 0 < foscttm(x, y) < 0.05
    assert foscttm(x, y) == pytest.approx(foscttm(y, x))
    assert foscttm(x[order], y[order]) == pytest.approx(foscttm(x, y))


def test_probability_of_matches():
    assert match_probability(np.eye(4)) == 1
    assert match_probability(np.ones((4, 4))) == pytest.approx(0.25)
    weights = sp.csr_matrix(np.array([[2.0, 2.0, 0], [0, 0, 0], [-5.0, 1.0, 3.0]]))
    assert match_probability(weights) == pytest.approx((0.5 + 0 + 0.75) / 3)


def test_mixing(cells):
    x, y, _ = cells
    assert modality_mixing(x[:300], y[300:600]) > 0.8
    assert modality_mixing(x[:300], x[:300] + 100) < 0.01


def test_what_does_not_fit_is_refused(cells):
    x, y, _ = cells
    for function in (foscttm, top_k_accuracy, knn_overlap):
        with pytest.raises(ValueError, match="1500"):
            function(x, y[:3])
        with pytest.raises(Undefined):
            function(x[:1], y[:1])
    with pytest.raises(ValueError, match="dimensions"):
        foscttm(x, y[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        foscttm(x, np.where(y > 2, np.nan, y))
    with pytest.raises(ValueError, match="square"):
        match_probability(np.ones((2, 3)))
    with pytest.raises(ValueError, match="k=0"):
        top_k_accuracy(x, y, 0)
