"""Metrics of proportions against other formulas, and at their ends."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import pearsonr

from scduet import metrics


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.full(4, 0.5), 30)
    truth[truth < 0.1] = 0
    return truth / truth.sum(1, keepdims=True), rng.dirichlet(np.ones(4), 30)


def test_values_are_those_of_other_formulas(pair):
    truth, found = pair
    assert metrics.proportion_jsd(truth, found) == pytest.approx(np.mean(jensenshannon(truth.T, found.T, 2) ** 2))
    assert metrics.proportion_rmse(truth, found) == pytest.approx(
        np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(truth, found, strict=True)])
    )
    expected = [pearsonr(a, b)[0] for a, b in zip(truth.T, found.T, strict=True)]
    assert metrics.type_correlation(truth, found) == pytest.approx(expected)


def test_ends_of_the_scales(pair):
    truth, _ = pair
    assert metrics.proportion_rmse(truth, truth) == metrics.proportion_jsd(truth, truth) == 0
    assert metrics.presence_aupr(truth, truth) == pytest.approx(1)
    assert metrics.type_concordance(truth, truth) == pytest.approx(np.ones(4))
    one = np.tile([[1.0, 0, 0]], (5, 1))
    assert metrics.proportion_jsd(one, one[:, ::-1]) == pytest.approx(1)
    same = np.full(truth.shape, 0.25)
    assert (metrics.type_correlation(truth, same) == 0).all()
    assert metrics.presence_aupr(truth, same) == pytest.approx((truth > 0).mean())


def test_concordance_sees_size_where_correlation_does_not(pair):
    truth, _ = pair
    half = truth / 2
    assert metrics.type_correlation(truth, half) == pytest.approx(np.ones(4))
    assert (metrics.type_concordance(truth, half) < 0.9).all()


def test_what_is_not_defined_or_no_proportion(pair):
    truth, found = pair
    constant = np.column_stack([np.full(30, 0.5), truth[:, 0] / 2, 0.5 - truth[:, 0] / 2])
    assert np.isnan(metrics.type_correlation(constant, constant)).tolist() == [True, False, False]
    with pytest.raises(metrics.Undefined):
        metrics.presence_aupr(np.full((3, 2), 0.5), np.full((3, 2), 0.5))
    with pytest.raises(ValueError, match="30, 4"):
        metrics.proportion_rmse(truth, found[:, :3])
    with pytest.raises(ValueError, match="0"):
        metrics.proportion_rmse(truth, -found)
