"""Label-transfer metrics against scikit-learn, and where scikit-learn's macro-F1 misleads."""

import numpy as np
import pytest
from named import named
from sklearn import metrics as sk

from scduet import metrics

TRUTH = np.array(["B", "B", "B", "B", "T", "T", "NK", "NK", "NK", "T"])
CALLED = np.array(["B", "B", "T", "B", "T", "T", "T", "NK", "NK", "B"])


def test_scores_equal_sklearn_where_the_classes_are_the_same():
    assert metrics.accuracy(TRUTH, CALLED) == pytest.approx(sk.accuracy_score(TRUTH, CALLED))
    assert metrics.balanced_accuracy(TRUTH, CALLED) == pytest.approx(sk.balanced_accuracy_score(TRUTH, CALLED))
    assert metrics.macro_f1(TRUTH, CALLED) == pytest.approx(sk.f1_score(TRUTH, CALLED, average="macro"))
    assert metrics.weighted_f1(TRUTH, CALLED) == pytest.approx(sk.f1_score(TRUTH, CALLED, average="weighted"))


def test_a_class_that_is_only_predicted_lowers_sklearns_macro_f1_and_ours_when_asked():
    called = np.where(np.arange(10) == 0, "platelet", CALLED)
    sklearn = sk.f1_score(TRUTH, called, average="macro")
    true_classes = sk.f1_score(TRUTH, called, average="macro", labels=["B", "T", "NK"])
    assert metrics.macro_f1(TRUTH, called) == pytest.approx(true_classes)
    assert metrics.macro_f1(TRUTH, called, union=True) == pytest.approx(sklearn)
    assert sklearn < true_classes


def test_table_and_confusion_count_cells():
    table, counts = metrics.per_class(TRUTH, CALLED), metrics.confusion(TRUTH, CALLED)
    np.testing.assert_array_equal(counts, sk.confusion_matrix(TRUTH, CALLED))
    assert list(table.index) == ["B", "NK", "T"]
    precision, recall, f1, size = sk.precision_recall_fscore_support(TRUTH, CALLED)
    for column, expected in zip(["precision", "recall", "f1", "n_cells"], [precision, recall, f1, size], strict=True):
        np.testing.assert_allclose(table[column], expected)


def test_a_class_never_predicted_has_precision_zero_and_no_warning():
    table = metrics.per_class(["a", "b"], ["a", "a"])
    assert table.loc["b"].tolist() == [1, 0, 0, 0, 0]


def test_calibration_error_in_closed_form():
    # ten cells said to be 90 % sure of which six are right: 0.3; plus ten honest ones: half of it
    right, sure = np.array([True] * 6 + [False] * 4), np.full(10, 0.9)
    called = np.where(right, "a", "b")
    assert metrics.expected_calibration_error(["a"] * 10, called, sure) == pytest.approx(0.3)
    both = metrics.expected_calibration_error(["a"] * 20, [*called, *["a"] * 10], [*sure, *np.ones(10)])
    assert both == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("truth", "called", "names"),
    [
        (["a", None], ["a", "a"], ["truth", 1]),
        (["a"], ["a", "b"], ["truth", "(1,)", "predicted", "(2,)"]),
        ([], [], ["truth", "predicted", "(0,)"]),
    ],
)
def test_bad_labels_are_refused(truth, called, names):
    with pytest.raises(ValueError, match=named(*names)):
        metrics.accuracy(truth, called)


def test_confidence_must_be_a_probability():
    with pytest.raises(ValueError, match=named("confidence", "[0, 1]")):
        metrics.expected_calibration_error(["a"], ["a"], [1.5])
