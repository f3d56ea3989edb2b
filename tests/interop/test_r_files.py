"""`scduet convert` from and to R's files: what went in comes out, R itself agrees, and what is missing is said."""

from __future__ import annotations

import subprocess

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from named import assert_named, named
from scipy import sparse

from scduet.cli import main
from scduet.interop import r_files


@pytest.fixture
def cells() -> AnnData:
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(1.0, (30, 8)).astype(np.float32))
    obs = pd.DataFrame(
        {"kind": pd.Categorical(["b", None, "a"] * 10), "maybe": pd.array([1, None, 3] * 10, dtype="Int64")},
        index=[f"cell_{i}" for i in range(30)],
    )
    var = pd.DataFrame({"highly_variable": [i % 2 == 0 for i in range(8)]}, index=[f"gene_{i}" for i in range(8)])
    return AnnData(counts, obs, var, obsm={"X_scVI": rng.normal(size=(30, 3))})


@pytest.mark.parametrize("r", ["host"], indirect=True)
@pytest.mark.filterwarnings("default::scduet.errors.ScduetWarning")
def test_cells_become_a_seurat_object_and_come_back(r, tmp_path, monkeypatch, capsys, cells):
    pytest.importorskip("rdata", reason="rdata is not installed: pip install scduet[r]")
    monkeypatch.setenv("R_LIBS", str(r.shared / "library"))
    source, rds, rda, back = (str(tmp_path / name) for name in ("x.h5ad", "x.rds", "x.rda", "y.h5ad"))
    cells.write_h5ad(source)
    assert main(["convert", source, rds]) == 0
    assert_named(capsys.readouterr().err, 8)  # gene names that Seurat changes
    assert main(["convert", rds, back]) == 0
    found = anndata.read_h5ad(back)
    assert (found.X != cells.X).nnz == 0
    assert list(found.obs_names) == list(cells.obs_names)
    assert list(found.var["original_name"]) == list(cells.var_names)
    assert found.obs["kind"].isna().tolist() == cells.obs["kind"].isna().tolist()
    assert found.obs["maybe"].isna().tolist() == cells.obs["maybe"].isna().tolist()
    np.testing.assert_array_equal(found.obsm["X_scVI"], cells.obsm["X_scVI"])
    assert main(["convert", back, rda, "--name", "mine"]) == 0
    told = r.run(
        f"suppressMessages(library(SeuratObject)); load('{rda}'); o <- readRDS('{rds}')\n"
        "cat(class(o), dim(o), Reductions(o), identical(mine[['scvi']]@cell.embeddings, o[['scvi']]@cell.embeddings))"
    )
    assert told.split() == ["Seurat", "8", "30", "scvi", "TRUE"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.h5ad", "x.rda", "x.rds", "y.h5ad"]


@pytest.mark.parametrize(
    "name",
    [
        "seurat/pbmc_small_seurat_v2.0.0.rda",
        "seurat/pbmc_small_seuratobject_v4.0.0.rda",
        "sce/muscat_example_sce.rda",
        "sce/rds2py_simple_sce.rds",
    ],
)
@pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")
def test_real_files_of_r_become_h5ad_without_r(tmp_path, monkeypatch, real_file, name):
    pytest.importorskip("rdata", reason="rdata is not installed: pip install scduet[r]")
    file = real_file(name)
    from scduet.interop.rds import read_rds

    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["convert", str(file), str(tmp_path / "x.h5ad")]) == 0
    found, expected = anndata.read_h5ad(tmp_path / "x.h5ad"), read_rds(file)
    assert (sparse.csr_matrix(found.X) != sparse.csr_matrix(expected.X)).nnz == 0
    assert sorted(found.obsm) == sorted(expected.obsm)
    assert list(found.obs) == list(expected.obs)


def test_without_r_or_its_package_the_remedy_is_said_before_work_starts(tmp_path, monkeypatch, capsys, cells):
    cells.write_h5ad(tmp_path / "x.h5ad")
    ask = ["convert", str(tmp_path / "x.h5ad"), str(tmp_path / "x.rds")]
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(ask) == 1
    assert_named(capsys.readouterr().err, "R", ".h5ad")
    monkeypatch.setattr(r_files.shutil, "which", lambda name: name)
    monkeypatch.setattr(r_files, "_run", lambda _: subprocess.CompletedProcess([], 0, "hello\nready: TRUE FALSE", ""))
    assert main(ask) == 1
    assert_named(capsys.readouterr().err, "scduet", "R CMD INSTALL r-package")
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5ad"]


def test_a_failure_inside_r_is_told_and_leaves_nothing(tmp_path, monkeypatch, cells):
    failed = subprocess.CompletedProcess([], 1, "", "Loading\nError in `engine()`:\n! No engine.\n")
    monkeypatch.setattr(r_files, "check_r", lambda: None)
    monkeypatch.setattr(r_files, "_run", lambda _: failed)
    with pytest.raises(r_files.FormatError, match=named("No engine.")):
        r_files.write_rds(cells, tmp_path / "x.rds")
    assert list(tmp_path.iterdir()) == []
