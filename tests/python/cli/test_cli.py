"""The command line: the same options and results as Python, exit codes, and nothing half-written."""

import subprocess
import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
from named import assert_named

import scduet as sd
from scduet.cli import main
from scduet.options import options_of
from scduet.tasks.workflows.doctor import Finding

SHORT = ["--max-epochs", "2", "--n-latent", "4", "--batch-key", "batch"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """cells.h5ad, and what one run of `integrate` made of it."""
    folder = tmp_path_factory.mktemp("cli")
    sd.datasets.simulate(200, 60, seed=1).write_h5ad(folder / "cells.h5ad")
    arguments = ["integrate", str(folder / "cells.h5ad"), "-o", str(folder / "out.h5ad"), *SHORT]
    assert main([*arguments, "--save-model", str(folder / "model")]) == 0
    return folder


def run(*arguments):
    return main([str(a) for a in arguments])


def test_integrate_gives_what_python_gives(folder):
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    sd.integrate(adata, batch_key="batch", max_epochs=2, n_latent=4)
    np.testing.assert_array_equal(anndata.read_h5ad(folder / "out.h5ad").obsm["X_scVI"], adata.obsm["X_scVI"])
    assert sd.load(folder / "model").config.n_latent == 4


def test_fit_then_embed_is_integrate(folder, tmp_path):
    wanted = anndata.read_h5ad(folder / "out.h5ad").obsm["X_scVI"]
    assert run("fit", folder / "cells.h5ad", "-o", tmp_path / "m", *SHORT) == 0
    for ending in ("npy", "csv", "h5ad", "zarr"):
        assert run("embed", folder / "cells.h5ad", "--model", tmp_path / "m", "-o", tmp_path / f"x.{ending}") == 0
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), wanted, atol=1e-5)
    table = pd.read_csv(tmp_path / "x.csv", index_col="cell")
    np.testing.assert_allclose(table, wanted, atol=1e-5)
    assert list(table.index) == list(anndata.read_h5ad(folder / "cells.h5ad").obs_names)
    np.testing.assert_allclose(anndata.read_h5ad(tmp_path / "x.h5ad").obsm["X_scVI"], wanted, atol=1e-5)
    np.testing.assert_allclose(anndata.read_zarr(tmp_path / "x.zarr").obsm["X_scVI"], wanted, atol=1e-5)


def test_counts_on_disk_give_the_same_cells_an_embedding(folder, tmp_path):
    flags = [*SHORT, "--on-disk", "--checkpoint", tmp_path / "state"]
    assert run("integrate", folder / "cells.h5ad", "-o", tmp_path / "x.h5ad", *flags) == 0
    cells, found = anndata.read_h5ad(folder / "cells.h5ad"), anndata.read_h5ad(tmp_path / "x.h5ad")
    assert found.obsm["X_scVI"].shape == (200, 4)
    assert np.isfinite(found.obsm["X_scVI"]).all()
    assert (found.X != cells.X).nnz == 0
    assert (tmp_path / "state").is_dir()


def test_score_writes_the_table_that_python_gives(folder, tmp_path, capsys):
    asked = ["--batch-key", "batch", "--labels-key", "cell_type", "--metrics", "silhouette_label,bras"]
    assert run("score", folder / "out.h5ad", *asked, "-o", tmp_path / "scores.csv") == 0
    written = pd.read_csv(tmp_path / "scores.csv", index_col="embedding")
    names = ["silhouette_label", "bras"]
    expected = sd.score(anndata.read_h5ad(folder / "out.h5ad"), None, "batch", "cell_type", metrics=names)
    np.testing.assert_allclose(written[names], expected[names].astype(float))
    assert {"X_pca", "X_scVI"} <= set(written.index)
    assert "silhouette_label" in capsys.readouterr().out


def test_score_prints_why_values_are_missing(folder, capsys):
    assert run("score", folder / "out.h5ad", "--batch-key", "batch", "--metrics", "clisi,ilisi", "-q") == 0
    assert "cLISI is not defined here: needs labels." in capsys.readouterr().out


def test_score_compares_embeddings_in_a_page(folder, tmp_path, capsys):
    asked = ["--embeddings", "X_pca,X_scVI,X_harmony", "--batch-key", "batch", "--labels-key", "cell_type"]
    assert run("score", folder / "out.h5ad", *asked, "--metrics", "bras,ilisi", "--report", tmp_path / "s.html") == 0
    told = capsys.readouterr()
    assert_named(told.err, "X_scVI")
    page = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert_named(page, "out.h5ad")
    assert '<th scope="col">PCA, not integrated</th>' in page
    shown = told.out.splitlines()
    values = next(line for line in shown if line.startswith("bras")).split()[1:]
    assert all(f">{value}<" in page for value in values)


