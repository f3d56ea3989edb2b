"""A run that was killed goes on, and ends with the same bits as one that was not."""

import pytest
import torch
from toys import Profile, silent, trainer

from scduet.data.schema import Fields, Schema
from scduet.errors import FormatError
from scduet.train import resume
from scduet.train.resume import Checkpoint

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
        if event.epoch == epoch:
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
    assert (resumed.stopped, resumed.best_epoch) == (whole.stopped, whole.best_epoch)
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_finished_run_is_not_trained_again(tmp_path, cells):
    first, _ = run_with(tmp_path, cells, silent, max_epochs=4)
    again, module = run_with(tmp_path, cells, silent, max_epochs=4)
    assert again.history == first.history
    assert [training for *_, training in module.steps if training] == []


def test_another_run_is_refused_by_name(tmp_path, cells):
    run_with(tmp_path, cells, silent, max_epochs=2, lr=0.1)
    with pytest.raises(FormatError, match=r"another run \('lr: 0.1 there, 0.2 now'\); pass another checkpoint folder"):
        run_with(tmp_path, cells, silent, max_epochs=2, lr=0.2)


def test_a_damaged_file_is_named(tmp_path, cells):
    run_with(tmp_path, cells, silent, max_epochs=2)
    path = tmp_path / resume.FILE
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(FormatError, match=r"cannot be read .*; delete it to start anew"):
        run_with(tmp_path, cells, silent, max_epochs=2)
