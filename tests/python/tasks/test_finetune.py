"""Fine-tuning transformers to annotate: that it learns, what it leaves alone, what is saved, and what is refused."""

import copy
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from named import assert_named, named
from safetensors.torch import load_file
from transformer_toys import make_cells, transformer

import scduet as sd
from scduet.errors import DataError, FormatError, OptionError
from scduet.io import cells as convert
from scduet.tasks.foundation.finetune import evaluate, finetune, finetune_integration
from scduet.tasks.workflows.doctor import examine
from scduet.train import resume
from scduet.transformers.inference.embedding import in_order

FAST = dict(max_epochs=6, batch_size=16, accelerator="cpu", lr=3e-3)


@pytest.fixture(scope="module")
def reference():
    return make_cells(200, 1)


@pytest.mark.parametrize(
    ("family", "tuning", "epochs", "least"),
    [
        ("geneformer", "lora", 8, 0.8),
        ("scgpt", "full", 5, 0.9),
        ("scgpt", "last", 6, 0.8),
        ("scgpt", "frozen", 8, 0.6),
    ],
)
def test_it_learns_and_leaves_the_base_alone(family, tuning, epochs, least, reference):
    base = transformer(family)
    before = copy.deepcopy(base.module.state_dict())
    model = finetune(reference, base, "type", tuning=tuning, **{**FAST, "n_last_layers": 1, "max_epochs": epochs})
    found = evaluate(model, make_cells(90, 2))
    assert min(found.values()) > least, found  # by chance 0.33
    assert model.history["loss_train"].iloc[-1] < model.history["loss_train"].iloc[0]
    assert all(torch.equal(before[name], value) for name, value in base.module.state_dict().items())
    moved = {
        name for name, value in model.module.encoder.state_dict().items()
        if name not in before or not torch.equal(before[name], value)
    }  # fmt: skip
    allowed = {"lora": "low_rank", "last": "trunk.blocks.1.", "full": "", "frozen": "nothing"}[tuning]
    assert all(allowed in name for name in moved)
    assert bool(moved) == (tuning != "frozen")


def test_without_cls_the_mean_is_read(reference):
    """Geneformer V1: the vector is the mean of the last layer over the genes."""
    base = transformer("geneformer", cls=False)
    model = finetune(reference, base, "type", **FAST)
    assert evaluate(model, make_cells(90, 2))["accuracy"] > 0.9
    states, encoder = torch.from_numpy(model.embed(reference[:5])), model.module.encoder
    cells, tokenizer = base.prepared(reference[:5])
    batch = tokenizer(in_order(cells.counts, 0, 5))
    with torch.no_grad():
        every = encoder.states(batch, encoder.Options(emb_layer=0)).split((~batch.padding).sum(1).tolist())
    torch.testing.assert_close(states, torch.stack([cell.mean(0) for cell in every]), atol=1e-5, rtol=1e-5)


class Killed(BaseException):
    pass


def killed(event):
    if event.done == 2:
        raise Killed  # before the state of this epoch is kept