def test_report_takes_its_columns_from_the_model(folder, tmp_path):
    assert run("report", folder / "out.h5ad", "--model", folder / "model", "-o", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "batches (batch)" in page
    assert "2 epochs" in page
    two = [argument for _ in range(2) for argument in ("--model", folder / "model")]
    assert run("report", folder / "out.h5ad", *two, "-o", tmp_path / "two.html") == 0
    assert "Model: scvi 2" in (tmp_path / "two.html").read_text(encoding="utf-8")


def test_every_option_of_the_model_has_a_flag(capsys):
    assert run("fit", "--help") == 0
    shown = capsys.readouterr().out
    missing = [o.name for o in options_of("scvi") if f"--{o.name.replace('_', '-')}" not in shown]
    assert missing == []


@pytest.mark.parametrize(
    ("flags", "option", "value"),
    [
        (["--n-latent", "7"], "n_latent", 7),
        (["--lr=0.5"], "lr", 0.5),
        (["--gene-likelihood", "nb"], "gene_likelihood", "nb"),
        (["--no-log-variational"], "log_variational", False),
        (["--no-early-stopping"], "early_stopping", False),
        (["--batch_key", "donor_id"], "batch_key", "donor_id"),
        (["--batch_key=donor_id"], "batch_key", "donor_id"),
        (["--genes", "hvg"], "genes", "hvg"),
        (["--genes", "A", "--genes", "B"], "genes", ("A", "B")),
        (["--categorical-covariate-keys", "sex"], "categorical_covariate_keys", ("sex",)),
    ],
)
def test_flags_reach_fit_as_python_values(folder, tmp_path, monkeypatch, flags, option, value):
    given = {}

    def pretend(adata, model, *, callback, checkpoint, **options):
        given.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(sd, "fit", pretend)
    assert run("fit", folder / "cells.h5ad", "-o", tmp_path / "m", *flags) == 1
    assert given == {option: value}


@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (["fit", "cells.h5ad"], 2, ["--output"]),
        (["fit", "cells.h5ad", "-o", "m", "--n-latnt", "3"], 2, ["--n-latnt", "--n-latent"]),
        (["fit", "cells.h5ad", "-o", "m", "--n-latent", "many"], 2, ["--n-latent"]),
        (["fit", "cells.h5ad", "-o", "m", "--n-latent", "-3"], 2, ["n_latent", -3]),
        (["fit", "cells.h5ad", "-o", "m", "--gene-likelihood", "nbb"], 2, ["--gene-likelihood", "'nbb'", "'zinb'"]),
        (["fit", "cells.h5ad", "-o", "m", "--model", "scwi"], 2, ["--model", "'scwi'"]),
        (["fit", "cells.h5ad", "-o", "m", "--batch-key", "nowhere"], 1, ["'nowhere'", "obs"]),
        (["fit", "absent.h5ad", "-o", "m"], 1, ["absent.h5ad"]),
        (["fit", "half.h5ad", "-o", "m"], 1, ["half.h5ad"]),
        (["fit", "cells.h5ad", "-o", "no/such/m"], 1, ["no/such"]),
        (["fit", "cells.h5ad", "-o", "model"], 1, ["model", "--overwrite"]),
        (["integrate", "cells.h5ad", "-o", "out.h5ad"], 1, ["out.h5ad"]),
        (["integrate", "cells.h5ad", "-o", "x.rds"], 1, ["'x.rds'", ".h5ad", ".zarr"]),
        (["convert", "thing.rds", "x.h5ad"], 1, ["'thing.rds'"]),
        (["convert", "cells.h5ad", "x.csv"], 1, ["'x.csv'", ".h5ad", ".rds"]),
        (["embed", "cells.h5ad", "--model", "nowhere", "-o", "x.npy"], 1, ["nowhere"]),
        (["score", "cells.h5ad", "--batch-key", "nowhere"], 1, ["--batch-key", "nowhere", "obs"]),
        (["score", "cells.h5ad", "--batch-key", "batch", "-e", "X_pca,X_scwi"], 1, ["'X_scwi'", "obsm"]),
        (["score", "cells.h5ad", "--batch-key", "batch", "--report", "s.pdf"], 1, ["'s.pdf'", ".html"]),
        (["score", "cells.h5ad"], 2, ["--labels-key"]),
    ],
)
def test_failures_say_why_in_one_line_and_leave_nothing(folder, monkeypatch, capsys, arguments, code, names):
    monkeypatch.chdir(folder)
    (folder / "half.h5ad").write_bytes((folder / "cells.h5ad").read_bytes()[:2000])
    (folder / "thing.rds").write_bytes(b"RDX3")
    before = sorted(p.name for p in folder.iterdir())
    assert main(arguments) == code
    told = capsys.readouterr().err
    assert_named(told, *names)
    assert "Traceback" not in told
    if code == 1:
        assert told.startswith("scduet: error: ")
        assert told.count("\n") == 1
    assert sorted(p.name for p in folder.iterdir()) == before


def test_an_output_folder_without_room_is_refused_before_training(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    monkeypatch.setattr(sd, "integrate", lambda *a, **k: pytest.fail("training started"))
    assert run("integrate", folder / "cells.h5ad", "-o", tmp_path / "x.h5ad", *SHORT) == 1
    assert_named(capsys.readouterr().err, tmp_path, "0 MB")
    assert list(tmp_path.iterdir()) == []


def test_progress_off_a_terminal_is_a_few_lines(folder, tmp_path, capsys):
    assert run("fit", folder / "cells.h5ad", "-o", tmp_path / "m", *SHORT) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("scduet: epoch 2/2")]
    assert run("fit", folder / "cells.h5ad", "-o", tmp_path / "m", *SHORT, "--overwrite", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_help_and_version_import_no_torch():
    code = "import sys; from scduet.cli import main; code = main({}); print('torch' in sys.modules, code)"
    for arguments in (["--help"], ["fit", "--help"], ["pretrain", "--help"], ["finetune", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "False 0"


def test_python_m_scduet_is_the_command():
    done = subprocess.run([sys.executable, "-m", "scduet", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sd.__version__


def test_doctor_finds_this_installation_well(folder, capsys, monkeypatch):
    monkeypatch.setattr(
        "scduet.tasks.workflows.doctor._matrix_product", lambda: Finding("speed of torch", "not timed here")
    )
    assert run("doctor", "--model", folder / "model", "--folder", folder) == 0
    told = capsys.readouterr().out
    assert f"scduet: {sd.__version__}" in told
    assert_named(next(line for line in told.splitlines() if "model:" in line), "scvi", 60, 2)
    assert run("doctor", "--model", folder / "nowhere") == 1
    assert_named(capsys.readouterr().out, "BAD", folder / "nowhere")
