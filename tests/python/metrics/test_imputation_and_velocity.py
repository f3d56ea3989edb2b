"""Held-out counts and velocities: scipy's distributions, closed forms, and fields of known direction."""

import numpy as np
import pytest
from named import named
from scipy import stats

from scduet import metrics

RNG = np.random.default_rng(0)
MEAN = RNG.gamma(2, 1, (30, 8))
COUNTS = RNG.poisson(MEAN)


def test_likelihoods_equal_scipy():
    theta = RNG.gamma(2, 1, 8) + 0.1
    nb = stats.nbinom.logpmf(COUNTS, theta, theta / (theta + MEAN))
    assert metrics.heldout_log_likelihood(COUNTS, MEAN) == pytest.approx(
        stats.poisson.logpmf(COUNTS, MEAN).sum(1).mean()
    )
    assert metrics.heldout_log_likelihood(COUNTS, MEAN, theta) == pytest.approx(nb.sum(1).mean())
    zinb = np.log(0.8 * np.exp(nb) + 0.2 * (COUNTS == 0))
    assert metrics.heldout_log_likelihood(COUNTS, MEAN, theta, 0.2) == pytest.approx(zinb.sum(1).mean())


def test_the_true_mean_is_the_likeliest():
    assert metrics.heldout_log_likelihood(COUNTS, MEAN) > metrics.heldout_log_likelihood(COUNTS, MEAN * 1.3)


def test_importance_sampling_recovers_a_known_marginal():
    # z ~ N(0, 1), x | z ~ N(z, 1): p(x) is N(0, 2); q is the prior
    x, z = np.array([0.3, -1.0, 2.0]), np.random.default_rng(1).normal(size=(200_000, 1))
    estimate = metrics.importance_log_likelihood(stats.norm.logpdf(x, z, 1))
    assert estimate == pytest.approx(stats.norm.logpdf(x, 0, np.sqrt(2)).mean(), abs=0.01)


def test_hidden_counts_are_zero_or_thinned_and_the_rest_is_untouched():
    shown, hidden = metrics.hide_counts(COUNTS, 0.2)
    assert hidden.sum() == round(0.2 * (COUNTS > 0).sum())
    assert (COUNTS[hidden] > 0).all()
    assert (shown[hidden] == 0).all()
    np.testing.assert_array_equal(shown[~hidden], COUNTS[~hidden])
    big = np.full((50, 50), 100)
    thinned, hidden = metrics.hide_counts(big, 0.5, how="thin")
    assert thinned[hidden].mean() == pytest.approx(10, abs=0.5)


def test_imputation_error_looks_at_hidden_entries_only():
    hidden = np.zeros(COUNTS.shape, bool)
    hidden[0, :4] = True
    guess = np.where(hidden, COUNTS + np.array([1, 2, 3, 10, 0, 0, 0, 0]), 1e6)
    assert metrics.imputation_error(COUNTS, guess, hidden) == 2.5
    assert metrics.imputation_error(COUNTS, guess, hidden, how="mean") == 4
    assert metrics.imputation_error(COUNTS, guess, hidden, how="rmse") == pytest.approx(np.sqrt(114 / 4))


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: metrics.hide_counts([[0.5]]), ["hide_counts", "counts"]),
        (lambda: metrics.imputation_error(COUNTS, MEAN, np.zeros(COUNTS.shape)), [COUNTS.shape, "hidden"]),
        (lambda: metrics.heldout_log_likelihood(COUNTS, -MEAN), ["mean"]),
        (lambda: metrics.heldout_log_likelihood(COUNTS, MEAN, dropout=1.0), ["dropout", "[0, 1)"]),
        (lambda: metrics.heldout_log_likelihood(COUNTS, MEAN, inverse_dispersion=0), ["inverse_dispersion"]),
    ],
)
def test_bad_counts_are_refused(call, names):
    with pytest.raises(ValueError, match=named(*names)):
        call()


def test_velocities_of_a_constant_field_agree_and_of_noise_do_not():
    x = RNG.normal(size=(200, 5))
    assert metrics.velocity_confidence(np.tile([1.0, 2, 3, 4, 5], (200, 1)), x) == pytest.approx(1)
    assert abs(metrics.velocity_confidence(RNG.normal(size=(200, 5)), x)) < 0.05


def test_direction_across_a_boundary_has_the_sign_of_the_flow():
    x = np.column_stack([np.linspace(0, 1, 100), np.zeros(100)])
    labels, forward = np.repeat(["early", "late"], 50), np.tile([1.0, 0], (100, 1))
    assert metrics.cross_boundary_direction(forward, x, labels, [("early", "late")]) == pytest.approx(1)
    assert metrics.cross_boundary_direction(-forward, x, labels, [("early", "late")]) == pytest.approx(-1)
    assert metrics.cross_boundary_direction(forward[:, ::-1], x, labels, [("early", "late")]) == pytest.approx(0)
    with pytest.raises(ValueError, match=named("transitions", "'never'")):
        metrics.cross_boundary_direction(forward, x, labels, [("early", "never")])


def test_transitions_without_a_common_boundary_have_no_value():
    x = np.vstack([RNG.normal(size=(50, 2)), RNG.normal(size=(50, 2)) + 99])
    with pytest.raises(metrics.Undefined, match=named("transitions")):
        metrics.cross_boundary_direction(x, x, np.repeat(["a", "b"], 50), [("a", "b")], n_neighbors=10)
