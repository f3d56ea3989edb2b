"""The table of one embedding: one search, reasons for what is missing, and standard errors that tell the truth."""

import math
from importlib import import_module

import numpy as np
import pytest
from named import assert_named, named

from scduet import metrics
from scduet.metrics.integration.suite import ESTIMATORS, SamplingPlan, chosen

LAZY = ("isolated_labels", "isolated_f1", "hvg_overlap", "trajectory", "cell_cycle")


def test_every_row_names_a_documented_function_and_an_estimator():
    assert set(ESTIMATORS) == set(metrics.METRICS)
    for name, row in metrics.METRICS.items():
        module, _, function = row.function.rpartition(".")
        found = getattr(import_module(f"scduet.metrics.{module}"), function)
        assert found.__doc__, name
        assert getattr(metrics, function) is found


def test_every_public_name_is_there_and_documented():
    for name in metrics.__all__:
        assert getattr(metrics, name).__doc__ or name == "METRICS", name


def test_table_equals_the_single_functions(cells):
    batch = np.where(cells.labels == 2, 0, cells.batch)
    table = metrics.evaluate(cells.x, cells.labels, batch, cells.before, metrics="all")
    calls = {
        "bras_euclidean": lambda: metrics.bras(cells.x, cells.labels, batch, "euclidean"),
        "pcr_comparison": lambda: metrics.pcr_comparison(cells.before, cells.x, batch),
    }
    for name, row in metrics.METRICS.items():
        if row.group == "bio" and name not in ("isolated_labels", "isolated_f1", *LAZY):
            calls[name] = lambda f=row.function: getattr(metrics, f.rpartition(".")[2])(cells.x, cells.labels)
    for name in ("bras", "silhouette_batch", "cilisi", "kbet", "kbet_diffusion", "isolated_labels", "isolated_f1"):
        calls[name] = lambda n=name: getattr(metrics, n)(cells.x, cells.labels, batch)
    for name in ("ilisi", "batch_entropy", "svm_batch", "logistic_batch"):
        calls[name] = lambda n=name: getattr(metrics, n)(cells.x, batch)
    for name, call in calls.items():
        assert table[name].value == pytest.approx(call(), abs=1e-9), name
        assert metrics.METRICS[name].low <= table[name].value <= metrics.METRICS[name].high + 1e-9


def test_what_is_missing_has_a_reason(cells):
    table = metrics.evaluate(cells.x, metrics="all")
    assert all(math.isnan(e.value) and e.reason for e in table.values())
    assert_named(table["bras"].reason, "labels")
    assert_named(table["ilisi"].reason, "batches")
    one = metrics.evaluate(cells.x, cells.labels, np.zeros(600), cells.before, metrics="all")
    for name in (
        "bras",
        "silhouette_batch",
        "ilisi",
        "cilisi",
        "kbet",
        "kbet_diffusion",
        "pcr_comparison",
        "batch_entropy",
    ):
        assert_named(one[name].reason, "batches", 2, 1)
    assert not one["silhouette_label"].reason


def test_sampled_values_are_within_their_standard_errors(make):
    cells = make(n=4000)
    exact = metrics.evaluate(cells.x, cells.labels, cells.batch, cells.before)
    plan = SamplingPlan(exact_up_to=1000, n_queries=800, n_clustered=2000)
    sampled = metrics.evaluate(cells.x, cells.labels, cells.batch, cells.before, plan=plan)
    for name in ("silhouette_label", "bras", "kbet", "ilisi", "batch_entropy"):
        error = sampled[name].standard_error
        assert 0 < error < 0.05, name
        assert exact[name].standard_error == 0
        assert abs(sampled[name].value - exact[name].value) < 4 * error, name
    for name in ("nmi_kmeans", "ari_kmeans", "graph_connectivity"):  # of 2,000 cells: its own graph and clusters
        assert sampled[name].n_cells == 2000
        assert abs(sampled[name].value - exact[name].value) < 4 * sampled[name].standard_error + 0.02, name
    assert sampled["pcr_comparison"] == exact["pcr_comparison"]


def test_standard_errors_cover_the_truth_as_often_as_they_say(make):
    cells = make(n=1500)
    truth = metrics.evaluate(cells.x, cells.labels, cells.batch, metrics=["silhouette_label", "bras", "ilisi"])
    z = {name: [] for name in truth}
    for seed in range(20):
        plan = SamplingPlan(exact_up_to=100, n_queries=200, seed=seed)
        for name, e in metrics.evaluate(cells.x, cells.labels, cells.batch, metrics=list(truth), plan=plan).items():
            z[name].append((e.value - truth[name].value) / e.standard_error)
    for name, values in z.items():
        assert 0.6 < np.sqrt(np.mean(np.square(values))) < 1.5, name
        assert abs(np.mean(values)) < 0.8, name


def test_a_graph_alone_is_enough_for_what_graphs_tell(cells):
    near = metrics.nearest_neighbors(cells.x, 90)
    full = metrics.evaluate(cells.x, cells.labels, cells.batch, metrics="all")
    graph = metrics.evaluate(None, cells.labels, cells.batch, neighbors=near, metrics="all")
    for name in ("ilisi", "clisi", "nmi_leiden", "ari_leiden", "graph_connectivity", "batch_entropy", "kbet_diffusion"):
        assert graph[name].value == full[name].value, name
    assert_named(graph["silhouette_label"].reason, "embedding")


@pytest.mark.parametrize(
    ("wrong", "names"), [("silhouette", ["['silhouette']"]), (["ilisi", "nope"], ["['nope']"]), ([], ["[]"])]
)
def test_unknown_metrics_are_named(wrong, names):
    with pytest.raises(ValueError, match=named(*names, "'silhouette_label'")):
        chosen(wrong)


def test_suites_hold_what_their_papers_do():
    assert chosen("default") == [name for name, m in metrics.METRICS.items() if "default" in m.suites]
    assert {"isolated_f1", "nmi_leiden", "kbet_diffusion", "cell_cycle", "trajectory"} < set(chosen("scib"))
    assert {"svm_label", "svm_batch", "batch_entropy", "ari_leiden"} < set(chosen("census"))
