"""Training curves show the history's own numbers."""

import numpy as np
import pandas as pd
import pytest
from named import named

from scduet.errors import DataError
from scduet.plots import training_curves

EPOCHS = pd.Index(range(1, 11), name="epoch")
HISTORY = pd.DataFrame(
    {
        "loss_train": np.linspace(300, 200, 10),
        "kl_train": np.linspace(5, 9, 10),
        "loss_validation": (np.arange(1, 11) - 7.0) ** 2 + 210,
        "kl_validation": np.linspace(5, 8, 10),
        "kl_weight": np.linspace(0, 1, 10),
        "lr": 0.001,
        "seconds": 1.0,
    },
    index=EPOCHS,
)


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_a_panel_for_each_term_and_for_what_changed():
    figure = training_curves(HISTORY)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "kl", "KL weight"]
    assert figure.axes[0].get_ylabel() == "nats per cell"
    assert all(axes.get_xlabel() == "epoch" for axes in figure.axes)
    others = HISTORY.rename(columns=lambda name: name.replace("kl_", "mvc_"))
    assert training_curves(others).axes[0].get_ylabel() == "loss", "only the autoencoders' terms are in nats"


@pytest.mark.parametrize(("panel", "term"), [(0, "loss"), (1, "kl")])
def test_the_lines_are_the_history(panel, term):
    drawn = lines(training_curves(HISTORY).axes[panel])
    for split in ("train", "validation"):
        np.testing.assert_array_equal(drawn[split].get_xdata(), EPOCHS)
        np.testing.assert_array_equal(drawn[split].get_ydata(), HISTORY[f"{term}_{split}"])
    assert set(drawn["lowest validation loss"].get_xdata()) == {7}


def test_without_validation_only_training_is_drawn():
    figure = training_curves(HISTORY[["loss_train"]])
    assert list(lines(figure.axes[0])) == ["train"]


def test_no_epoch_is_an_error():
    with pytest.raises(DataError, match=named("history", "epoch")):
        training_curves(HISTORY.iloc[:0])
