"""Model folders: what is written is read; nothing foreign is replaced; a kill at any moment loses nothing."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from named import named

from scduet.errors import FormatError
from scduet.io import native

TENSORS = {"module.w": torch.arange(6.0).reshape(2, 3)}


def test_what_is_written_is_read(tmp_path):
    native.write(tmp_path / "model", {"note": "β"}, TENSORS)
    manifest, tensors = native.read(tmp_path / "model")
    assert (manifest["note"], manifest["format"]) == ("β", native.FORMAT)
    assert torch.equal(tensors["module.w"], TENSORS["module.w"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_an_existing_folder_is_kept(tmp_path):
    native.write(tmp_path / "model", {"note": 1}, TENSORS)
    with pytest.raises(FormatError, match=named(tmp_path / "model", "overwrite=True")):
        native.write(tmp_path / "model", {"note": 2}, TENSORS)
    assert native.read(tmp_path / "model")[0]["note"] == 1
    native.write(tmp_path / "model", {"note": 2}, TENSORS, overwrite=True)
    assert native.read(tmp_path / "model")[0]["note"] == 2


def test_overwrite_replaces_only_a_model(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.txt").write_text("years of work")
    with pytest.raises(FormatError, match=named(folder)):
        native.write(folder, {}, TENSORS, overwrite=True)
    assert (folder / "chapter1.txt").read_text() == "years of work"


def test_overwrite_refuses_a_model_folder_with_foreign_files(tmp_path):
    native.write(tmp_path / "model", {"note": 1}, TENSORS)
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(FormatError, match=named(tmp_path / "model", "'notes.txt'")):
        native.write(tmp_path / "model", {"note": 2}, TENSORS, overwrite=True)
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    native.write(tmp_path / "model", {"note": 1}, TENSORS)
    monkeypatch.setattr(native, "save_file", full)
    with pytest.raises(OSError, match=named("[Errno 28]")):
        native.write(tmp_path / "model", {"note": 2}, TENSORS, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert native.read(tmp_path / "model")[0]["note"] == 1


def _cut(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (lambda f: _cut(f / native.WEIGHTS), [native.WEIGHTS, "checksum"]),
        (lambda f: _cut(f / native.MANIFEST), [native.MANIFEST, "line"]),
        (lambda f: (f / native.MANIFEST).write_text("[1, 2]"), [native.MANIFEST, "scduet"]),
        (lambda f: (f / native.WEIGHTS).unlink(), [native.WEIGHTS]),
        (lambda f: (f / native.MANIFEST).unlink(), [native.MANIFEST, native.WEIGHTS]),
    ],
)
def test_damage_is_named(tmp_path, spoil, names):
    native.write(tmp_path / "model", {}, TENSORS)
    spoil(tmp_path / "model")
    with pytest.raises(FormatError, match=named(*names)):
        native.read(tmp_path / "model")


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "FORMAT", 99)
    native.write(tmp_path / "model", {}, TENSORS)
    monkeypatch.undo()
    with pytest.raises(FormatError, match=named(tmp_path / "model", 99, 2, "scduet")):
        native.read(tmp_path / "model")


KILLED = """
    import os, shutil, sys
    from pathlib import Path
    import torch
    from scduet.io import atomic
    from scduet.io import native

    folder, moment = Path(sys.argv[1]), 0
    native.write(folder, {"note": "old"}, {"w": torch.zeros(3)})

    def mortal(function):
        def run(*args, **kwargs):
            global left
            left -= 1
            if left < 0:
                os._exit(9)
            return function(*args, **kwargs)
        return run

    places = {
        Path: ["replace", "mkdir", "write_text", "chmod", "unlink"],
        shutil: ["rmtree"],
        native: ["save_file"],
        atomic: ["_sync"],
    }
    for place, names in places.items():
        for name in names:
            setattr(place, name, mortal(getattr(place, name)))
    notes = []
    for moment in range(100):
        child = os.fork()
        if child == 0:
            left = moment
            native.write(folder, {"note": "new"}, {"w": torch.ones(3)}, overwrite=True)
            os._exit(0)
        left = 10**9
        _, status = os.waitpid(child, 0)
        manifest, tensors = native.read(folder)
        assert bool(tensors["w"].all()) == (manifest["note"] == "new")
        notes.append(manifest["note"])
        native.write(folder, {"note": "old"}, {"w": torch.zeros(3)}, overwrite=True)
        if status == 0:
            break
    print(len(notes), notes[0], notes[-1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_a_kill_at_any_moment_leaves_a_loadable_model(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    moments, first, last = done.stdout.split()
    assert (int(moments) >= 8, first, last) == (True, "old", "new")