@pytest.mark.parametrize("task", ["annotation", "integration"])
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(task, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SECONDS_BETWEEN", 0.0)
    cells, base = make_cells(100, 1, batches=True), transformer("scgpt")
    learn, key = (finetune, "type") if task == "annotation" else (finetune_integration, "run")
    options = {"max_epochs": 3, "batch_size": 20, "accelerator": "cpu"}
    whole = learn(cells, base, key, **options)
    with pytest.raises(Killed):
        learn(cells, base, key, checkpoint=tmp_path, callback=killed, **options)
    resumed = learn(cells, base, key, checkpoint=tmp_path, **options)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name
    relabeled = cells.copy()
    relabeled.obs[key] = np.roll(cells.obs[key], 1)
    with pytest.raises(FormatError, match=named("training.safetensors", "cells", "checkpoint")):
        learn(relabeled, base, key, checkpoint=tmp_path, **options)
    with pytest.raises(FormatError, match=named("training.safetensors", "weights", "checkpoint")):
        learn(cells, transformer("scgpt", seed=1), key, checkpoint=tmp_path, **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, reference):
    """A base in a folder, what was tuned on it, and the folder of that."""
    root = tmp_path_factory.mktemp("tuned")
    transformer("scgpt").save(root / "base")
    model = finetune(reference, root / "base", "type", **{**FAST, "max_epochs": 2})
    model.save(root / "tuned")
    return root, model


def test_saved_and_loaded_it_says_the_same(saved):
    root, model = saved
    query = make_cells(30, 3)
    loaded = sd.load(root / "tuned")
    pd.testing.assert_frame_equal(loaded.predict(query), model.predict(query), atol=1e-6, rtol=0)
    np.testing.assert_allclose(loaded.embed(query), model.embed(query), atol=1e-5)
    pd.testing.assert_frame_equal(loaded.history, model.history)
    assert list(loaded.predict(query).columns) == ["B", "NK", "T"]


def test_only_what_was_trained_is_saved(saved):
    root, model = saved
    weights = load_file(root / "tuned" / "weights.safetensors")
    assert all(name.startswith("head.") or "low_rank" in name for name in weights)
    assert sum(value.numel() for value in weights.values()) == sum(
        p.numel() for p in model.module.parameters() if p.requires_grad
    )


def test_another_base_is_refused(saved):
    root, _ = saved
    with pytest.raises(FormatError, match=named(root / "tuned", root / "base", "base=")):
        sd.load(root / "tuned", base=transformer("scgpt", seed=1))
    with pytest.raises(FormatError, match=named(root / "tuned", root / "base", "base=")):
        sd.load(root / "tuned", base=transformer("geneformer"))
    assert sd.load(root / "tuned", base=transformer("scgpt")).tuning.levels == ("B", "NK", "T")
    with pytest.raises(FormatError, match=named(root / "tuned", root / "nowhere", "base=")):
        sd.load(root / "tuned", base=root / "nowhere")


def test_doctor_examines_it_and_its_base(saved, tmp_path):
    root, _ = saved

    def found(folder):
        return [finding for finding in examine(folder, tmp_path) if finding.what.startswith("model")]

    (model,) = found(root / "tuned")
    assert model.ok
    assert_named(model.found, "scgpt", "annotation", 3, "obs['type']", 2, str(root / "base"))
    shutil.copytree(root, tmp_path / "copy")
    elsewhere = tmp_path / "copy" / "tuned"
    manifest = json.loads((elsewhere / "scduet.json").read_text())
    transformer("scgpt", seed=1).save(tmp_path / "other")
    for place, why in ((tmp_path / "nowhere", "is not at"), (tmp_path / "other", "tuned on another transformer")):
        (elsewhere / "scduet.json").write_text(json.dumps(manifest | {"base": str(place)}))
        (bad,) = found(elsewhere)
        assert bad.ok is False
        assert why in bad.found
        assert "base=" in bad.remedy


def test_the_base_is_found_from_another_folder(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    transformer("scgpt").save("base")
    model = finetune(reference, "base", "type", tuning="frozen", **{**FAST, "max_epochs": 1})
    model.save("tuned")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pd.testing.assert_frame_equal(sd.load("../tuned").predict(reference[:9]), model.predict(reference[:9]), atol=1e-6)


def test_a_saved_transformer_embeds_the_same(saved, reference):
    root, _ = saved
    np.testing.assert_array_equal(sd.load(root / "base").embed(reference), transformer("scgpt").embed(reference))
    with pytest.raises(FormatError, match=named("base", "overwrite=True")):
        transformer("scgpt").save(root / "base")


def test_annotate_is_the_same_call(reference):
    query = make_cells(60, 4)
    labeled = reference.copy()
    labeled.obs.loc["cell3", "type"] = "Unknown"
    table = sd.annotate(query, labeled, "type", model=transformer("scgpt"), use="best", **FAST)
    assert list(table.index) == ["scgpt", "knn on pca", "logistic regression", "linear svm"]
    assert list(table.columns) == ["accuracy", "macro_f1", "calibration_error", "n_cells"]
    assert table.loc[table.attrs["used"], "macro_f1"] == table["macro_f1"].max()
    assert query.uns["predicted"]["method"] == table.attrs["used"]
    assert (query.obs["predicted"].astype(str) == query.obs["type"]).mean() > 0.9
    assert np.allclose(query.obsm["predicted_probability"].sum(1), 1, atol=1e-5)
    model = finetune(reference, transformer("scgpt"), "type", **{**FAST, "max_epochs": 1})
    again = sd.annotate(query, model)
    assert again.loc["scgpt", "accuracy"] == model.history["accuracy_validation"].iloc[-1]
    with pytest.raises(OptionError, match="best"):
        sd.annotate(query, model, use="best")


def test_types_with_slashes_in_their_names_can_be_written(reference, tmp_path):
    """In a file "T/NK" would be an entry of a group "T", which is there already."""
    labeled, query = reference.copy(), make_cells(30, 4)
    labeled.obs["type"] = labeled.obs["type"].replace({"NK": "T/NK"})
    model = finetune(labeled, transformer("scgpt"), "type", tuning="frozen", **{**FAST, "max_epochs": 1})
    sd.annotate(query, model)
    assert list(query.obs["predicted"].cat.categories) == ["B", "T", "T/NK"]
    for name in ("named.h5ad", "named.zarr"):
        convert.write(query, tmp_path / name)
        share = convert.read(tmp_path / name).obsm["predicted_probability"]
        assert list(share.columns) == ["B", "T", "T-NK"]
        np.testing.assert_array_equal(share.to_numpy(), query.obsm["predicted_probability"].to_numpy())


def test_what_cannot_work_is_refused(reference):
    base = transformer("geneformer")
    cells = reference.copy()
    cells.obs["one"] = "B"
    with pytest.raises(DataError, match=named("obs['one']", 1, "'B'")):
        finetune(cells, base, "one")
    cells.obs.loc["cell0", "type"] = "rare"
    with pytest.raises(DataError, match=named(1, "obs['type']", "'rare'")):
        finetune(cells, base, "type")
    with pytest.raises(DataError, match=named(1, "obs['type']", "'rare'")):
        sd.annotate(reference.copy(), cells, "type", model=base)
    with pytest.raises(DataError, match=named(1, "'T'", "train_size")):
        finetune(reference[:6], base, "type", train_size=0.2)
    with pytest.raises(OptionError, match=named("'tunin'", "'tuning'")):
        finetune(reference, base, "type", tunin="full")
    with pytest.raises(OptionError, match=named("'tuning'", "'half'", "'lora'", "'full'", "'last'", "'frozen'")):
        finetune(reference, base, "type", tuning="half")
    with pytest.raises(OptionError, match=named("'head_layers'", 0)):
        finetune(reference, base, "type", head_layers=0)


def test_labels_unseen_in_training_are_named(saved):
    _, model = saved
    query = make_cells(30, 3)
    query.obs.loc[["cell0", "cell1"], "type"] = ["ILC", "pDC"]
    with pytest.raises(DataError, match=named(2, "'ILC'", "'pDC'", "'B'", "'NK'", "'T'")):
        evaluate(model, query)
    with pytest.raises(DataError, match=named("'kind'", "adata.obs", "'type'")):
        evaluate(model, query, "kind")
