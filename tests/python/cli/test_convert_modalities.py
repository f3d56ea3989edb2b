"""A .h5mu from other files and back: the same counts by modality, cells that lack one, and losses named."""

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from named import assert_named, named

import scduet as sd
from scduet.cli import main
from scduet.data.simulate import simulate
from scduet.errors import DataError, FormatError, ScduetWarning
from scduet.interop import objects

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture
def adata():
    """RNA, proteins that ten cells lack and one more cell lacks one of, sparse peaks, and an embedding."""
    adata, draw = simulate(40, 20, seed=4), np.random.default_rng(0)
    proteins = pd.DataFrame(draw.poisson(9, (40, 3)).astype(np.float32), adata.obs_names, ["CD3", "CD4", "CD8"])
    proteins.iloc[:10] = np.nan
    proteins.iloc[20, 1] = np.nan
    adata.obsm["protein"] = proteins
    adata.obsm["atac"] = sp.random(40, 1200, 0.03, "csr", np.float32, 0, lambda n: draw.integers(1, 5, n))
    adata.uns["atac_names"] = np.array([f"chr1-{i}-{i + 50}" for i in range(1200)])
    adata.obsm["X_pca"] = draw.normal(size=(40, 2))
    adata.obsm["score"] = pd.DataFrame({"a": draw.random(40)}, adata.obs_names)  # no counts
    adata.layers["counts"] = adata.X.copy()
    return adata


def test_there_and_back(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    made = sd.convert(tmp_path / "a.h5ad", tmp_path / "b.h5mu")
    assert set(made.mod) == {"rna", "protein", "atac"}
    written = mudata.read_h5mu(tmp_path / "b.h5mu")
    assert list(written["protein"].obs_names) == list(adata.obs_names[10:]), "the others lack it"
    assert np.isnan(written["protein"].X[10, 1])
    assert abs(written["atac"].X - adata.obsm["atac"]).nnz == 0
    assert (written["rna"].layers["counts"] != adata.X).nnz == 0
    assert {"X_pca", "score"} == set(written["rna"].obsm)
    assert set(adata.obs) <= set(written.obs)
    back = sd.convert(tmp_path / "b.h5mu", tmp_path / "c.zarr")
    for found in (back, anndata.read_zarr(tmp_path / "c.zarr")):
        pd.testing.assert_frame_equal(found.obsm["protein"], adata.obsm["protein"])
        assert (found.obsm["atac"] != adata.obsm["atac"]).nnz == 0
        assert list(found.uns["atac_names"]) == list(adata.uns["atac_names"])
        assert (found.X != adata.X).nnz == 0
        np.testing.assert_array_equal(found.obsm["X_pca"], adata.obsm["X_pca"])
        pd.testing.assert_frame_equal(found.obs[list(adata.obs)], adata.obs)


def test_r_reads_modalities_as_assays(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    sd.convert(tmp_path / "a.h5ad", tmp_path / "b.h5mu")
    found = objects.contents(objects.read_h5ad(str(tmp_path / "b.h5mu")))
    assert list(found["features"]["protein"]) == list(adata.obsm["protein"])
    assert len(found["features"]["atac"]) == 1200


def test_kinds_of_features_are_modalities(adata, tmp_path):
    adata.var["feature_types"] = ["Gene Expression"] * 15 + ["Antibody Capture"] * 5
    adata.write_h5ad(tmp_path / "a.h5ad")
    made = sd.convert(tmp_path / "a.h5ad", tmp_path / "b.h5mu")
    assert set(made.mod) == {"rna", "prot", "protein", "atac"}
    assert abs(made["prot"].X - adata.X[:, 15:]).nnz == 0
    assert list(made["prot"].obs) == list(made["prot"].obsm) == []


def test_what_an_anndata_has_no_place_for_is_named(adata, tmp_path):
    rna = adata[:30].copy()
    prot = anndata.AnnData(np.ones((20, 2), np.float32), pd.DataFrame({"hto": "A"}, adata.obs_names[20:]))
    prot.var_names, prot.layers["clr"], prot.var["clone"] = ["CD3", "CD4"], prot.X / 2, "x"
    mudata.MuData({"rna": rna, "prot": prot}).write(tmp_path / "a.h5mu")
    with pytest.warns(ScduetWarning, match=named("'prot'", "'clr'", "'clone'", 10, adata.obs_names[30])):
        found = sd.convert(tmp_path / "a.h5mu", tmp_path / "b.h5ad")
    assert list(found.obs_names) == list(rna.obs_names)
    assert found.obsm["prot"].notna().all(axis=1).sum() == 10
    assert (found.obs["prot:hto"].notna() == found.obsm["prot"]["CD3"].notna()).all()


def test_bad_input_is_named(adata, tmp_path, capsys):
    parts = {"gex": adata[:, :5].copy(), "adt": adata[:, 5:].copy()}
    mudata.MuData(parts).write(tmp_path / "a.h5mu")
    with pytest.raises(DataError, match=named("'gex'", "'adt'", "'rna'")):
        sd.convert(tmp_path / "a.h5mu", tmp_path / "b.h5ad")
    with pytest.raises(FormatError, match=named("b.h5")):
        sd.convert(tmp_path / "a.h5mu", tmp_path / "b.h5")
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert main(["convert", str(tmp_path / "a.h5ad"), str(tmp_path / "c.h5mu")]) == 0
    assert_named(capsys.readouterr().out, "rna", "protein", 40, 20, 1200)
    assert main(["convert", str(tmp_path / "a.h5ad"), str(tmp_path / "c.h5mu")]) == 1
    assert "c.h5mu" in capsys.readouterr().err


def test_objects_of_several_experiments_are_joined_with_what_they_lack_not_measured(adata):
    """As anndata.concat(join="outer") does: in cells without proteins none of them was measured."""
    cite, rna = adata[10:].copy(), adata[:10].copy()
    del rna.obsm["protein"]
    both = anndata.concat({"cite": cite, "rna": rna}, join="outer", label="run", index_unique="-")
    model = sd.fit(both, "totalvi", protein_key="protein", max_epochs=1, n_hidden=8, callback=lambda event: None)
    counts = model.encode().extra["protein"].rows(np.arange(40))
    assert np.isnan(counts[30:]).all()
    np.testing.assert_array_equal(counts[:30], adata.obsm["protein"].to_numpy()[10:])
