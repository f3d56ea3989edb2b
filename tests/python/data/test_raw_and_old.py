"""Counts in `raw`, and files of anndata 0.6: the same cells as from X of a file of today."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from named import assert_named, named

import scduet as sd
from scduet.cli import main
from scduet.data.locate import locate
from scduet.data.on_disk import opened
from scduet.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")


@pytest.fixture
def counts() -> ad.AnnData:
    rng = np.random.default_rng(0)
    x = sp.csr_matrix(rng.poisson(2, (150, 30)).astype(np.float32))
    obs = pd.DataFrame({"batch": ["a", "b"] * 75, "kind": ["u", "v", "w"] * 50}, [f"c{i}" for i in range(150)])
    return ad.AnnData(
        x, obs, pd.DataFrame({"highly_variable": [i < 12 for i in range(30)]}, [f"g{i}" for i in range(30)])
    )


@pytest.fixture
def logged(counts) -> ad.AnnData:
    """As scanpy and CELLxGENE leave it: X normalized, of some genes; counts in raw, of all."""
    adata = counts[:, ::-1][:, 10:].copy()
    adata.X = adata.X.log1p()
    adata.raw = counts[:, counts.var_names].copy()
    return adata


def test_a_model_of_raw_is_that_of_the_counts(counts, logged, tmp_path):
    options = {"batch_key": "batch", "max_epochs": 1, "n_latent": 3}
    expected = sd.fit(counts, "scvi", **options).embed()
    model = sd.fit(logged, "scvi", layer="raw", **options)
    assert model.genes == [f"g{i}" for i in range(12)]
    np.testing.assert_array_equal(model.embed(), expected)
    logged.write_h5ad(tmp_path / "x.h5ad")
    np.testing.assert_array_equal(model.embed(tmp_path / "x.h5ad"), expected)
    for cells in (tmp_path / "x.h5ad", ad.read_h5ad(tmp_path / "x.h5ad", backed="r")):
        np.testing.assert_array_equal(locate(opened(cells), "raw/X").values.totals(), counts.X.sum(1).A1)
    args = ["--layer", "raw", "--batch-key", "batch", "--max-epochs", "1", "--n-latent", "3", "--quiet"]
    assert main(["fit", str(tmp_path / "x.h5ad"), "--output", str(tmp_path / "model"), *args]) == 0
    np.testing.assert_array_equal(sd.load(tmp_path / "model").embed(logged), expected)


def test_what_stands_beside_a_model_takes_raw_too(counts, logged):
    from scduet.tasks.quality.baselines import unintegrated_pca

    np.testing.assert_allclose(unintegrated_pca(logged, "raw"), unintegrated_pca(counts))
    logged.obsm["X_scVI"] = counts.obsm["X_scVI"] = np.asarray(unintegrated_pca(counts))[:, :3]
    where = {"batch_key": "batch", "labels_key": "kind", "metrics": ["nmi_kmeans", "cell_cycle"]}
    raw, plain = sd.score(logged, "X_scVI", layer="raw", **where), sd.score(counts, "X_scVI", **where)
    pd.testing.assert_frame_equal(pd.DataFrame(raw), pd.DataFrame(plain))
    some = {"labels_key": "kind", "max_epochs": 1, "seed": 3}
    told = sd.annotate(logged.copy(), logged, layer="raw", **some), sd.annotate(counts.copy(), counts, **some)
    pd.testing.assert_frame_equal(pd.DataFrame(told[0]), pd.DataFrame(told[1]))


def test_a_refusal_says_where_whole_numbers_are(counts, logged, tmp_path, capsys):
    with pytest.raises(DataError, match=named("layer='raw'")):
        sd.fit(logged, "scvi", max_epochs=1)
    logged.write_h5ad(tmp_path / "x.h5ad")
    assert main(["fit", str(tmp_path / "x.h5ad"), "--output", str(tmp_path / "m"), "--quiet"]) == 1
    assert_named(capsys.readouterr().err, "--layer")
    adata = counts.copy()
    adata.layers["umis"], adata.X = adata.X.copy(), adata.X.log1p()
    with pytest.raises(DataError, match=named("layer='umis'")):
        sd.fit(adata, "scvi", max_epochs=1)
    with pytest.raises(DataError, match=named("raw")):
        sd.fit(adata, "scvi", layer="raw", max_epochs=1)


def test_a_layer_called_raw_comes_first(counts):
    counts.layers["raw"] = counts.X * 2
    assert locate(counts, "layers/raw").values.sum() == sd.fit(counts, "scvi", layer="raw", max_epochs=1).schema.totals(
        counts
    ).sum()  # fmt: skip


def write_like_0_6(adata: ad.AnnData, path) -> None:
    """The layout of anndata 0.6.22: tables are arrays of records, categories are in uns, sparse says h5sparse."""

    def sparse(root, name, matrix):
        group = root.create_group(name)
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", matrix.shape
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(matrix, part)

    def table(root, name, frame):
        text = h5py.special_dtype(vlen=str)
        kinds = [("index", text)]
        columns = {"index": frame.index.to_numpy(object)}
        for column, values in frame.items():
            if isinstance(values.dtype, pd.CategoricalDtype):
                root[f"uns/{column}_categories"] = values.cat.categories.to_numpy(object)
                values = values.cat.codes
            columns[column] = values.to_numpy()
            kinds.append((column, values.to_numpy().dtype if pd.api.types.is_numeric_dtype(values) else text))
        records = np.empty(len(frame), kinds)
        for column, values in columns.items():
            records[column] = values
        root[name] = records

    with h5py.File(path, "w") as root:
        root.create_group("uns")
        sparse(root, "X", adata.X)
        sparse(root, "raw.X", adata.raw.X)
        table(root, "obs", adata.obs)
        table(root, "var", adata.var)
        table(root, "raw.var", adata.raw.var)


def test_a_file_of_anndata_0_6_is_a_path_like_others(counts, tmp_path):
    counts.obs["kind"] = pd.Categorical(counts.obs["kind"].where(np.arange(150) > 3), categories=["w", "v", "u"])
    counts.obs["n"] = np.arange(150)
    counts.raw = counts.copy()
    write_like_0_6(counts, tmp_path / "old.h5ad")
    there = ad.read_h5ad(tmp_path / "old.h5ad")  # anndata reads it so
    here = opened(tmp_path / "old.h5ad")
    pd.testing.assert_frame_equal(here.obs, there.obs, check_names=False)
    pd.testing.assert_frame_equal(here.obs, counts.obs)
    pd.testing.assert_frame_equal(here.var, counts.var)
    for place in ("X", "raw"):
        rows = locate(here, place).values.rows(np.array([3, 149, 0])).toarray()
        np.testing.assert_array_equal(rows, counts.X[[3, 149, 0]].toarray())
    model = sd.fit(counts, "scvi", batch_key="batch", max_epochs=1, n_latent=3)
    np.testing.assert_array_equal(model.embed(tmp_path / "old.h5ad"), model.embed())
    sd.fit(tmp_path / "old.h5ad", "scvi", batch_key="batch", max_epochs=1, n_latent=3)


def test_old_files_of_others_are_read_as_anndata_reads_them():
    from interop.conftest import DATA

    files = sorted((DATA / "h5ad_legacy").glob("*.h5ad"))
    if not files:
        pytest.skip("there is no ../shared/data")
    for file in files:
        here, there = opened(file), ad.read_h5ad(file)
        pd.testing.assert_frame_equal(here.obs, there.obs)
        source = here.stored("X")
        x = there.X.toarray() if sp.issparse(there.X) else there.X
        np.testing.assert_array_equal(source.rows(np.arange(source.n_cells)).toarray(), x.astype(np.float32))
