"""Progress without a terminal: a line now and then on stderr, with the time that is left."""

import subprocess
import sys

import pytest
from named import assert_named

from scduet.events import Event
from scduet.train import progress
from scduet.train.progress import Lines, duration


def epochs(n):
    return [Event("progress", f"loss {i}", i, n, "epoch", 2.0 * (n - i)) for i in range(1, n + 1)]


@pytest.mark.parametrize("n", [1, 3, 10, 25, 400])
def test_at_most_ten_lines_and_the_last_epoch_is_one(n, capsys):
    tell = Lines()
    for event in epochs(n):
        tell(event)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == min(n, 10)
    assert lines[-1] == f"scduet: epoch {n}/{n}, loss {n}"


def test_a_slow_training_is_told_of_between_the_tenths(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_AFTER", 0.0)
    tell = Lines()
    for event in epochs(100):
        tell(event)
    assert len(capsys.readouterr().err.splitlines()) == 100


def test_messages_pass_at_once(capsys):
    Lines()(Event("log", "hello"))
    assert_named(capsys.readouterr().err, "scduet", "hello")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (89, "89 s"), (120, "2 min"), (5000, "83 min"), (9000, "2.5 h")]
)
def test_durations_are_rounded_for_a_reader(seconds, text):
    assert duration(seconds) == text


def test_a_script_whose_output_is_piped_tells_epochs_and_time(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import anndata, numpy as np, scduet as sd\n"
        "adata = anndata.AnnData(np.random.default_rng(0).poisson(2.0, (200, 30)).astype('float32'))\n"
        "sd.fit(adata, max_epochs=20, n_hidden=8)\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    lines = [line for line in run.stderr.splitlines() if "epoch" in line]
    assert run.stdout == ""
    told = [line.split(",")[0].removeprefix("scduet: ") for line in lines]
    assert told == sorted(told, key=lambda epoch: int(epoch.split()[1].split("/")[0]))
    assert {f"epoch {i}/20" for i in range(2, 21, 2)} <= set(told)  # and more on a machine where an epoch takes long
    assert all(line.endswith(" left") for line in lines[:-1])
