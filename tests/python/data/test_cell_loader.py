"""Cells from any iterable of minibatches: trained on, checked and embedded as the same cells in memory."""

from scduet._torch import torch

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import make_counts
from named import named

import scduet as sd
from scduet.data.cell_loader import source_of
from scduet.data.loader_source import Cutter
from scduet.errors import DataError, FormatError, OptionError
from scduet.events import silent

OPTIONS = {"max_epochs": 3, "n_hidden": 8, "n_latent": 3, "callback": silent, "batch_size": 32}
LEVELS = {"batch": ["b0", "b1"], "kind": ["T", "B"]}


@pytest.fixture(scope="module")
def cells():
    adata = make_counts(150, 40)
    adata.obs["batch"] = np.where(np.arange(150) % 3 == 0, "b1", "b0")
    adata.obs["kind"] = np.where(np.arange(150) % 2 == 0, "T", "B")
    adata.obs["age"] = np.linspace(-1, 1, 150)
    return adata


def soma_like(adata, size=47, seed=None):
    """What TileDB-SOMA's loaders give: blocks of CSR rows with a frame of obs, shuffled anew in each pass."""
    draw = np.random.default_rng(seed)

    def batches():
        order = np.arange(adata.n_obs) if seed is None else draw.permutation(adata.n_obs)
        for start in range(0, adata.n_obs, size):
            rows = order[start : start + size]
            yield adata.X[rows], adata.obs.iloc[rows].reset_index(drop=True)

    return batches


def loader(adata, **options):
    return sd.CellLoader(soma_like(adata, **options), genes=adata.var_names, levels=LEVELS)


@pytest.mark.parametrize("size", [1, 7, 32, 47, 149, 500])
def test_items_of_any_size_become_minibatches_of_one_size(cells, size):
    model = sd.fit(cells, batch_key="batch", **OPTIONS)
    cutter = Cutter(source_of(model.schema, loader(cells, size=size)).walk())
    found = list(cutter(0, 32))
    assert [len(part) for part in found] == [32, 32, 32, 32, 22]
    np.testing.assert_array_equal(np.concatenate([part.index for part in found]), np.arange(150))
    np.testing.assert_array_equal(np.concatenate([part.x.dense() for part in found]), cells.X.toarray())
    codes = np.concatenate([part.batch for part in found])
    np.testing.assert_array_equal(codes, (cells.obs["batch"] == "b1").to_numpy())


def test_minibatches_go_on_where_memory_ran_out(cells):
    model = sd.fit(cells, **OPTIONS)
    cutter = Cutter(source_of(model.schema, loader(cells)).walk())
    first = next(cutter(0, 64))
    rest = list(cutter(len(first), 16))
    np.testing.assert_array_equal(np.concatenate([part.index for part in rest]), np.arange(64, 150))
    np.testing.assert_array_equal(np.concatenate([part.x.dense() for part in rest]), cells.X[64:].toarray())


def test_one_pass_measures_what_the_cells_in_memory_have(cells):
    """The prior of a learned library size is measured in all cells, batch by batch, in whatever order they come."""
    options = {**OPTIONS, "batch_key": "batch", "use_observed_lib_size": False, "max_epochs": 1}
    whole, passed = sd.fit(cells, **options), sd.fit(loader=loader(cells, seed=1), **options)
    for name, values in whole.reference.arrays.items():
        np.testing.assert_allclose(passed.reference.arrays[name], values, rtol=1e-5)
    assert passed.reference.n_cells == 150
    assert passed.schema.levels == whole.schema.levels


@pytest.mark.parametrize("model", ["scanvi", "ldvae", "autozi", "autoencoder", "dca", "peakvi", "poissonvi"])
def test_models_of_one_matrix_learn_from_a_loader(cells, model):
    options = {"max_epochs": 2, "batch_size": 32, "callback": silent}
    batches = {} if model == "dca" else {"batch_key": "batch"}
    fitted = sd.fit(None, model, loader=loader(cells), labels_key="kind", **batches, **options)
    assert len(fitted.history) == 2
    assert np.isfinite(fitted.history["loss_train"]).all()


def test_training_is_as_on_the_same_minibatches_in_memory(cells):
    """With one minibatch an epoch there is no order: the losses are those of the AnnData."""
    options = {**OPTIONS, "batch_key": "batch", "continuous_covariate_keys": ["age"], "dropout_rate": 0.0}
    options["batch_size"] = 150
    whole, passed = sd.fit(cells, train_size=1.0, **options), sd.fit(loader=loader(cells), **options)
    np.testing.assert_allclose(passed.history["loss_train"], whole.history["loss_train"], rtol=0.01)


def test_embedding_and_prediction_are_those_of_the_cells(cells):
    model = sd.fit(cells, "scanvi", batch_key="batch", labels_key="kind", **OPTIONS)
    np.testing.assert_allclose(model.embed(loader(cells)), model.embed(cells), atol=1e-5)
    np.testing.assert_allclose(model.predict(loader(cells)), model.predict(cells), atol=1e-5)
    part = sd.CellLoader(soma_like(cells), genes=cells.var_names, n_cells=60)
    np.testing.assert_allclose(model.embed(part), model.embed(cells[:60]), atol=1e-5)
    mixed = sd.CellLoader(soma_like(cells[:, ::-1]), genes=cells.var_names[::-1])
    np.testing.assert_allclose(model.embed(mixed), model.embed(cells), atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        lambda x: x.toarray(),
        sp.csr_array,
        sp.csc_matrix,
        lambda x: torch.from_numpy(x.toarray()),
        lambda x: torch.sparse_csr_tensor(*map(torch.from_numpy, (x.indptr, x.indices, x.data)), x.shape),
    ],
    ids=["array", "csr_array", "csc", "tensor", "sparse tensor"],
)
def test_rows_may_be_of_any_kind(cells, kind):
    model = sd.fit(cells, **OPTIONS)
    items = [{"X": kind(x), "obs": {"age": obs["age"]}} for x, obs in soma_like(cells)()]
    np.testing.assert_allclose(model.embed(sd.CellLoader(items, cells.var_names)), model.embed(cells), atol=1e-5)


