"""Training from a file is training from memory: same cells, checks and results; what goes wrong with it is told."""

import anndata
import h5py
import numpy as np
import pytest
import torch
from conftest import make_counts
from named import named
from toys import Profile, silent, trainer

import scduet as sd
from scduet.data import on_disk as files
from scduet.data.schema import Fields, Schema
from scduet.errors import DataError, FormatError, OptionError


@pytest.fixture
def path(counts, tmp_path, monkeypatch):
    """The counts in a file, of which about 40 cells are in memory at a time."""
    monkeypatch.setattr(files.FileSource, "entries_at_once", 1000)
    monkeypatch.setattr(files, "ENTRIES_AT_ONCE", 1000)
    counts.write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    return tmp_path / "cells.h5ad"


def run_on(data, **options):
    run = trainer(Schema.learn(data, Fields()).encode(data), Profile(), **options)
    torch.manual_seed(0)
    return run, run.run(silent)


def test_it_learns_the_means(path, counts):
    run, _ = run_on(path, max_epochs=150, train_size=1.0, batch_size=100, shuffle_block=10)
    assert torch.allclose(run.module.mean, torch.tensor(counts.X.toarray().mean(0)), atol=0.05)


def test_held_out_cells_are_those_in_memory(path, counts):
    """The same weights have the same validation loss, over the same cells."""
    (one, a), (other, b) = (run_on(data, max_epochs=1, lr=1e-12) for data in (path, counts))
    assert (one.held_out == other.held_out).all()
    assert a.history[0]["loss_validation"] == pytest.approx(b.history[0]["loss_validation"], rel=1e-5)


def test_the_same_seed_gives_the_same_bits(path):
    assert torch.equal(run_on(path, seed=3)[0].module.mean, run_on(path, seed=3)[0].module.mean)


def test_a_file_that_changes_ends_training_with_its_name(path):
    def spoil(event):
        if event.done == 2:
            with h5py.File(path, "r+") as file:
                file["X/data"][:] = file["X/data"][:] + 1

    cells = Schema.learn(path, Fields()).encode(path)
    with pytest.raises(DataError, match=named(path, "checkpoint=")):
        trainer(cells, max_epochs=5).run(spoil)


def test_integrate_adds_the_embedding_to_a_copy(path, counts, tmp_path, monkeypatch):
    options = {"batch_key": "batch", "max_epochs": 2, "n_hidden": 8, "callback": silent}
    model = sd.integrate(path, output=tmp_path / "out.h5ad", **options)
    made = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert np.array_equal(made.obsm["X_scVI"], model.embed())
    assert np.allclose(model.embed(counts), model.embed(), atol=1e-5)
    assert (made.X != counts.X).nnz == 0
    assert made.obs["site"].tolist() == counts.obs["site"].tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.h5ad", "out.h5ad"]
    with pytest.raises(FormatError, match=named(tmp_path / "out.h5ad")):
        sd.integrate(path, output=tmp_path / "out.h5ad", **options)
    with pytest.raises(OptionError, match=named("output=")):
        sd.integrate(path, **options)


def test_a_failed_write_leaves_the_file_as_it_was(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr("scduet.io.cells._write_elements", full)
    with pytest.raises(OSError, match=named("[Errno 28]")):
        sd.integrate(path, output=path, overwrite=True, max_epochs=1, n_hidden=8, callback=silent)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["cells.h5ad"]


def test_zarr_too(tmp_path):
    make_counts(150).write_zarr(tmp_path / "cells.zarr")
    model = sd.integrate(
        tmp_path / "cells.zarr", output=tmp_path / "out.zarr", max_epochs=1, n_hidden=8, callback=silent
    )
    assert np.array_equal(anndata.read_zarr(tmp_path / "out.zarr").obsm["X_scVI"], model.embed())
