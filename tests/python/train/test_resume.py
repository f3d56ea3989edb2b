"""A run that was killed resumes, and ends bit-exactly as one that was not."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from named import named
from toys import Profile, silent, trainer

from scduet.data.schema import Fields, Schema
from scduet.errors import FormatError, TrainingError
from scduet.train import resume
from scduet.train.resume import Checkpoint

KILLED = Path(__file__).with_name("killed.py")
OPTIONS = {
    "plain": {"max_epochs": 7},
    "early stopping": {"max_epochs": 60, "lr": 0.5, "early_stopping": True, "early_stopping_patience": 5},
    "plateau": {"max_epochs": 30, "lr": 0.5, "reduce_lr_on_plateau": True, "lr_patience": 2},
}


@pytest.fixture
def cells(counts):
    return Schema.learn(counts, Fields()).encode(counts)


class Killed(BaseException):
    pass


def killed_after(epoch):
    def listener(event):
        if event.done == epoch:
            raise Killed  # before the state of this epoch is kept

    return listener


def run_with(folder, cells, listener, **options):
    run, checkpoint = trainer(cells, Profile(), **options), Checkpoint(folder, {"lr": options.get("lr")})
    torch.manual_seed(0)
    resume.restore(run, checkpoint)
    return run.run(listener, checkpoint.keep), run.module


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("moments", [(1,), (3, 5), (6,)])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, monkeypatch, cells, case, moments):
    monkeypatch.setattr(resume, "SECONDS_BETWEEN", 0.0)
    whole, module = run_with(tmp_path / "whole", cells, silent, **OPTIONS[case])
    for moment in moments:
        with pytest.raises(Killed):
            run_with(tmp_path / "cut", cells, killed_after(moment), **OPTIONS[case])
    resumed, other = run_with(tmp_path / "cut", cells, silent, **OPTIONS[case])
    assert [{**row, "seconds": 0} for row in resumed.history] == [{**row, "seconds": 0} for row in whole.history]
    assert (resumed.stop_reason, resumed.best_epoch) == (whole.stop_reason, whole.best_epoch)
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_finished_run_is_not_trained_again(tmp_path, cells):
    first, _ = run_with(tmp_path, cells, silent, max_epochs=4)
    again, module = run_with(tmp_path, cells, silent, max_epochs=4)
    assert again.history == first.history
    assert [training for *_, training in module.steps if training] == []


def test_another_run_is_refused_by_name(tmp_path, cells):
    run_with(tmp_path, cells, silent, max_epochs=2, lr=0.1)
    with pytest.raises(FormatError, match=named(tmp_path / resume.FILE, "lr", 0.1, 0.2, "checkpoint")):
        run_with(tmp_path, cells, silent, max_epochs=2, lr=0.2)


def test_a_damaged_file_is_named(tmp_path, cells):
    run_with(tmp_path, cells, silent, max_epochs=2)
    path = tmp_path / resume.FILE
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(FormatError, match=named(path)):
        run_with(tmp_path, cells, silent, max_epochs=2)


def started(folder, seconds):
    """The script killed.py in a process of its own."""
    paths = os.pathsep.join([str(KILLED.parents[2]), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(KILLED), str(folder), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def test_kill_9_at_any_moment_changes_no_bit(tmp_path):
    """Killed twice, once while it trains and once while it may be writing; early stopping is on."""
    for after, wait in ((2, 0.03), (5, 0.051)):
        process = started(tmp_path / "cut", 0.05)
        while int(process.stdout.readline()) < after:
            pass
        time.sleep(wait)
        process.kill()
        process.wait()
    # each is a process of its own: bits are promised for one number of threads, and other tests may change it here
    resumed, whole = (
        json.loads(started(tmp_path / name, 0).communicate(timeout=120)[0].splitlines()[-1])
        for name in ("cut", "whole")
    )
    assert resumed == whole


def test_a_half_written_state_is_not_read(tmp_path, cells):
    first, _ = run_with(tmp_path, cells, silent, max_epochs=4)
    (tmp_path / ".training.scduet-new.safetensors").write_bytes(b"half of a state")
    again, _ = run_with(tmp_path, cells, silent, max_epochs=4)
    assert again.history == first.history


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files by a call that Windows lacks")
def test_a_full_disk_ends_training_and_keeps_the_last_good_state(tmp_path, monkeypatch, cells):
    import resource

    monkeypatch.setattr(resume, "SECONDS_BETWEEN", 0.0)
    _, module = run_with(tmp_path / "whole", cells, silent, max_epochs=6)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(event):
        if event.done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # no file can grow beyond that

    try:
        with pytest.raises(TrainingError, match=named(tmp_path / "full")):
            run_with(tmp_path / "full", cells, fill, max_epochs=6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "full").iterdir()] == [resume.FILE]
    resumed, other = run_with(tmp_path / "full", cells, silent, max_epochs=6)
    assert len(resumed.history) == 6
    assert torch.equal(other.mean, module.mean)


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path, cells):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TrainingError, match=named(tmp_path / "file", "checkpoint")):
        run_with(tmp_path / "file", cells, silent, max_epochs=2)
