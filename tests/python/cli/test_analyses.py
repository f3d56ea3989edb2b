"""The commands that apply a model give what Python gives, and leave nothing half-written."""

import anndata
import numpy as np
import pandas as pd
import pytest
from named import assert_named

import scduet as sd
from scduet.cli import main

SHORT = ["--max-epochs", "2", "--n-latent", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """reference.h5ad, query.h5ad of another batch, and a model of the reference."""
    folder = tmp_path_factory.mktemp("cli")
    adata = sd.datasets.simulate(150, 40, n_batches=3, seed=1)
    last = (adata.obs["batch"] == adata.obs["batch"].iloc[-1]).to_numpy()
    adata[~last].copy().write_h5ad(folder / "reference.h5ad")
    adata[last].copy().write_h5ad(folder / "query.h5ad")
    assert run("fit", folder / "reference.h5ad", "-o", folder / "model", "--batch-key", "batch", *SHORT) == 0
    return folder


def run(*arguments):
    return main([str(a) for a in arguments])


def test_annotate_writes_the_types_and_prints_the_baselines(folder, tmp_path, capsys):
    asked = ["--labels-key", "cell_type", "--seed", "3", "--use", "knn", *SHORT, "-o", tmp_path / "named.h5ad", "-q"]
    files = [folder / "query.h5ad", "--reference", folder / "reference.h5ad", "--table", tmp_path / "t.csv"]
    assert run("annotate", *files, *asked) == 0
    told = capsys.readouterr().out
    query, reference = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("query", "reference"))
    table = sd.annotate(query, reference, "cell_type", use="knn", seed=3, max_epochs=2, n_latent=4)
    found = anndata.read_h5ad(tmp_path / "named.h5ad")
    assert list(found.obs["predicted"]) == list(query.obs["predicted"])
    assert found.uns["predicted"]["method"] == "knn on pca"
    np.testing.assert_allclose(found.obsm["predicted_probability"], query.obsm["predicted_probability"], atol=1e-5)
    written = pd.read_csv(tmp_path / "t.csv", index_col="method")
    pd.testing.assert_frame_equal(written, table, atol=1e-5)
    assert all(method in told for method in ("scanvi", "knn on pca", "logistic regression", "linear svm"))
    assert "those of knn on pca" in told


def test_annotate_takes_a_trained_scanvi(folder, tmp_path):
    fields = ["--batch-key", "batch", "--labels-key", "cell_type"]
    files = ["fit", folder / "reference.h5ad", "-o", tmp_path / "scanvi", "--model", "scanvi"]
    assert run(*files, *fields, *SHORT) == 0
    assert run("annotate", folder / "query.h5ad", "-r", tmp_path / "scanvi", "-o", tmp_path / "named.zarr") == 0
    kinds = set(anndata.read_h5ad(folder / "reference.h5ad").obs["cell_type"])
    assert set(anndata.read_zarr(tmp_path / "named.zarr").obs["predicted"]) <= kinds


@pytest.mark.parametrize("train", ["--train", "--no-train"])
def test_map_gives_what_python_gives(folder, tmp_path, train):
    asked = [train, "--max-epochs", "1", "--max-missing", "0.1", "--save-model", tmp_path / "mapped"]
    model = ["--model", folder / "model", "-o", tmp_path / "placed.h5ad"]
    assert run("map", folder / "query.h5ad", *model, *asked) == 0
    query = anndata.read_h5ad(folder / "query.h5ad")
    mapped = sd.map_query(query, sd.load(folder / "model"), train=train == "--train", max_epochs=1)
    found = anndata.read_h5ad(tmp_path / "placed.h5ad").obsm["X_scVI"]
    np.testing.assert_array_equal(found, query.obsm["X_scVI"])
    assert sd.load(tmp_path / "mapped").schema.levels == mapped.schema.levels


@pytest.mark.parametrize("group", ["1.0", "1"])
def test_de_takes_a_level_of_a_column_of_numbers_as_text(folder, tmp_path, group):
    adata = anndata.read_h5ad(folder / "reference.h5ad")
    adata.obs["dose"] = np.where(np.arange(adata.n_obs) % 2, 1.0, 2.5)
    adata.write_h5ad(tmp_path / "doses.h5ad")
    files = ["de", tmp_path / "doses.h5ad", "--model", folder / "model", "-o", tmp_path / "de.csv"]
    assert run(*files, "--groupby", "dose", "--group1", group, "--group2", "2.5") == 0
    found = pd.read_csv(tmp_path / "de.csv", index_col="gene")
    expected = sd.differential_expression(sd.load(folder / "model"), adata, "dose", 1.0, 2.5, verbose=False)
    np.testing.assert_allclose(found.loc[expected.index, "proba_de"], expected["proba_de"])


