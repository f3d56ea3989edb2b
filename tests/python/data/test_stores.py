"""Several files as one data set: the same cells, losses and embeddings as of their concatenation in one file."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from conftest import make_counts
from named import named

import scduet as sd
from scduet.data.schema import on_disk
from scduet.errors import DataError, OptionError
from scduet.events import silent

OPTIONS = {"max_epochs": 2, "n_hidden": 8, "n_latent": 3, "callback": silent}


@pytest.fixture(scope="module")
def whole():
    adata = make_counts(120, 50)
    adata.obsm["twice"] = np.asarray(adata.X.sum(1)) * [1, 2]
    adata.layers["counts"] = adata.X.copy()
    return adata


@pytest.fixture(scope="module")
def files(whole, tmp_path_factory):
    """Three files: genes in another order and some more, dense, and a zarr store."""
    folder = tmp_path_factory.mktemp("stores")
    first, second, third = (whole[rows].copy() for rows in (slice(0, 50), slice(50, 60), slice(60, 120)))
    extra = ad.AnnData(sp.csr_matrix(np.ones((10, 3), np.float32)), second.obs[[]])
    extra.var_names = ["other-1", "other-2", "other-3"]
    more = ad.concat([extra, second[:, ::-1]], axis=1, merge="same")
    more.obs, more.obsm["twice"] = second.obs, second.obsm["twice"]
    more.X, more.layers["counts"] = more.X.toarray(), more.X.copy()
    first.write_h5ad(folder / "first.h5ad")
    more.write_h5ad(folder / "second.h5ad")
    third.write_zarr(folder / "third.zarr")
    return [folder / "first.h5ad", folder / "second.h5ad", folder / "third.zarr"]


def test_rows_and_columns_are_those_of_the_whole(whole, files):
    cells = on_disk([str(path) for path in files])
    assert list(cells.obs_names) == list(whole.obs_names)
    assert list(cells.var_names) == list(whole.var_names)
    assert cells.obs["store"].tolist() == ["first"] * 50 + ["second"] * 10 + ["third"] * 60
    rows = np.array([119, 3, 55, 0, 60, 55])
    for place, expected in (("X", whole.X), ("layers/counts", whole.X)):
        found = cells.stored(place)
        np.testing.assert_array_equal(found.rows(rows).toarray(), expected[rows].toarray())
        pieces = [piece for _, piece in found.pieces()]
        np.testing.assert_array_equal(sp.vstack(pieces).toarray(), expected.toarray())
        np.testing.assert_allclose(found.totals(), np.asarray(expected.sum(1)).ravel())


def test_training_is_as_on_one_file(whole, files, tmp_path):
    whole.write_h5ad(tmp_path / "whole.h5ad")
    options = {**OPTIONS, "batch_key": "batch", "shuffle_block": 8, "seed": 0}
    one, several = (sd.fit(data, **options) for data in (str(tmp_path / "whole.h5ad"), files))
    pd.testing.assert_frame_equal(*(m.history.drop(columns="seconds") for m in (one, several)), rtol=1e-5)
    np.testing.assert_allclose(one.embed(), several.embed(), atol=1e-5)
    np.testing.assert_allclose(several.embed(whole), several.embed(files), atol=1e-5)


def test_the_file_is_a_batch(files):
    assert sd.fit(files, batch_key="store", **OPTIONS).schema.levels["store"] == ("first", "second", "third")


def test_barcodes_of_several_files_get_the_number_of_the_file(files):
    cells = on_disk([files[0], files[0]])
    assert cells.obs_names.is_unique
    assert cells.obs_names[0].endswith("-0")
    assert cells.obs["store"].iloc[[0, -1]].tolist() == ["first-0", "first-1"]


def test_a_collection_of_annbatch_is_one_data_set(whole, tmp_path):
    """Its layout: AnnData in the groups dataset_0, dataset_1, ... of a zarr store."""
    root = zarr.open_group(str(tmp_path / "collection"), mode="w")
    for number, rows in ((0, slice(0, 70)), (10, slice(110, 120)), (2, slice(70, 110))):
        ad.io.write_elem(root, f"dataset_{number}", whole[rows].copy())
    cells = on_disk(tmp_path / "collection")
    assert list(cells.obs_names) == list(whole.obs_names)
    np.testing.assert_array_equal(cells.stored("X").rows(np.arange(120)).toarray(), whole.X.toarray())


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_files_are_known_by_their_content(whole, tmp_path, kind):
    getattr(whole, f"write_{kind}")(tmp_path / f"cells.{kind}")
    (tmp_path / f"cells.{kind}").rename(tmp_path / "download")
    assert on_disk(tmp_path / "download").n_obs == 120


def test_bad_input_is_named(whole, files, tmp_path):
    other = whole[:, :3].copy()
    other.var_names = ["a", "b", "c"]
    other.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(DataError, match=named("other.h5ad")):
        on_disk([files[0], tmp_path / "other.h5ad"])
    with pytest.raises(DataError, match=named("missing.h5ad")):
        sd.fit([files[0], "missing.h5ad"])
    with pytest.raises(OptionError):
        on_disk([])
    with pytest.raises(DataError, match=named("AnnData")):
        on_disk([whole, whole])
    (tmp_path / "notes.txt").write_text("no cells")
    with pytest.raises(DataError, match=named("notes.txt")):
        on_disk([tmp_path / "notes.txt"])
