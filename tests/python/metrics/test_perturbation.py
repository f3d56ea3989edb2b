"""Perturbation metrics: closed forms, scipy, and why correlations of raw means say nothing."""

import numpy as np
import pytest
from named import named
from scipy.spatial.distance import cdist
from scipy.stats import ttest_ind

from scduet import metrics

RNG = np.random.default_rng(0)
CONTROL = RNG.gamma(1, 1, 50)[None] + RNG.normal(0, 0.1, (80, 50))
CHANGE = np.r_[np.linspace(2, 1, 10), np.zeros(40)] * np.where(np.arange(50) % 2, 1, -1)
TREATED = CONTROL[:60] + CHANGE + RNG.normal(0, 0.1, (60, 50))


def test_no_change_has_a_high_raw_correlation_and_no_delta():
    assert metrics.pearson(CONTROL.mean(0) + CHANGE / 20, CONTROL) > 0.99
    with pytest.raises(metrics.Undefined):
        metrics.pearson_delta(TREATED, CONTROL, CONTROL)


def test_delta_of_half_the_response_is_perfect_in_direction_but_not_in_size():
    half = CONTROL.mean(0) + (TREATED.mean(0) - CONTROL.mean(0)) / 2
    assert metrics.pearson_delta(TREATED, half, CONTROL) == pytest.approx(1)
    assert metrics.direction_accuracy(TREATED, half, CONTROL) == 1
    assert metrics.mse(TREATED, half) == pytest.approx(np.mean(((TREATED.mean(0) - CONTROL.mean(0)) / 2) ** 2))


def test_the_two_r2_differ_by_scale_and_offset():
    observed = RNG.normal(size=30)
    assert metrics.squared_pearson(observed, 3 * observed + 5) == pytest.approx(1)
    assert metrics.explained_variance_r2(observed, 3 * observed + 5) < 0
    assert metrics.explained_variance_r2(observed, observed) == 1
    assert metrics.explained_variance_r2(observed, np.full(30, observed.mean())) == pytest.approx(0)


def test_top_genes_are_welchs_and_overlap_counts_them():
    t = ttest_ind(TREATED, CONTROL, equal_var=False).statistic
    np.testing.assert_array_equal(metrics.top_genes(TREATED, CONTROL, 20), np.argsort(-np.abs(t))[:20])
    assert set(metrics.top_genes(TREATED, CONTROL, 10)) == set(range(10))
    assert metrics.gene_overlap(TREATED, TREATED, CONTROL, 10) == 1
    other = CONTROL + np.roll(CHANGE, 25)
    assert metrics.gene_overlap(TREATED, other, CONTROL, 10) == 0


def test_metrics_on_chosen_genes_see_only_these():
    genes = metrics.top_genes(TREATED, CONTROL, 20)
    wrong = TREATED.mean(0).copy()
    wrong[np.setdiff1d(np.arange(50), genes)] = 99
    assert metrics.mse(TREATED, wrong, genes=genes) == pytest.approx(0)
    assert metrics.pearson_delta(TREATED, wrong, CONTROL, genes=genes) == pytest.approx(1)


def test_energy_distance_equals_its_definition_and_sees_spread():
    a, b = RNG.normal(size=(40, 3)), 3 * RNG.normal(size=(50, 3))
    within = [cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (a, b)]
    assert metrics.energy_distance(a, b) == pytest.approx(2 * cdist(a, b).mean() - sum(within))
    assert metrics.energy_distance(a, b) > 0.5  # same means: squared distances would see nothing
    assert metrics.energy_distance(a, a + 5) > metrics.energy_distance(a, a + 1)


def test_mmd_equals_its_definition_and_is_centered_at_zero():
    a, b = RNG.normal(size=(40, 3)), RNG.normal(size=(50, 3)) + 1

    def kernel(x, y):
        return np.exp(-cdist(x, y, "sqeuclidean") / (2 * 1.5**2))

    within = [(kernel(x, x).sum() - len(x)) / (len(x) * (len(x) - 1)) for x in (a, b)]
    assert metrics.mmd(a, b, bandwidth=1.5) == pytest.approx(sum(within) - 2 * kernel(a, b).mean())
    same = [metrics.mmd(RNG.normal(size=(60, 3)), RNG.normal(size=(60, 3))) for _ in range(50)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(50)


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.pearson([1.0, 1, 1], [1.0, 2, 3]),
        lambda: metrics.explained_variance_r2([2.0, 2], [1.0, 3]),
        lambda: metrics.direction_accuracy([1.0, 2], [1.0, 3], [1.0, 2]),
        lambda: metrics.energy_distance([[1.0, 2]], [[1.0, 2], [2, 3]]),
        lambda: metrics.mmd(np.ones((5, 2)), np.ones((5, 2))),
    ],
)
def test_what_has_no_value_says_so(call):
    with pytest.raises(metrics.Undefined):
        call()


def test_genes_must_agree():
    with pytest.raises(ValueError, match=named("genes", "(3,)", "(4,)")):
        metrics.mse(np.ones(3), np.ones(4))