def test_de_writes_the_table_of_python(folder, tmp_path, capsys):
    files = ["de", folder / "reference.h5ad", "--model", folder / "model", "-o", tmp_path / "de.csv"]
    groups = sorted(anndata.read_h5ad(folder / "reference.h5ad").obs["cell_type"].astype(str).unique())[:2]
    asked = ["--groupby", "cell_type", "--group1", groups[0], "--group2", groups[1], "--delta", "0.5"]
    asked += ["--min-pct", "0.9", "--lfc-threshold", "0.2", "--only-pos"]
    assert run(*files, *asked) == 0
    found = pd.read_csv(tmp_path / "de.csv", index_col="gene")
    adata, model = anndata.read_h5ad(folder / "reference.h5ad"), sd.load(folder / "model")
    options = dict(delta=0.5, min_pct=0.9, lfc_threshold=0.2, only_pos=True, verbose=False)
    expected = sd.differential_expression(model, adata, "cell_type", *groups, **options)
    assert list(found.index) == list(expected.index)
    assert list(found["tested"]) == list(expected["tested"])
    assert 0 < found["tested"].sum() < len(found) < adata.n_vars
    np.testing.assert_allclose(found["proba_de"], expected["proba_de"])
    assert_named(capsys.readouterr().out, "5%")


def test_expression_as_cells_and_as_a_table(folder, tmp_path):
    files = ["expression", folder / "reference.h5ad", "--model", folder / "model"]
    asked = ["--library-size", "10000", "--n-samples", "2"]
    assert run(*files, "-o", tmp_path / "x.h5ad", *asked) == 0
    few = ["--gene", "gene3", "--gene", "gene1", "--transform-batch", "batch0", "--library-size", "latent"]
    adata, model = anndata.read_h5ad(folder / "reference.h5ad"), sd.load(folder / "model")
    few = [word.replace("batch0", model.schema.levels["batch"][0]) for word in few]
    few[1], few[3] = model.genes[3], model.genes[1]
    assert run(*files, "-o", tmp_path / "x.csv", *few) == 0
    whole, table = anndata.read_h5ad(tmp_path / "x.h5ad"), pd.read_csv(tmp_path / "x.csv", index_col="cell")
    expected = sd.normalized_expression(model, adata, library_size=10_000, n_samples=2)
    np.testing.assert_allclose(whole.X, expected, rtol=1e-5)
    assert list(whole.obs["cell_type"]) == list(adata.obs["cell_type"])
    options = dict(gene_list=[few[1], few[3]], transform_batch=few[5], library_size="latent")
    pd.testing.assert_frame_equal(
        table, sd.normalized_expression(model, adata, **options), check_dtype=False, check_names=False, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (["annotate", "query.h5ad", "-o", "x.h5ad"], 2, ["--reference"]),
        (["annotate", "query.h5ad", "-r", "reference.h5ad", "-o", "x.h5ad"], 1, ["labels_key", "'cell_type'"]),
        (["annotate", "query.h5ad", "-r", "model", "-o", "x.h5ad"], 2, ["'scvi'", "scANVI"]),
        (
            ["annotate", "query.h5ad", "-r", "reference.h5ad", "-o", "x.h5ad", "--unknown", "3"],
            2,
            ["--unknown", 3.0, 1],
        ),
        (["map", "query.h5ad", "--model", "nowhere", "-o", "x.h5ad"], 1, ["nowhere"]),
        (["map", "query.h5ad", "--model", "model", "-o", "query.h5ad"], 1, ["query.h5ad"]),
        (["map", "query.h5ad", "--model", "model", "-o", "x.h5ad", "--n-latent", "3"], 2, ["--n-latent"]),
        (["de", "query.h5ad", "--model", "model", "-o", "x.h5ad", "--groupby", "batch"], 1, ["'x.h5ad'", ".csv"]),
        (["de", "reference.h5ad", "--model", "model", "-o", "x.csv", "--groupby", "nowhere"], 1, ["'nowhere'"]),
        (["de", "reference.h5ad", "-m", "model", "-o", "x.csv", "--groupby", "batch", "--mode", "t"], 2, ["--mode"]),
        (["expression", "reference.h5ad", "--model", "model", "-o", "x.csv", "--gene", "nowhere"], 1, ["'nowhere'"]),
        (["expression", "reference.h5ad", "--model", "model", "-o", "x.csv", "--library-size", "big"], 2, ["'big'"]),
    ],
)
def test_failures_say_why_and_leave_nothing(folder, monkeypatch, capsys, arguments, code, names):
    monkeypatch.chdir(folder)
    before = sorted(p.name for p in folder.iterdir())
    assert main(arguments) == code
    assert_named(capsys.readouterr().err, *names)
    assert sorted(p.name for p in folder.iterdir()) == before