def test_held_out_cells_are_validated(cells):
    given = sd.CellLoader(
        soma_like(cells[:100], seed=0), cells.var_names, levels=LEVELS, validation=soma_like(cells[100:])
    )
    options = {**OPTIONS, "max_epochs": 40, "early_stopping": True, "early_stopping_patience": 2, "lr": 0.05}
    model = sd.fit(loader=given, batch_key="batch", **options)
    losses = model.history["loss_validation"]
    assert losses.notna().all()
    assert model.outcome.best_epoch == losses.idxmin()
    assert model.training.train_size == pytest.approx(2 / 3)


def test_an_endless_loader_ends_an_epoch_at_n_cells(cells):
    def endless():
        while True:
            yield from soma_like(cells)()

    given = sd.CellLoader(endless(), cells.var_names, n_cells=110)
    model = sd.fit(loader=given, **OPTIONS)
    assert model.reference.n_cells == 110
    assert len(model.history) == 3


def test_a_run_is_resumed(cells, tmp_path):
    def stop(event):
        return event.kind == "epoch" and event.done == 2

    options = {**OPTIONS, "batch_key": "batch", "max_epochs": 4}
    sd.fit(loader=loader(cells), checkpoint=tmp_path, **{**options, "callback": stop})
    model = sd.fit(loader=loader(cells), checkpoint=tmp_path, **options)
    assert list(model.history.index) == [0, 1, 2, 3]
    with pytest.raises(FormatError, match=named(tmp_path)):
        sd.fit(loader=loader(cells[:99]), checkpoint=tmp_path, **options)


def broken(cells, **edit):
    """A loader with something amiss in its second item."""

    def batches():
        for number, (x, obs) in enumerate(soma_like(cells)()):
            yield (edit.get("x", lambda v: v)(x), edit.get("obs", lambda v: v)(obs)) if number == 1 else (x, obs)

    return sd.CellLoader(batches, cells.var_names, levels=LEVELS)


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        ({"x": lambda x: x * 0.5}, ["allow_non_integer=True"]),
        ({"x": lambda x: x[:, :-1]}, ["39", "40"]),
        ({"x": lambda x: x * 0}, ["47 cells"]),
        ({"obs": lambda obs: obs.iloc[1:]}, ["47", "46"]),
        ({"obs": lambda obs: obs.assign(batch="b9")}, ["b9", "'batch'"]),
        ({"obs": lambda obs: obs.drop(columns="batch")}, ["'batch'"]),
    ],
    ids=["fractions", "columns", "empty", "rows of obs", "level", "column"],
)
def test_what_does_not_fit_is_named_before_training(cells, edit, names):
    with pytest.raises(DataError, match=named(*names)):
        sd.fit(loader=broken(cells, **edit), batch_key="batch", **OPTIONS)


def test_what_a_loader_cannot_give_is_named(cells):
    given = loader(cells)
    with pytest.raises(DataError, match=named("'donor'", "levels")):
        sd.fit(loader=given, batch_key="donor", **OPTIONS)
    with pytest.raises(DataError, match=named("generator")):
        sd.fit(loader=soma_like(cells)(), **OPTIONS)
    with pytest.raises(DataError, match=named("n_cells=")):
        sd.fit(loader=sd.CellLoader(soma_like(cells)(), cells.var_names), **OPTIONS)
    with pytest.raises(OptionError, match=named("loader=")):
        sd.fit(cells, loader=given, **OPTIONS)
    with pytest.raises(OptionError, match=named("layer")):
        sd.fit(loader=given, layer="counts", **OPTIONS)
    for name, value in {"train_size": 0.8, "shuffle_block": 8, "devices": 2, "early_stopping": True}.items():
        with pytest.raises(OptionError, match=named(name)):
            sd.fit(loader=given, **OPTIONS, **{name: value})
    with pytest.raises(OptionError, match=named("protein_key")):
        sd.fit(None, "totalvi", loader=given, protein_key="protein", max_epochs=1)
    trained = sd.fit(cells, "stereoscope_cells", labels_key="kind", max_epochs=1, callback=silent)
    with pytest.raises(OptionError, match=named("'stereoscope'")):
        sd.fit(None, "stereoscope", loader=given, start=trained, max_epochs=1)
    with pytest.raises(OptionError, match=named("'label'")):
        sd.fit(None, "scaden", loader=given, labels_key="kind", max_epochs=1, callback=silent)
    with pytest.raises(OptionError, match=named("n_samples_per_label")):
        sd.fit(None, "scanvi", loader=given, labels_key="kind", n_samples_per_label=5, **OPTIONS)
    with pytest.raises(DataError, match=named("order")):
        sd.normalized_expression(sd.fit(loader=given, **OPTIONS))
    with pytest.raises(DataError, match=named("shuffling")):
        sd.fit(None, "dca", loader=loader(cells, seed=0), max_epochs=1, callback=silent)
    with pytest.raises(OptionError, match=named("genes")):
        sd.CellLoader([], "ACTB")
    with pytest.raises(DataError):
        sd.CellLoader(5, cells.var_names)
