"""Bad input: a number by a stated convention, NaN with its reason, or a clear error; never a silent wrong value."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from named import named

from scduet import metrics

BATCHED = ("bras", "silhouette_batch", "kbet", "kbet_diffusion", "cilisi")


@pytest.mark.parametrize("name", BATCHED)
def test_one_batch_has_no_batch_metric(cells, name):
    with pytest.raises(metrics.Undefined, match=named("batches", 2, 1)):
        getattr(metrics, name)(cells.x, cells.labels, np.zeros(600))


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("silhouette_label", "groups"),
        ("clisi", "labels"),
        ("nmi_kmeans", "labels"),
        ("ari_leiden", "labels"),
        ("svm_label", "classes"),
    ],
)
def test_one_label_has_no_label_metric(cells, name, groups):
    with pytest.raises(metrics.Undefined, match=named(groups, 2, 1)):
        getattr(metrics, name)(cells.x, ["T"] * 600)


@pytest.mark.parametrize(("group", "given"), [("batch", "batch"), ("bio", "labels")])
def test_the_table_has_a_reason_for_each_metric_that_one_batch_or_one_label_leaves_without_value(cells, group, given):
    arrays = {"labels": cells.labels, "batch": cells.batch} | {given: np.zeros(600)}
    table = metrics.evaluate(cells.x, before=cells.before, metrics="all", **arrays)
    without_groups = {"graph_connectivity", "cell_cycle", "hvg_overlap", "trajectory"}
    for name in {n for n, m in metrics.METRICS.items() if m.group == group} - without_groups:
        assert math.isnan(table[name].value), name
        names = ("batches", "batch", "labels", "groups", "classes")
        assert any(re.search(named(one), table[name].reason) for one in names), (name, table[name].reason)


def test_a_label_with_one_cell_counts_as_zero_in_the_silhouette(cells):
    x, labels = np.vstack([cells.x, cells.x[:1] + 50]), np.r_[cells.labels, 9]
    without = 2 * metrics.silhouette_label(cells.x, cells.labels) - 1
    with_it = 2 * metrics.silhouette_label(x, labels) - 1
    assert with_it == pytest.approx(without * 600 / 601, abs=0.01)
    table = metrics.evaluate(
        x, labels, np.r_[cells.batch, 0], np.vstack([cells.before, cells.before[:1]]), metrics="all"
    )
    assert all(math.isfinite(e.value) or e.reason for e in table.values())


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_labels_are_an_error_that_counts_them(cells, missing):
    labels = np.array([f"type {code}" for code in cells.labels], dtype=object)
    labels[[3, 5]] = missing
    for values in (labels, pd.Categorical(labels), pd.Series(labels)):
        with pytest.raises(ValueError, match=named("labels", 2, 3)):
            metrics.silhouette_label(cells.x, values)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_an_error_that_names_a_row(cells, bad):
    cells.x[7, 1] = bad
    with pytest.raises(ValueError, match=named("embedding", "NaN", 1, 7)):
        metrics.evaluate(cells.x, cells.labels, cells.batch)


def test_duplicate_rows_change_nothing_but_ties(cells):
    x, labels, batch = (np.repeat(a, 2, axis=0) for a in (cells.x, cells.labels, cells.batch))
    table = metrics.evaluate(x, labels, batch, np.repeat(cells.before, 2, axis=0))
    once = metrics.evaluate(cells.x, cells.labels, cells.batch, cells.before)
    for name in ("silhouette_label", "bras", "pcr_comparison"):
        assert table[name].value == pytest.approx(once[name].value, abs=0.01), name
    assert all(math.isfinite(e.value) or e.reason for e in table.values())


def test_a_constant_embedding_has_reasons_for_all(cells):
    table = metrics.evaluate(np.ones((600, 5)), cells.labels, cells.batch, cells.before, metrics="all")
    assert all(math.isnan(e.value) and re.search(named("embedding"), e.reason) for e in table.values())
    for name in ("ilisi", "batch_entropy", "kbet_global"):
        with pytest.raises(metrics.Undefined, match=named("cells")):
            getattr(metrics, name)(np.ones((600, 5)), cells.batch)
    assert metrics.silhouette_label(np.ones((600, 5)), cells.labels) == 0.5  # stated: s = 0


def test_more_neighbors_than_cells_and_tiny_data(make):
    for n in (2, 3, 5, 12):
        cells = make(n=n, n_labels=2, n_batches=2)
        labels, batch = np.arange(n) % 2, np.arange(n) // 2 % 2
        table = metrics.evaluate(cells.x, labels, batch, cells.before, metrics="all")
        for name, e in table.items():
            assert math.isfinite(e.value) or e.reason, (n, name)


@pytest.mark.parametrize(
    "as_type",
    [
        list,
        lambda a: [f"type {v}" for v in a],
        pd.Categorical,
        lambda a: pd.Series(a).astype("string"),
        lambda a: a > 1,
    ],
)
def test_labels_of_any_type_give_the_same_value(cells, as_type):
    labels = as_type(cells.labels)
    plain = np.unique(np.asarray(labels).astype(str), return_inverse=True)[1]
    assert metrics.silhouette_label(cells.x, labels) == pytest.approx(metrics.silhouette_label(cells.x, plain))
    assert metrics.clisi(cells.x, labels) == pytest.approx(metrics.clisi(cells.x, plain))


def test_a_category_without_cells_is_no_label(cells):
    labels = pd.Categorical.from_codes(cells.labels, ["a", "b", "c", "d", "nobody"])
    assert metrics.clisi(cells.x, labels) == metrics.clisi(cells.x, cells.labels)


def test_lengths_must_agree(cells):
    with pytest.raises(ValueError, match=named("labels", 599, 600)):
        metrics.silhouette_label(cells.x, cells.labels[1:])
    with pytest.raises(ValueError, match=named(600, "before", "neighbors")):
        metrics.evaluate(cells.x, cells.labels, cells.batch, cells.before[1:])
    with pytest.raises(ValueError, match=named("embedding", "(600,)")):
        metrics.silhouette_label(cells.x[:, 0], cells.labels)


def test_graphs_that_are_no_distances_are_refused():
    with pytest.raises(ValueError, match=named("distances", "(3, 4)")):
        metrics.from_graph(np.ones((3, 4)))
    with pytest.raises(ValueError, match=named("distances", -1.0)):
        metrics.from_graph(-np.ones((3, 3)))


def test_one_neighbor_is_too_few(cells):
    with pytest.raises(ValueError, match=named("n_neighbors=1", 2)):
        metrics.ilisi(cells.x, cells.batch, n_neighbors=1)
