"""Files for cellxgene and Vitessce hold what their documentation asks for."""

import re

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from conftest import make_counts
from named import named

import scduet as sd
from scduet.cli import main
from scduet.errors import DataError, FormatError, ScduetWarning


@pytest.fixture
def cells():
    adata = make_counts(80, 30)
    adata.obs["good"] = np.arange(80) % 2 == 0
    adata.obs["donor"] = pd.Series([f"d{i % 3}" for i in range(80)], index=adata.obs_names, dtype="string")
    adata.obs["size"] = np.where(np.arange(80) > 2, np.arange(80), np.nan)
    adata.var["symbol"] = ["ACTB", "ACTB", None, *(f"S{i}" for i in range(27))]
    adata.obsm["X_scVI"] = np.random.default_rng(0).normal(size=(80, 4))
    return adata


def meets_what_browsers_ask(found):
    assert isinstance(found.X, sp.csr_matrix)
    assert found.X.dtype == np.float32
    assert found.obs_names.is_unique
    assert found.var_names.is_unique
    for key, points in found.obsm.items():
        assert key.startswith("X_")
        assert points.dtype == np.float32
        assert points.shape[1] >= 2
        assert np.isfinite(points).all()
    assert found.obsm["X_umap"].shape == (found.n_obs, 2)
    for key in found.obs:
        numeric = pd.api.types.is_numeric_dtype(found.obs[key])
        assert numeric or isinstance(found.obs[key].dtype, pd.CategoricalDtype), key
        if not numeric:
            colors = list(found.uns[f"{key}_colors"])
            assert len(colors) == len(found.obs[key].cat.categories) == len(set(colors))
            assert all(re.fullmatch("#[0-9a-fA-F]{6}", color) for color in colors)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_the_file_holds_what_browsers_ask_for(cells, tmp_path, kind):
    before = cells.copy()
    sd.export_viewer(cells, tmp_path / f"cells.{kind}", gene_symbols="symbol")
    found = getattr(anndata, f"read_{kind}")(tmp_path / f"cells.{kind}")
    meets_what_browsers_ask(found)
    assert {"X_umap", "X_scVI"} <= set(found.obsm)
    assert list(found.var_names[:4]) == ["ACTB", "ACTB-1", cells.var_names[2], "S0"]
    assert list(found.obs["good"].cat.categories) == ["False", "True"]
    counts = cells.X.toarray()
    np.testing.assert_allclose(
        found.X.toarray(), np.log1p(counts / counts.sum(1, keepdims=True) * 1e4), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(found.layers["counts"].toarray(), counts)
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    assert set(cells.obsm) == {"X_scVI"}
    if kind == "zarr":
        assert zarr.open_group(str(tmp_path / "cells.zarr"), mode="r").metadata.zarr_format == 2


def test_what_is_there_is_kept(cells, tmp_path):
    cells.X = cells.X.log1p()
    cells.obsm["X_umap"] = np.random.default_rng(1).normal(size=(80, 2))
    cells.obs["donor"] = cells.obs["donor"].astype("category")
    cells.uns["donor_colors"] = ["#000000", "#111111", "#222222"]
    found = sd.export_viewer(cells, tmp_path / "cells.h5ad", columns=["donor"])
    meets_what_browsers_ask(found)
    np.testing.assert_allclose(found.obsm["X_umap"], cells.obsm["X_umap"], rtol=1e-6)
    np.testing.assert_allclose(found.X.toarray(), cells.X.toarray())
    assert list(found.obs) == ["donor"]
    assert list(found.uns["donor_colors"]) == cells.uns["donor_colors"]
    again = sd.export_viewer(cells, tmp_path / "cells.h5ad", embedding="X_scVI", overwrite=True)
    assert not np.allclose(again.obsm["X_umap"], cells.obsm["X_umap"])


def test_columns_that_no_browser_shows_are_named(cells, tmp_path):
    cells.obs["reads"] = [[i] for i in range(80)]
    with pytest.warns(ScduetWarning, match=named("'reads'")):
        found = sd.export_viewer(cells, tmp_path / "cells.h5ad")
    assert "reads" not in found.obs


def test_errors_name_what_is_missing(cells, tmp_path):
    path = tmp_path / "cells.h5ad"
    for option, value in {"embedding": "X_no", "columns": ["no"], "gene_symbols": "no"}.items():
        with pytest.raises(DataError, match=named("X_no" if option == "embedding" else "no")):
            sd.export_viewer(cells, path, **{option: value})
    with pytest.raises(FormatError, match=named("cells.csv")):
        sd.export_viewer(cells, tmp_path / "cells.csv")
    cells.obsm["X_scVI"][3, 0] = np.nan
    with pytest.raises(DataError, match=named(cells.obs_names[3])):
        sd.export_viewer(cells, path)
    del cells.obsm["X_scVI"]
    with pytest.raises(DataError, match=named("embedding")):
        sd.export_viewer(cells, path)
    assert not path.exists()


def test_command(cells, tmp_path, capsys):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    arguments = ["--output", str(tmp_path / "out.h5ad"), "--column", "batch", "--gene-symbols", "symbol"]
    assert main(["export-viewer", str(tmp_path / "cells.h5ad"), *arguments]) == 0
    assert "X_umap" in capsys.readouterr().out
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    meets_what_browsers_ask(found)
    assert list(found.obs) == ["batch"]
