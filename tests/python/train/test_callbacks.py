"""What happens when something that training calls fails: a user's callback, or a progress display of ours."""

import errno
import io
import sys

import numpy as np
import pytest
from conftest import make_counts
from transformer_toys import make_cells, transformer

import scduet as sd
from scduet.errors import ScduetWarning
from scduet.events import Event
from scduet.interop.models import listener
from scduet.interop.reticulate import ask
from scduet.tasks.foundation.finetune import finetune
from scduet.tasks.foundation.pretrain import pretrain

OPTIONS = dict(max_epochs=4, batch_key="batch", n_hidden=8, n_latent=3, early_stopping=False)


class Pruned(Exception):
    """As tuners raise it in a callback to end a trial."""


def prune(event):
    if event.done == 2:
        raise Pruned


def mapped(**options):
    query = make_counts(90, seed=5)
    query.obs["batch"] = "new"
    return sd.map_query(query, sd.fit(make_counts(), **OPTIONS), max_epochs=4, **options)


TRAINS = {
    "fit": lambda **options: sd.fit(make_counts(), **OPTIONS, **options),
    "map_query": mapped,
    "finetune": lambda **options: finetune(
        make_cells(100, 1), transformer("scgpt"), "type", tuning="frozen", max_epochs=4, accelerator="cpu", **options
    ),
    "pretrain": lambda **options: pretrain(
        make_cells(100, 1),
        "scgpt",
        width=16,
        n_layers=1,
        n_heads=2,
        feedforward=16,
        max_epochs=4,
        accelerator="cpu",
        **options,
    ),
}


@pytest.mark.parametrize("how", TRAINS)
def test_an_exception_in_a_callback_is_raised_as_it_is_and_carries_the_model(how):
    whole = TRAINS[how]()
    with pytest.raises(Pruned) as caught:
        TRAINS[how](callback=prune)
    model = caught.value.model
    assert type(model) is type(whole)
    assert len(model.history) == 2
    for name, weight in whole.module.state_dict().items():
        assert model.module.state_dict()[name].shape == weight.shape, name
    assert not model.module.training


def test_the_model_of_a_failed_callback_can_be_used(tmp_path):
    with pytest.raises(Pruned) as caught:
        TRAINS["fit"](callback=prune)
    caught.value.model.save(tmp_path / "model")
    assert np.isfinite(sd.load(tmp_path / "model").embed(make_counts())).all()


def test_a_callback_that_fails_before_the_first_epoch_trains_nothing():
    def fails(event):
        seen.append(event.kind)
        raise Pruned

    seen = []
    with pytest.raises(Pruned) as caught:
        TRAINS["fit"](callback=fails)
    assert seen == ["log"]
    assert not hasattr(caught.value, "model")


def test_a_keyboard_interrupt_in_a_callback_counts_as_ctrl_c():
    def interrupt(event):
        if event.done == 3:
            raise KeyboardInterrupt

    with pytest.warns(ScduetWarning):
        model = TRAINS["fit"](callback=interrupt)
    assert (model.outcome.stop_reason, len(model.history)) == ("interrupted", 3)


class BrokenTerminal(io.StringIO):
    """A terminal that went away during the first epoch."""

    def isatty(self):
        return True

    def write(self, text):
        raise OSError(errno.EIO, "the terminal is gone")


def test_a_progress_bar_that_cannot_be_drawn_is_told_once_and_training_goes_on(monkeypatch):
    for name in ("TERM", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stderr", BrokenTerminal())
    with pytest.warns(ScduetWarning, match="OSError") as told:
        model = TRAINS["fit"]()
    monkeypatch.undo()
    assert len(told) == 1
    assert (model.outcome.stop_reason, len(model.history)) == ("finished", 4)


def test_an_error_in_what_shows_progress_in_r_becomes_one_warning_of_the_call(tmp_path):
    called = []

    def broken(kind, message, done, total, unit, seconds_left):
        called.append(kind)
        raise RuntimeError("Could not evaluate")

    answer = ask("train", {"adata": make_counts(), "model": "scvi", "options": OPTIONS, "folder": str(tmp_path / "m"),
                           "callback": broken})  # fmt: skip
    assert answer.error is None
    assert answer.value.facts["epochs"] == 4
    assert len(called) == 1
    (told,) = answer.warnings
    assert "Could not evaluate" in told


def test_ctrl_c_in_what_shows_progress_in_r_passes():
    def interrupted(*_):
        raise RuntimeError("Evaluation error: Unknown exception")  # what reticulate before 1.29 makes of it

    with pytest.raises(KeyboardInterrupt):
        listener(interrupted)(Event("progress", "loss", 4, 4))
