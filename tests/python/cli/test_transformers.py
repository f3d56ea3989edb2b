"""The commands that train transformers give what Python gives, and refuse before they work."""

from dataclasses import fields

import anndata
import numpy as np
import pandas as pd
import pytest
from named import assert_named
from transformer_toys import make_cells, transformer

import scduet as sd
from scduet.cli import main
from scduet.train.config import TrainConfig
from scduet.transformers.families.scratch import Size
from scduet.transformers.objectives.finetune import Config
from scduet.transformers.objectives.pretraining import GenerativeConfig, MaskedConfig

SHORT = ["--max-epochs", "2", "--batch-size", "20", "--accelerator", "cpu"]
FAST = dict(max_epochs=2, batch_size=20, accelerator="cpu")
SMALL = ["--width", "16", "--n-layers", "1", "--feedforward", "16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labeled cells, new cells, a small Geneformer, and what `finetune` made of it."""
    folder = tmp_path_factory.mktemp("cli")
    make_cells(120, 1).write_h5ad(folder / "labeled.h5ad")
    make_cells(40, 2).write_h5ad(folder / "new.h5ad")
    transformer("geneformer").save(folder / "base")
    asked = ["--model", folder / "base", "--labels-key", "type", "-o", folder / "tuned", *SHORT]
    assert run("finetune", folder / "labeled.h5ad", *asked, "--rank", "4") == 0
    return folder


def run(*arguments):
    return main([str(a) for a in arguments])


def read(path):
    return anndata.read_h5ad(path)


def test_finetune_then_annotate_is_what_python_gives(folder, tmp_path):
    expected = sd.finetune(read(folder / "labeled.h5ad"), folder / "base", "type", rank=4, **FAST)
    tuned = sd.load(folder / "tuned")
    assert tuned.tuning.config.rank == 4
    share = expected.predict(read(folder / "new.h5ad"))
    pd.testing.assert_frame_equal(tuned.predict(read(folder / "new.h5ad")), share, atol=1e-6, rtol=0)
    assert run("annotate", folder / "new.h5ad", "-r", folder / "tuned", "-o", tmp_path / "named.h5ad") == 0
    named = read(tmp_path / "named.h5ad")
    assert list(named.obs["predicted"].astype(str)) == list(share.columns[share.to_numpy().argmax(1)])


def test_annotate_with_a_transformer_prints_the_honest_table(folder, tmp_path, capsys):
    asked = ["-r", folder / "labeled.h5ad", "--model", folder / "base", "--labels-key", "type", "--tuning", "frozen"]
    assert run("annotate", folder / "new.h5ad", *asked, "-o", tmp_path / "named.h5ad", *SHORT) == 0
    told = capsys.readouterr().out
    assert all(method in told for method in ("geneformer", "knn on pca", "logistic regression", "linear svm"))
    table = sd.annotate(
        query := read(folder / "new.h5ad"),
        read(folder / "labeled.h5ad"),
        "type",
        folder / "base",
        tuning="frozen",
        **FAST,
    )
    assert f"{table.loc['geneformer', 'accuracy']:.3f}" in told
    assert (read(tmp_path / "named.h5ad").obs["predicted"] == query.obs["predicted"]).all()


@pytest.mark.filterwarnings("ignore:only:scduet.errors.ScduetWarning")
def test_integrate_with_a_scgpt_reads_proteins_too(folder, tmp_path):
    cells = make_cells(60, 1, batches=True)
    level = np.where(np.arange(60)[:, None] % 3 == np.arange(3), 40, 4)
    cells.obsm["protein"] = pd.DataFrame(level.astype(np.float32), cells.obs_names, ["CD3", "CD14", "CD19"])
    cells.write_h5ad(tmp_path / "cite.h5ad")
    transformer("scgpt").save(tmp_path / "scgpt")
    asked = ["--model", tmp_path / "scgpt", "--batch-key", "run", "--protein-key", "protein", "--mask-ratio", "0.3"]
    assert run("integrate", tmp_path / "cite.h5ad", *asked, "-o", tmp_path / "out.h5ad", *SHORT) == 0
    how = {"batch_key": "run", "protein_key": "protein", "mask_ratio": 0.3}
    expected = sd.integrate(cells, tmp_path / "scgpt", **how, **FAST)
    found = read(tmp_path / "out.h5ad").obsm[expected.key]
    np.testing.assert_allclose(found, cells.obsm[expected.key], atol=1e-5)


@pytest.mark.filterwarnings("ignore:the usual vector")  # of a model of one layer
@pytest.mark.parametrize("family", ["geneformer", "scgpt"])
def test_pretrain_is_what_python_gives_and_goes_on(folder, tmp_path, family):
    arguments = [folder / "labeled.h5ad", "--model", family, *SMALL, *SHORT, "--checkpoint", tmp_path / "state"]
    assert run("pretrain", *arguments, "-o", tmp_path / "model") == 0
    cells = read(folder / "labeled.h5ad")
    expected = sd.pretrain(cells, family, width=16, n_layers=1, feedforward=16, **FAST)
    found = sd.load(tmp_path / "model")
    np.testing.assert_allclose(found.embed(cells), expected.embed(cells), atol=1e-6)
    assert (tmp_path / "state").is_dir()
    further = [folder / "labeled.h5ad", "--model", tmp_path / "model", *SHORT, "-o", tmp_path / "more"]
    assert run("pretrain", *further) == 0
    more = sd.pretrain(cells, found, **FAST)
    np.testing.assert_allclose(sd.load(tmp_path / "more").embed(cells), more.embed(cells), atol=1e-6)


@pytest.mark.parametrize(
    ("command", "configs"), [("finetune", (Config, TrainConfig)), ("pretrain", (Size, MaskedConfig, GenerativeConfig))]
)
def test_every_option_has_a_flag(capsys, command, configs):
    assert run(command, "--help") == 0
    shown = capsys.readouterr().out
    names = [field.name for config in configs for field in fields(config)]
    assert [name for name in names if f"--{name.replace('_', '-')}" not in shown] == []


def test_the_help_of_annotate_is_that_of_the_model(folder, capsys):
    assert run("annotate", "--model", folder / "base", "--help") == 0
    shown = capsys.readouterr().out
    assert "--tuning" in shown
    assert "--n-latent" not in shown
    assert run("annotate", "--help") == 0
    assert "--n-latent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (["finetune", "labeled.h5ad", "--model", "base", "-o", "m"], 2, ["--labels-key"]),
        (["finetune", "labeled.h5ad", "--model", "base", "-o", "m", "--labels-key", "kind"], 1, ["'kind'"]),
        (["finetune", "labeled.h5ad", "--model", "nowhere", "-o", "m", "--labels-key", "type"], 1, ["nowhere"]),
        (["finetune", "labeled.h5ad", "--model", "base", "-o", "tuned", "--labels-key", "type"], 1, ["--overwrite"]),
        (
            ["finetune", "labeled.h5ad", "--model", "base", "-o", "m", "--labels-key", "type", "--rank", "0"],
            2,
            ["--rank", 0],
        ),
        (["pretrain", "labeled.h5ad", "--model", "geneforme", "-o", "m"], 2, ["'geneforme'", "'geneformer'"]),
        (["pretrain", "labeled.h5ad", "-o", "m", "--zeros", "1"], 2, ["--zeros"]),
        (["pretrain", "labeled.h5ad", "-o", "m", "--mask-share", "2"], 2, ["--mask-share", 2.0]),
        (["annotate", "new.h5ad", "-r", "base", "-o", "m.h5ad"], 2, ["geneformer", "finetune()"]),
        (["annotate", "new.h5ad", "-r", "labeled.h5ad", "-o", "m.h5ad", "--model", "nowhere"], 2, ["'nowhere'"]),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(folder, capsys, monkeypatch, arguments, code, names):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    assert run(*arguments) == code
    assert_named(" ".join(capsys.readouterr().err.split()), *names)
    assert sorted(folder.iterdir()) == before


@pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")  # of one epoch of training
def test_embed_takes_transformers_too(folder, tmp_path, capsys):
    cells, out = folder / "new.h5ad", tmp_path / "embedded.h5ad"
    assert run("embed", cells, "--model", folder / "tuned", "-o", out, "--accelerator", "cpu") == 0
    embedded, model = read(out), sd.load(folder / "tuned")
    np.testing.assert_allclose(embedded.obsm[model.key], model.embed(read(cells), accelerator="cpu"), atol=1e-6)
    assert dict(embedded.uns["scduet_embeddings"][model.key]) == {"model": model.name, "labels_key": "type"}
    capsys.readouterr()
    assert run("embed", cells, "--model", folder / "tuned", "-o", tmp_path / "x.npy", "--accelerator", "tpu") == 2
    assert "'tpu'" in capsys.readouterr().err
    assert not (tmp_path / "x.npy").exists()
