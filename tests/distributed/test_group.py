"""Several processes train as one: each cell once an epoch, equal weights, the same result; none waits for the dead."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from multimodal_toys import mosaic
from named import named
from toys import Fragile, Profile, silent, trainer

import scduet as sd
from scduet.data.schema import Fields, Schema
from scduet.errors import OptionError, TrainingError
from scduet.train import group

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SECONDS = 300  # after which a test that hangs is a failure


@pytest.fixture
def cells(counts):
    return Schema.learn(counts, Fields()).encode(counts)


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path]), "OMP_NUM_THREADS": "1"}


def torchrun(script, folder, *arguments):
    """What each of two processes saw and learned."""
    process = subprocess.Popen([*TORCHRUN, str(HERE / script), str(folder), *arguments], env=environment())
    try:
        assert process.wait(SECONDS) == 0
    finally:
        process.terminate()  # ends its workers too
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(2)]


def test_torchrun_each_cell_once_and_equal_weights_with_unequal_shares(tmp_path):
    """201 cells, of which 181 to train on, for 2 processes: shares of 91 and 90."""
    options = {"max_epochs": 3, "batch_size": 32, "validate_every": 1}
    first, second = torchrun("worker.py", tmp_path, "201", json.dumps(options))
    steps = len(first["seen"]) // 3
    assert len(first["seen"]) == len(second["seen"]) == 3 * steps
    for epoch in range(3):
        both = first["seen"][epoch * steps :][:steps] + second["seen"][epoch * steps :][:steps]
        assert sorted(row for batch in both for row in batch) == sorted(first["rows"])
    assert first["weights"] == second["weights"]
    assert first["history"] == second["history"]
    for threads in ((tmp_path / f"{number}.threads").read_text() for number in range(2)):
        assert "gloo" not in threads, "the group outlives the interpreter: torch aborts such a process now and then"


def test_torchrun_multimodal_models_from_a_file_of_which_cells_lack_modalities(tmp_path):
    """Weights are equal though one process may have no cell with RNA in a step; adversaries included."""
    mosaic({"rna": slice(120, 240), "atac": slice(0, 240), "prot": slice(60, 180)}).write_h5mu(tmp_path / "cells.h5mu")
    first, second = torchrun("fits.py", tmp_path)
    assert list(first) == list(second) == ["multivi", "totalvi", "peakvi", "poissonvi"]
    for name, one in first.items():
        assert one == second[name]
        assert one["losses"][-1] < one["losses"][0], name
    assert any(weight.startswith("adversary.") for weight in first["multivi"]["weights"])


def test_devices_give_the_result_of_one_process(cells):
    """The gradient of a minibatch is the same however it is shared, up to rounding: so are the weights."""
    alone, shared = (trainer(cells, Profile(), devices=n, max_epochs=4, batch_size=50, train_size=1.0) for n in (1, 2))
    alone.run(silent)
    events = []
    shared.run(events.append)
    assert [event.done for event in events] == [1, 2, 3, 4]
    assert torch.allclose(alone.module.mean, shared.module.mean, atol=0.02)
    assert not torch.equal(alone.module.mean, torch.zeros(60))
    for row, other in zip(alone.outcome.history, shared.outcome.history, strict=True):
        assert row["distance_train"] == pytest.approx(other["distance_train"], rel=0.01)
    assert not torch.distributed.is_initialized()


def test_one_step_over_all_cells_is_the_same_step(cells):
    """All cells in one minibatch: the mean gradient over two processes is that of one, to the last digits."""
    alone, shared = (trainer(cells, Profile(), devices=n, max_epochs=3, batch_size=200, train_size=1.0) for n in (1, 2))
    alone.run(silent)
    shared.run(silent)
    assert torch.allclose(alone.module.mean, shared.module.mean, rtol=1e-5)


def test_early_stopping_and_callbacks_end_all_processes(cells):
    options = {"lr": 0.5, "early_stopping": True, "early_stopping_patience": 4, "max_epochs": 200}
    outcome = trainer(cells, Profile(), devices=2, **options).run(silent)
    assert outcome.stop_reason == "early"
    assert (
        trainer(cells, Profile(), devices=2, max_epochs=50).run(lambda event: event.done == 2).stop_reason == "callback"
    )


@pytest.mark.parametrize(("how", "reason"), [("dies", "code 7"), ("fails", "ValueError: Fragile")])
def test_a_process_that_ends_stops_the_others_and_is_named(cells, how, reason, monkeypatch):
    """At once: were it waited for, the error would be that it is silent."""
    monkeypatch.setattr(group, "TIMEOUT", timedelta(seconds=60))
    with pytest.raises(TrainingError, match=named("process 1", reason, "checkpoint=")):
        trainer(cells, Fragile(how), devices=2, max_epochs=20).run(silent)
    assert not torch.distributed.is_initialized()


def test_a_silent_process_is_not_waited_for_without_end(cells, monkeypatch):
    monkeypatch.setattr(group, "TIMEOUT", timedelta(seconds=25))
    with pytest.raises(TrainingError, match=named("0:00:25")):
        trainer(cells, Fragile("hangs"), devices=2, max_epochs=20).run(silent)


def test_ctrl_c_ends_the_helpers_and_keeps_the_weights(cells):
    def interrupt(event):
        if event.done == 2:
            raise KeyboardInterrupt

    run = trainer(cells, Profile(), devices=2, max_epochs=50)
    outcome = run.run(interrupt)
    assert outcome.stop_reason == "interrupted"
    assert np.isfinite(outcome.history[-1]["loss_validation"])


def test_too_many_processes_are_refused(cells):
    with pytest.raises(OptionError, match=named(4, 6, 180, 3, "batch_size")):
        trainer(cells, Profile(), devices=4, batch_size=6)


COMMANDS = {
    "fit": ["--n-hidden", "8", "--on-disk"],
    "pretrain": ["--width", "16", "--n-layers", "1", "--feedforward", "16", "--batch-size", "20"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_under_torchrun_reports_and_saves_once(command, counts, tmp_path):
    counts.write_h5ad(tmp_path / "cells.h5ad")
    options = ["--max-epochs", "2", "--checkpoint", str(tmp_path / "state"), *COMMANDS[command]]
    asked = ["-m", "scduet", command, str(tmp_path / "cells.h5ad"), "-o", str(tmp_path / "model"), *options]
    process = subprocess.Popen([*TORCHRUN, *asked], env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        told = process.communicate(timeout=SECONDS)[1]
    finally:
        process.terminate()
    assert process.returncode == 0
    assert told.count("epoch 1/2") == told.count("epoch 2/2") == 1
    assert len(sd.load(tmp_path / "model").history) == 2
    assert (tmp_path / "state" / "training.safetensors").exists()
