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


def test_relative_error_sees_size_and_no_change_is_one():
    control, truth = CONTROL.mean(0), TREATED.mean(0)
    assert metrics.relative_error(truth, control, control) == 1
    assert metrics.relative_error(truth, truth, control) == 0
    assert metrics.relative_error(truth, control + (truth - control) / 2, control) == pytest.approx(0.5)


def test_discrimination_counts_what_is_nearer_and_ties_as_half():
    others = np.eye(4)[1:] * 3
    assert metrics.discrimination(np.eye(4)[0], np.eye(4)[0] * 3, others) == 0
    assert metrics.discrimination(np.zeros(4), np.eye(4)[0] * 3, others) == 0.5
    assert metrics.discrimination(np.eye(4)[2] * 3, np.eye(4)[0] * 3, others) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert metrics.discrimination(np.eye(4)[2] * 3, np.eye(4)[0] * 3, others, genes=[0, 3]) == pytest.approx(2.5 / 3)


def test_the_ceiling_is_what_a_perfect_prediction_of_a_noisy_truth_gets():
    effect, noise = RNG.normal(size=20000), RNG.normal(size=(2, 20000))
    halves = effect + noise  # each half has variance 1 of noise, their mean 1 / 2
    r = np.corrcoef(*halves)[0, 1]
    reached = np.corrcoef(effect, halves.mean(0))[0, 1]
    assert metrics.ceiling(r) == pytest.approx(reached, abs=0.01)
    assert metrics.ceiling(1) == 1
    with pytest.raises(metrics.Undefined):
        metrics.ceiling(-0.1)


@pytest.mark.parametrize(("n_perturbed", "n_control"), [(100, 100), (100, 1000), (500, 500)])
@pytest.mark.parametrize("n_others", [1, 60])
def test_shared_controls_inflate_delta_by_their_formula(n_perturbed, n_control, n_others):
    n = 40000  # genes
    perturbed, control, others = (
        RNG.normal(size=n) / np.sqrt(size) for size in (n_perturbed, n_control, n_perturbed * n_others)
    )
    measured = metrics.pearson_delta(perturbed, others, control)
    assert measured == pytest.approx(metrics.shared_control_inflation(n_perturbed, n_control, n_others), abs=0.02)
    second = RNG.normal(size=n) / np.sqrt(n_control)
    assert abs(metrics.pearson(perturbed - control, others - second)) < 0.02


def test_weights_follow_t_and_weighted_r2_is_relative_to_its_reference():
    weights = metrics.response_weights(TREATED, CONTROL)
    t = np.abs(ttest_ind(TREATED, CONTROL, equal_var=False).statistic)
    np.testing.assert_allclose(weights, ((t - t.min()) / np.ptp(t)) ** 2 / (((t - t.min()) / np.ptp(t)) ** 2).sum())
    assert metrics.weighted_r2(CHANGE, CHANGE, weights) == 1
    assert metrics.weighted_r2(CHANGE, np.zeros(50), weights) == 0
    assert metrics.weighted_r2(CHANGE, CHANGE / 2, weights, reference=CHANGE / 2) == 0
