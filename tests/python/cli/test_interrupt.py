"""Ctrl-C ends a command with exit code 130, and says what is kept."""

import os
import signal
import subprocess
import sys

import anndata
import numpy as np
import pytest

import scduet as sd
from scduet.api import fit
from scduet.cli import main
from scduet.errors import TrainingInterrupted
from scduet.train.loop import Trainer

LONG = ["--max-epochs", "5000", "--n-hidden", "8", "--batch-key", "batch"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "cells.h5ad"
    sd.datasets.simulate(150, 40, n_batches=2, seed=1).write_h5ad(path)
    return path


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_a_key_pressed_while_training_keeps_the_model_and_the_state(cells, tmp_path):
    flags = ["-o", "out.h5ad", "--save-model", "model", "--checkpoint", "state"]
    command = [sys.executable, "-m", "scduet", "integrate", cells, *flags, *LONG]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 500/" in line:
            break
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(timeout=120) == 130
    last = said.splitlines()[-1]
    model = sd.load(tmp_path / "model")
    assert f"after {len(model.history)} epochs" in last
    assert 500 <= len(model.history) < 5000
    assert "out.h5ad and model" in last
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(found.obsm["X_scVI"], model.embed(anndata.read_h5ad(cells)), atol=1e-5)


def heed_interrupts():
    """A shell has its background jobs ignore SIGINT, and so would the command if the tests are such a job."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupting(epoch):
    """Ctrl-C after so many epochs."""

    def listener(quiet):
        def tell(event):
            if event.done >= epoch and event.kind == ("progress" if epoch else "log"):
                raise KeyboardInterrupt

        return tell

    return listener


@pytest.fixture
def pressed(monkeypatch):
    def at(epoch):
        for module in ("commands", "analyses", "transformers"):
            monkeypatch.setattr(f"scduet.cli.{module}.listener", interrupting(epoch))

    return at


def run(*arguments):
    return main([str(a) for a in arguments])


def test_the_state_to_continue_from_is_named(cells, tmp_path, pressed, monkeypatch, capsys):
    monkeypatch.setattr("scduet.train.resume.SECONDS_BETWEEN", 0.0)
    pressed(3)
    asked = ["fit", cells, "-o", tmp_path / "m", "--checkpoint", tmp_path / "state", *LONG]
    assert run(*asked) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path / "state") in said
    assert "--overwrite" in said
    assert (tmp_path / "state" / "training.safetensors").exists()
    pressed(5)
    assert run(*asked, "--overwrite") == 130
    assert len(sd.load(tmp_path / "m").history) == 5


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("annotate", ["--labels-key", "cell_type", "--reference"]),
        ("fit", ["--model", "scvi"]),
    ],
)
def test_what_is_not_worth_keeping_is_not_written(cells, tmp_path, pressed, capsys, command, flags):
    pressed(2 if command == "annotate" else 0)  # a type told by half a model; untrained weights
    flags = [*flags, cells] if command == "annotate" else [*flags, *LONG]
    assert run(command, cells, "-o", tmp_path / "out.h5ad", *flags) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_python_warns_of_a_model_that_was_cut_short(counts):
    def press(event):
        if event.kind == "progress" and event.done == 2:
            raise KeyboardInterrupt

    with pytest.warns(TrainingInterrupted, match="2 epochs"):
        assert len(fit(counts, max_epochs=9, callback=press).history) == 2


def test_python_makes_no_model_of_no_epoch(counts, monkeypatch):
    def press(self, epoch):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "epoch", press)
    with pytest.raises(KeyboardInterrupt):
        fit(counts, max_epochs=9)
