"""Weighted neighbors: the embedding that knows more weighs more, and scanpy takes the graph; bad input is named."""

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from named import assert_named, named

import scduet as sd
from scduet.cli import main
from scduet.errors import DataError, OptionError
from scduet.metrics.core.neighbors import nearest_neighbors

REPRESENTATIONS = ("X_pca", "X_apca")


CENTERS = np.array([[6, 0], [-6, 0], [0, 6], [0, 6]])


@pytest.fixture
def adata():
    """Four types: the first embedding tells the first two from each other, the second the last two."""
    draw = np.random.default_rng(0)
    kind = np.arange(240) % 4
    made = anndata.AnnData(np.ones((240, 3), np.float32))
    made.obs["kind"] = kind.astype(str)
    made.obsm["X_pca"] = np.c_[CENTERS[kind], np.zeros((240, 3))] + draw.normal(size=(240, 5))
    made.obsm["X_apca"] = np.c_[CENTERS[3 - kind], np.zeros((240, 2))] + draw.normal(size=(240, 4))
    return made


def share_of_kind(adata, index):
    kind = adata.obs["kind"].to_numpy()
    return (kind[index] == kind[:, None]).mean()


def test_both_embeddings_tell_types_that_neither_tells(adata):
    weights = sd.weighted_neighbors(adata, REPRESENTATIONS, n_neighbors=10, n_candidates=60)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert list(weights.columns) == list(REPRESENTATIONS)
    assert share_of_kind(adata, adata.obsp["wnn_distances"].indices.reshape(240, 10)) > 0.95
    for name in REPRESENTATIONS:
        assert share_of_kind(adata, nearest_neighbors(adata.obsm[name], 11).index) < 0.8
    told_by_first = adata.obs["kind"].isin(["0", "1"]).to_numpy()
    assert weights["X_pca"][told_by_first].mean() > 0.75
    assert weights["X_pca"][~told_by_first].mean() < 0.25


def test_scanpy_takes_the_graph(adata):
    sd.weighted_neighbors(adata, REPRESENTATIONS)
    sc.tl.leiden(adata, neighbors_key="wnn", flavor="igraph", n_iterations=2)
    assert (pd.crosstab(adata.obs["leiden"], adata.obs["kind"]).max(1).sum()) > 230
    connectivities = adata.obsp["wnn_connectivities"]
    np.testing.assert_allclose(connectivities.toarray(), connectivities.T.toarray())
    assert (np.diff(adata.obsp["wnn_distances"].indptr) == 20).all()


def test_scale_and_order_of_cells_do_not_matter(adata):
    weights = sd.weighted_neighbors(adata, REPRESENTATIONS)
    order = np.random.default_rng(1).permutation(240)
    other = adata[order].copy()
    other.obsm["X_pca"] = 100 * other.obsm["X_pca"]
    again = sd.weighted_neighbors(other, REPRESENTATIONS)
    np.testing.assert_allclose(again.loc[weights.index], weights, rtol=1e-6)
    np.testing.assert_allclose(
        other.obsp["wnn_distances"].toarray(), adata.obsp["wnn_distances"].toarray()[np.ix_(order, order)], atol=1e-6
    )


def test_modalities_of_a_mudata_with_their_cells_in_any_order(adata):
    rna, prot = adata.copy(), adata[::-1].copy()
    del rna.obsm["X_apca"], prot.obsm["X_pca"]
    mdata = mudata.MuData({"rna": rna, "prot": prot})
    found = sd.weighted_neighbors(mdata, ["mod/rna/obsm/X_pca", "mod/prot/obsm/X_apca"])
    expected = sd.weighted_neighbors(adata, REPRESENTATIONS)
    np.testing.assert_allclose(found.loc[expected.index], expected, rtol=1e-9)
    lacking = mudata.MuData({"rna": rna, "prot": prot[10:].copy()})
    with pytest.raises(DataError, match=named("mod['prot']", 10)):
        sd.weighted_neighbors(lacking, ["mod/rna/obsm/X_pca", "mod/prot/obsm/X_apca"])


def test_bad_input_is_named(adata):
    with pytest.raises(OptionError, match=named("representations", "X_pca")):
        sd.weighted_neighbors(adata, "X_pca")
    with pytest.raises(DataError, match=named("X_lsi", "obsm")):
        sd.weighted_neighbors(adata, ["X_pca", "X_lsi"])
    with pytest.raises(OptionError, match=named("'n_neighbors'", 0)):
        sd.weighted_neighbors(adata, REPRESENTATIONS, n_neighbors=0)
    adata.obsm["X_apca"][7, 1] = np.nan
    with pytest.raises(DataError, match=named("X_apca", 1, "7")):
        sd.weighted_neighbors(adata, REPRESENTATIONS)
    adata.obsm["X_apca"][:] = 1
    with pytest.raises(DataError, match=named("X_apca")):
        sd.weighted_neighbors(adata, REPRESENTATIONS)


def test_the_command_writes_the_graph(adata, tmp_path, capsys):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    cells, out = str(tmp_path / "cells.h5ad"), str(tmp_path / "out.h5ad")
    assert main(["weighted-neighbors", cells, "-o", out, "-e", "X_pca,X_apca", "--n-neighbors", "9"]) == 0
    assert_named(capsys.readouterr().out, "X_pca", "X_apca")
    sd.weighted_neighbors(adata, REPRESENTATIONS, n_neighbors=9)
    written = anndata.read_h5ad(out).obsp["wnn_distances"]
    np.testing.assert_allclose(written.toarray(), adata.obsp["wnn_distances"].toarray())
    assert main(["weighted-neighbors", cells, "-o", out, "--overwrite", "-e", "X_pca"]) == 2
