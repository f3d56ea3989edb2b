"""A transformer is a model like any other: one protocol, files of earlier versions, one way to run out of memory."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from named import named

import scduet as sd
from scduet.capabilities import TrainedModel
from scduet.errors import DeviceError, OptionError, ScduetWarning
from scduet.interop import kept_models, models, transformers
from scduet.tasks.quality.provenance import learned_labels, made_by, note

pytestmark = pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")  # few cells, little training
SAVED = Path(__file__).parents[2] / "fixtures" / "transformers"
TRUTH = np.load(SAVED / "truth.npz")
spec = importlib.util.spec_from_file_location("saved_transformers", SAVED / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
SMALL = {"width": 8, "n_layers": 1, "n_heads": 2, "feedforward": 8, "max_epochs": 1, "accelerator": "cpu"}


@pytest.fixture
def cells():
    return make.cells()


def load(name: str) -> TrainedModel:
    base = {"annotator": "geneformer", "integrator": "scgpt"}.get(name)
    return sd.load(SAVED / name, base=base and SAVED / base)


@pytest.mark.parametrize("name", ["geneformer", "scgpt", "annotator", "integrator"])
def test_files_of_before_are_read(name, cells, tmp_path):
    model = load(name)
    found = model.predict(cells) if name == "annotator" else model.embed(cells, accelerator="cpu")
    np.testing.assert_allclose(found, TRUTH[name], atol=1e-6)
    assert list(model.history.index) == [0, 1]
    assert "loss_train" in model.history
    model.save(tmp_path / "again")
    again = sd.load(tmp_path / "again", base=None if model.tuning is None else model.tuning.base.origin)
    np.testing.assert_array_equal(again.embed(cells), model.embed(cells))
    assert again.history.equals(model.history)


def test_all_kinds_of_models_answer_the_same_questions(cells):
    fitted = sd.fit(cells, "scanvi", labels_key="type", batch_key="run", max_epochs=1, accelerator="cpu")
    kinds = [fitted, *map(load, ("geneformer", "scgpt", "annotator", "integrator"))]
    wanted = [name for name in vars(TrainedModel) if not name.startswith("_")]
    assert len(wanted) > 10
    for model in kinds:
        assert all(hasattr(model, name) for name in wanted)
        seen = []
        assert model.embed(cells, accelerator="cpu", callback=seen.append).shape[0] == 40
        assert (seen[-1].kind, seen[-1].done, seen[-1].total, seen[-1].unit) == ("progress", 40, 40, "cell")
        assert set(model.features) == set(make.GENES)
        rows = model.gene_rows(cells[:, ::-1])
        assert len(set(rows)) == 24
        assert model.name in model.description
        assert model.key == {"scanvi": "X_scANVI", "geneformer": "X_geneformer", "scgpt": "X_scGPT"}[model.name]
    columns = [model.columns for model in kinds]
    labels, batch = {"labels_key": "type"}, {"batch_key": "run"}
    assert columns == [labels | batch, {}, {}, labels, batch]
    assert [model.needs_mapping for model in kinds] == [True, False, False, False, False]


def test_what_only_some_models_can_is_an_option_error(cells):
    with pytest.raises(OptionError, match=named("geneformer", "finetune()")):
        load("geneformer").predict(cells)
    with pytest.raises(OptionError, match=named("'geneformer'", "embed()")):
        sd.map_query(cells, load("annotator"))
    with pytest.raises(OptionError, match=named("geneformer", "obs['type']")):
        sd.finetune(cells, load("annotator"), "type")
    with pytest.raises(OptionError, match=named("'accelerator'", "'tpu'")):
        load("scgpt").embed(cells, accelerator="tpu")
    fitted = sd.fit(cells, "scvi", max_epochs=1, accelerator="cpu")
    with pytest.raises(OptionError, match=named("'scvi'", "transformer")):
        sd.finetune(cells, fitted, "type")
    with pytest.raises(OptionError, match=named("'scvi'", "'precision'")):
        sd.gene_network(fitted, cells, precision="32")
    with pytest.raises(TypeError):
        load("scgpt").embed(cells, device="cpu")


def test_an_embedding_says_what_it_learned_so_that_scores_can(cells):
    cells.obsm["X_a"] = load("annotator").embed(cells)
    note(cells, "X_a", made_by(load("annotator")))
    assert learned_labels(cells, "X_a") == "type"
    note(cells, "X_a", made_by(load("geneformer")))
    assert learned_labels(cells, "X_a") is None


def test_r_uses_what_it_trained_without_reading_it_again(cells, tmp_path, monkeypatch):
    to = str(tmp_path / "own")
    transformers.pretrain(cells, "geneformer", SMALL, to, False)
    fitted = models.train(cells, "scvi", {"max_epochs": 1, "accelerator": "cpu"}, str(tmp_path / "scvi"))
    expected = sd.load(to).embed(cells, accelerator="cpu")
    truth = sd.load(tmp_path / "scvi").embed(cells)

    def read(*_, **__):
        raise AssertionError("the model is in memory")

    monkeypatch.setattr(sd, "load", read)
    given = cells.copy()
    transformers.embed_pretrained(given, to, "geneformer", {"accelerator": "cpu"})
    np.testing.assert_allclose(given.obsm["X_geneformer"], expected, atol=1e-6)
    taught = str(tmp_path / "taught")
    transformers.finetune(cells, to, "type", {"max_epochs": 1, "accelerator": "cpu"}, taught, False)
    monkeypatch.undo()
    assert sd.load(taught).tuning.base.origin == to
    place = {"folder": str(tmp_path / "scvi"), "sha256": fitted.facts["sha256"]}
    np.testing.assert_allclose(kept_models.saved(**place).embed(cells), truth, atol=1e-6)
    assert kept_models.saved(**place) is kept_models.saved(**place)


def test_a_model_that_was_changed_on_disk_is_read_again(cells, tmp_path):
    load("geneformer").save(tmp_path / "own")
    first = kept_models.saved(str(tmp_path / "own"))
    load("scgpt").save(tmp_path / "own", overwrite=True)
    assert (first.name, kept_models.saved(str(tmp_path / "own")).name) == ("geneformer", "scgpt")


def test_a_cell_that_does_not_fit_is_a_device_error_of_a_fitted_model_too(cells, monkeypatch):
    fitted = sd.fit(cells, "scvi", max_epochs=1, accelerator="cpu")

    def fail(_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.warns(ScduetWarning), pytest.raises(DeviceError, match=named("24", "cpu")):
        fitted.map(fail, cells)
