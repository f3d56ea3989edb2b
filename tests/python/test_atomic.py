"""What is written is whole, is readable by others, and leaves nothing behind."""

import hashlib
import os
from stat import S_IMODE

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import scduet as sd
from scduet.io import native
from scduet.io.atomic import place_whole, recover, sha256
from scduet.io.cells import write
from scduet.train import resume

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")


@pytest.fixture(params=[0o022, 0o027], ids=["all", "group"])
def mode(request):
    """The permissions that the umask leaves to a new file."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def permissions(*paths):
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    assert files
    return {S_IMODE(file.stat().st_mode) for file in files}


@posix
def test_permissions_of_all_that_is_written_follow_the_umask(mode, tmp_path, counts):
    model = sd.fit(counts, max_epochs=1, checkpoint=tmp_path / "state", batch_key="batch")
    model.save(tmp_path / "model")
    model.export_scvi_tools(tmp_path / "export")
    write(counts, tmp_path / "cells.h5ad")
    write(counts, tmp_path / "cells.zarr")
    drawn = sd.pl.training_curves(model.history[["loss_train"]])
    sd.pl.save_figure(drawn, tmp_path / "curves.png")
    assert permissions(*tmp_path.iterdir()) == {mode}
    assert (tmp_path / "state" / resume.FILE).exists()


@posix
def test_a_private_file_of_safetensors_becomes_readable(mode, tmp_path):
    place_whole(tmp_path / "a.safetensors", lambda new: save_file({"a": torch.ones(2)}, new))
    assert permissions(tmp_path / "a.safetensors") == {mode}


def broken(new):
    new.write_text("half")
    raise OSError("full")


@pytest.mark.parametrize("durable", [True, False])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, durable):
    path = tmp_path / "a.txt"
    place_whole(path, lambda new: new.write_text("old"), durable=durable)
    with pytest.raises(OSError, match="full"):
        place_whole(path, broken, durable=durable)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_what_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / ".a.scduet-new.txt").write_text("half")
    place_whole(tmp_path / "a.txt", lambda new: new.write_text("whole"), durable=True)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "whole")]


def test_a_folder_is_replaced_whole(tmp_path):
    def fill(new, name):
        new.mkdir()
        (new / name).write_text(name)

    place_whole(tmp_path / "a.zarr", lambda new: fill(new, "old"))
    place_whole(tmp_path / "a.zarr", lambda new: fill(new, "new"))
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["a.zarr", "a.zarr/new"]


def test_a_folder_moved_aside_by_a_killed_process_returns(tmp_path):
    (tmp_path / ".model.scduet-old").mkdir()
    (tmp_path / ".model.scduet-old" / "weights").write_text("old")
    recover(tmp_path / "model")
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_the_ending_is_kept_while_writing(tmp_path):
    place_whole(tmp_path / "a.npy", lambda new: np.save(new, np.arange(3)))  # np.save appends .npy to other names
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def test_checksums_are_those_of_the_bytes(tmp_path):
    content = bytes(range(256)) * 10_000  # more than is read at a time
    (tmp_path / "b").write_bytes(content)
    assert sha256(tmp_path / "b") == hashlib.sha256(content).hexdigest()
    (tmp_path / "a").write_bytes(b"")
    parts = [b"a", hashlib.sha256(b"").digest(), b"b", hashlib.sha256(content).digest()]
    assert sha256(tmp_path) == hashlib.sha256(b"".join(parts)).hexdigest()


def test_a_model_that_is_written_again_has_the_same_checksum(tmp_path):
    for name in ("one", "two"):
        native.write(tmp_path / name, {"note": 1}, {"w": torch.ones(3)})
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")
