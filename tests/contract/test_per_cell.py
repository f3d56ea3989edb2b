"""A model with parameters of each cell: they are all learned and saved, and no other cells can use them."""

import numpy as np
import pytest
import torch
from named import named
from sklearn.neighbors import KNeighborsClassifier

import scduet as sd
from scduet.errors import DataError, FormatError, OptionError

pytestmark = pytest.mark.usefixtures("toys")
HOW = {"max_epochs": 40, "batch_size": 32}


@pytest.fixture
def model(counts):
    return sd.fit(counts, "toy_profiles", **HOW)


def test_the_parameters_of_every_cell_are_learned(counts, model):
    torch.manual_seed(0)
    untrained = sd.fit(counts, "toy_profiles", max_epochs=1, lr=1e-12).embed()
    moved = np.abs(model.embed() - untrained).max(1)
    assert moved.min() > 1e-3
    z, kind = model.embed(), counts.obs["cell_type"].astype(str).to_numpy()
    found = KNeighborsClassifier(5).fit(z[::2], kind[::2]).predict(z[1::2])
    assert (found == kind[1::2]).mean() > 0.9
    assert model.training.train_size == 1
    assert model.history["loss_train"].iloc[-1] < model.history["loss_train"].iloc[0]


def test_from_a_file_and_after_a_stop_the_same_rows_are_learned(counts, model, tmp_path):
    counts.write_h5ad(tmp_path / "cells.h5ad")
    on_disk = sd.fit(str(tmp_path / "cells.h5ad"), "toy_profiles", max_epochs=5, batch_size=200)
    in_memory = sd.fit(counts, "toy_profiles", max_epochs=5, batch_size=200)  # one minibatch: any order is the same
    np.testing.assert_allclose(on_disk.embed(), in_memory.embed(), atol=1e-4)
    stop = {"callback": lambda event: event.kind == "epoch" and event.epoch == 20, "checkpoint": tmp_path / "run"}
    sd.fit(counts, "toy_profiles", **HOW, **stop)
    with pytest.raises(FormatError):
        sd.fit(counts[::-1].copy(), "toy_profiles", **HOW, checkpoint=tmp_path / "run")


def test_they_are_saved_and_go_on(counts, model, tmp_path):
    model.save(tmp_path / "model")
    loaded = sd.load(tmp_path / "model")
    assert np.array_equal(loaded.embed(counts), model.embed())
    counts.write_h5ad(tmp_path / "cells.h5ad")
    assert np.array_equal(loaded.embed(str(tmp_path / "cells.h5ad")), model.embed())
    further = sd.fit(counts, "toy_profiles", start=loaded, max_epochs=1, lr=1e-12)
    np.testing.assert_allclose(further.embed(), model.embed(), atol=1e-6)


def test_other_cells_are_refused(counts, model):
    new = counts.copy()
    new.obs_names = [f"new{i}" for i in range(200)]
    for cells in (counts[:150].copy(), counts[::-1].copy(), new):
        for call in (model.embed, lambda cells: sd.map_query(cells, model)):
            with pytest.raises(DataError, match=named("fit", "order")):
                call(cells)
        with pytest.raises(DataError, match="start="):
            sd.fit(cells, "toy_profiles", start=model, max_epochs=1)


@pytest.mark.parametrize("option", [{"train_size": 0.9}, {"early_stopping": True}, {"reduce_lr_on_plateau": True}])
def test_no_cell_is_held_out(counts, option):
    with pytest.raises(OptionError, match=next(iter(option))):
        sd.fit(counts, "toy_profiles", **HOW, **option)
