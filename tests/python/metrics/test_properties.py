"""What must not change a metric: the order of cells, the names of labels, a rotation, a shift or a scale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from scduet import metrics

METRICS = {  # name -> (call, invariant to a shift of the origin)
    "silhouette_label": (lambda x, lab, bat: metrics.silhouette_label(x, lab), True),
    "silhouette_batch": (metrics.silhouette_batch, True),
    "bras": (metrics.bras, False),  # cosine: the origin matters
    "bras_euclidean": (lambda x, lab, bat: metrics.bras(x, lab, bat, "euclidean"), True),
    "isolated_labels": (lambda x, lab, bat: metrics.isolated_labels(x, lab, _alone(lab, bat)), True),
    "ilisi": (lambda x, lab, bat: metrics.ilisi(x, bat), True),
    "clisi": (lambda x, lab, bat: metrics.clisi(x, lab), True),
    "cilisi": (metrics.cilisi, True),
    "kbet": (metrics.kbet, True),
    "kbet_global": (lambda x, lab, bat: metrics.kbet_global(x, bat), True),
    "graph_connectivity": (lambda x, lab, bat: metrics.graph_connectivity(x, lab), True),
    "pcr_comparison": (lambda x, lab, bat: metrics.pcr_comparison(x + np.eye(6)[bat], x, bat), True),
    "batch_entropy": (lambda x, lab, bat: metrics.batch_entropy(x, bat), True),
}


def _alone(labels, batch):
    return np.where(labels == labels[0], batch[0], batch)


def _cells(seed):
    rng = np.random.default_rng(seed)
    labels, batch = rng.permutation(np.arange(90) % 3), rng.permutation(np.arange(90) % 2)
    return rng.normal(size=(90, 6)) + 1.5 * np.eye(6)[labels], labels, batch, rng


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=6, deadline=None, database=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 0.5, 7.0, 1e4]))
def test_symmetries(name, seed, scale):
    call, shift_free = METRICS[name]
    x, labels, batch, rng = _cells(seed)
    value = call(x, labels, batch)
    order = rng.permutation(len(x))
    if name != "isolated_labels":  # which label is alone is taken from the first cell here
        assert call(x[order], labels[order], batch[order]) == pytest.approx(value, abs=1e-7)
    names = np.array(["T", "B cell", "Ω"])
    assert call(x, names[(labels + 1) % 3], batch) == pytest.approx(value, abs=1e-7)
    moved = scale * (x @ ortho_group.rvs(6, random_state=seed)) + (scale * 3 if shift_free else 0)
    if name != "pcr_comparison":  # there the data before move along in another way
        assert call(moved, labels, batch) == pytest.approx(value, abs=1e-6)


CLUSTERED = {  # they draw at random, so what must not change is their value where clusters are clear
    "nmi_kmeans": lambda x, lab, bat: metrics.nmi_kmeans(x, lab),
    "ari_kmeans": lambda x, lab, bat: metrics.ari_kmeans(x, lab),
    "nmi_leiden": lambda x, lab, bat: metrics.nmi_leiden(x, lab),
    "ari_leiden": lambda x, lab, bat: metrics.ari_leiden(x, lab),
    "isolated_f1": lambda x, lab, bat: metrics.isolated_f1(x, lab, _alone(lab, bat)),
}


@pytest.mark.parametrize("name", CLUSTERED)
@settings(max_examples=3, deadline=None, database=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 7.0]))
def test_clear_clusters_are_found_however_cells_are_ordered_named_turned_and_scaled(name, seed, scale):
    x, labels, batch, rng = _cells(seed)
    x, order, names = x + 30 * np.eye(6)[labels], rng.permutation(len(x)), np.array(["T", "B cell", "Ω"])
    moved = scale * (x @ ortho_group.rvs(6, random_state=seed)) + 3 * scale
    assert CLUSTERED[name](moved[order], names[labels[order]], batch[order]) == pytest.approx(1)


@settings(max_examples=4, deadline=None, database=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 7.0]))
def test_diffused_kbet_keeps_its_value_up_to_ties(seed, scale):
    x, labels, batch, rng = _cells(seed)
    order, names = rng.permutation(len(x)), np.array(["T", "B cell", "Ω"])
    moved = scale * (x @ ortho_group.rvs(6, random_state=seed)) + 3 * scale
    moved_value = metrics.kbet_diffusion(moved[order], names[labels[order]], batch[order])
    assert moved_value == pytest.approx(metrics.kbet_diffusion(x, labels, batch), abs=2 / len(x))


@settings(max_examples=20, deadline=None, database=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_transfer_metrics_are_bounded_perfect_on_the_truth_and_blind_to_names(truth, random):
    called = [random.choice("abcd") for _ in truth]
    rename = dict(zip("abcd", ["w", "x y", "3", "é"], strict=True))
    for metric in (metrics.accuracy, metrics.balanced_accuracy, metrics.macro_f1, metrics.weighted_f1):
        assert 0 <= metric(truth, called) <= 1
        assert metric(truth, truth) == pytest.approx(1)
        renamed = metric([rename[t] for t in truth], [rename[c] for c in called])
        assert renamed == pytest.approx(metric(truth, called))


@settings(max_examples=15, deadline=None, database=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-2, 3.0, 1e3]))
def test_distances_between_distributions_scale_and_rotate_as_defined(seed, scale):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(20, 4)), rng.normal(size=(25, 4)) + 0.5
    turn = ortho_group.rvs(4, random_state=seed)
    energy, mmd = metrics.energy_distance(a, b), metrics.mmd(a, b)
    assert metrics.energy_distance(scale * a @ turn + 1, scale * b @ turn + 1) == pytest.approx(
        scale * energy, rel=1e-6
    )
    assert metrics.mmd(scale * a @ turn, scale * b @ turn) == pytest.approx(mmd, abs=1e-9)
    assert metrics.energy_distance(b, a) == pytest.approx(energy)
