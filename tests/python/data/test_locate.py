"""Every place gives the matrix that is there, with its names, in every container."""

from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from conftest import make_counts
from named import named

from scduet.contract import Input
from scduet.data.device_cache import device_cache
from scduet.data.loader import minibatches
from scduet.data.locate import locate, locate_main, resolve
from scduet.data.on_disk import FileSource
from scduet.data.schema import Fields, Schema, on_disk
from scduet.data.sources import gathered
from scduet.errors import DataError, OptionError, ScduetWarning

mudata = pytest.importorskip("mudata")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def adata(counts):
    counts.layers["spliced"] = counts.X * 2
    counts.obsm["dense"] = np.arange(400, dtype=np.float32).reshape(200, 2)
    counts.obsm["frame"] = pd.DataFrame(counts.obsm["dense"] + 1, counts.obs_names, ["a", "b"])
    counts.obsm["peaks"] = sp.random(200, 7, 0.3, format="csr", dtype=np.float32, random_state=0)
    counts.uns["peaks_names"] = np.array([f"chr1:{i}" for i in range(7)])
    counts.varm["programs"] = pd.DataFrame(np.eye(60, 4), counts.var_names, list("wxyz"))
    counts.varp["graph"] = sp.eye(60, format="csr")
    counts.obsp["near"] = sp.random(200, 200, 0.05, format="csr", dtype=np.float32, random_state=1)
    counts.var["kind"] = np.where(np.arange(60) < 50, "RNA", "Peaks")
    return counts


def whole(found):
    values = gathered(found.values) if hasattr(found.values, "rows") else found.numbers
    return values.toarray() if sp.issparse(values) else np.asarray(values)


def containers(adata, folder):
    adata.write_h5ad(folder / "a.h5ad")
    adata.write_zarr(folder / "a.zarr")
    mdata = mudata.MuData({"rna": adata, "other": make_counts(200, 5, seed=2)})
    mdata.write_h5mu(folder / "a.h5mu")
    return {
        "memory": (adata, ""),
        "h5ad": (on_disk(folder / "a.h5ad"), ""),
        "zarr": (on_disk(folder / "a.zarr"), ""),
        "MuData": (mdata, "mod/rna/"),
        "h5mu": (on_disk(folder / "a.h5mu"), "mod/rna/"),
    }


@pytest.mark.parametrize("where", ["memory", "h5ad", "zarr", "MuData", "h5mu"])
def test_every_place_in_every_container(adata, tmp_path, where):
    data, prefix = containers(adata, tmp_path)[where]
    genes, x = list(adata.var_names), adata.X.toarray()
    expected = {
        "X": (x, genes),
        "layers/spliced": (2 * x, genes),
        "obsm/dense": (adata.obsm["dense"], None),
        "obsm/frame": (adata.obsm["frame"].to_numpy(), ["a", "b"]),
        "obsm/peaks": (adata.obsm["peaks"].toarray(), [f"chr1:{i}" for i in range(7)]),
        "varm/programs": (np.eye(60, 4), list("wxyz")),
        "varp/graph": (np.eye(60), genes),
        "obsp/near": (adata.obsp["near"].toarray(), list(adata.obs_names)),
        "var/kind=Peaks": (x[:, 50:], genes[50:]),
    }
    for place, (values, names) in expected.items():
        found = locate(data, prefix + place)
        assert np.allclose(whole(found), values), place
        assert names is None if found.names is None else list(found.names) == names
    assert np.array_equal(whole(locate_main(data, None)), x)
    assert np.array_equal(whole(locate_main(data, "spliced")), 2 * x)


def test_a_bare_name_is_looked_up_in_the_order_of_the_input(adata):
    adata.layers["dense"] = adata.X
    assert resolve(adata, "dense", Input("key")) == "obsm/dense"
    assert resolve(adata, "dense", Input("key", look_in=("layers", "obsm"))) == "layers/dense"
    mdata = mudata.MuData({"rna": adata, "prot": make_counts(200, 5)})
    assert resolve(mdata, "prot", Input("key")) == "mod/prot"  # though obsm["prot"] says which cells have it
    mdata.obsm["extra"] = np.zeros((200, 2))
    with pytest.raises(DataError, match=r"obsm\['protien'\].*\['extra'\].*\['rna', 'prot'\]"):
        resolve(mdata, "protien", Input("key"))


def encoded(data, inputs, fields, expects="counts"):
    schema = Schema.learn(data, fields, expects, inputs)
    return schema, schema.encode(data)


class Keys(Fields):
    protein_key = "prot"


def two_modalities(order=None):
    rna = make_counts(200, 60)
    draw = np.random.default_rng(0).permutation(200)
    prot = make_counts(200, 5, seed=3)[draw if order is None else order].copy()
    prot.obs = prot.obs[[]]
    return rna, prot


def test_cells_of_modalities_are_matched_by_name():
    rna, prot = two_modalities()
    _, cells = encoded(mudata.MuData({"rna": rna, "prot": prot}), {"protein": Input("protein_key")}, Keys())
    found = gathered(cells.extra["protein"])
    assert np.array_equal(found, prot[rna.obs_names].X.toarray())
    assert np.array_equal(gathered(cells.counts).toarray(), rna.X.toarray())


def test_cells_that_a_modality_lacks_are_refused_or_marked():
    rna, prot = two_modalities(np.arange(50, 200))
    mdata = mudata.MuData({"rna": rna, "prot": prot})
    with pytest.raises(DataError, match=r"50 cells .*prot"):
        encoded(mdata, {"protein": Input("protein_key")}, Keys())
    here = mdata.obs_names.isin(prot.obs_names)
    _, cells = encoded(mdata, {"protein": Input("protein_key", may_miss=True)}, Keys())
    assert np.array_equal(cells.measured["protein"], here)
    assert np.array_equal(np.isnan(gathered(cells.extra["protein"])).all(1), ~here)
    _, cells = encoded(mdata, {"protein": Input("protein_key", may_miss=True, sparse=True)}, Keys())
    assert np.array_equal(cells.measured["protein"], here)
    batch = next(iter(minibatches(cells, np.arange(200), 200)))
    assert np.array_equal(batch.measured["protein"].numpy(), here)
    assert (batch.extra["protein"].sum().numpy()[~here] == 0).all()
    first = mudata.MuData({"rna": prot, "prot": rna})  # the main matrix may lack cells too
    _, cells = encoded(
        first, {"x": Input("layer", sparse=True, may_miss=True), "protein": Input("protein_key")}, Keys()
    )
    assert np.array_equal(cells.measured["x"], first.obs_names.isin(prot.obs_names))
    with pytest.raises(DataError, match="50 cells"):
        encoded(first, {"protein": Input("protein_key")}, Keys())


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("cells", ["the same", "in another order", "only some"])
def test_modalities_on_disk_are_as_in_memory(cells, sparse, tmp_path, monkeypatch):
    monkeypatch.setattr(FileSource, "entries_at_once", 600)
    which = {"the same": np.arange(200), "in another order": None, "only some": np.r_[150:199, 20:80]}[cells]
    mdata = mudata.MuData(dict(zip(("rna", "prot"), two_modalities(which), strict=True)))
    mdata.write_h5mu(tmp_path / "a.h5mu")
    wants = {"protein": Input("protein_key", sparse=sparse, may_miss=True)}
    (_, there), (_, here) = (encoded(data, wants, Keys()) for data in (tmp_path / "a.h5mu", mdata))
    assert np.array_equal(there.extra["protein"].totals(), here.extra["protein"].totals())
    for measured in (there.measured, here.measured):
        assert ("protein" in measured) == (cells == "only some")
    order = np.random.default_rng(0).permutation(200)[:90]
    for batch, other in zip(minibatches(there, order, 32), minibatches(here, order, 32), strict=True):
        assert torch.equal(batch.x.dense(), other.x.dense())
        one, two = batch.extra["protein"], other.extra["protein"]
        assert torch.equal(one.dense(), two.dense()) if sparse else torch.equal(one.nan_to_num(-1), two.nan_to_num(-1))
    if cells == "only some":
        with pytest.raises(DataError, match=named(91, "mod['prot']")):
            encoded(tmp_path / "a.h5mu", {"protein": Input("protein_key")}, Keys())


def test_a_modality_in_another_order_whose_file_changes_is_refused(tmp_path):
    mudata.MuData(dict(zip(("rna", "prot"), two_modalities(), strict=True))).write_h5mu(tmp_path / "a.h5mu")
    _, cells = encoded(tmp_path / "a.h5mu", {"protein": Input("protein_key")}, Keys())
    with h5py.File(tmp_path / "a.h5mu", "r+") as file:
        file["mod/prot/X/data"][:] = file["mod/prot/X/data"][:] + 1
    with pytest.raises(DataError, match=named(tmp_path / "a.h5mu")):
        gathered(cells.extra["protein"])


def test_an_input_in_a_file_beside_a_matrix_in_memory(adata, tmp_path):
    """A backed AnnData has X on disk and obsm in memory."""
    import anndata

    class Peaks(Fields):
        peak_key = "peaks"

    adata.write_h5ad(tmp_path / "a.h5ad")
    wants = {"peaks": Input("peak_key", values="any", sparse=True)}
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    found = [gathered(encoded(data, wants, Peaks())[1].extra["peaks"]) for data in (backed, tmp_path / "a.h5ad", adata)]
    assert all((one != adata.obsm["peaks"]).nnz == 0 for one in found)


def test_a_dense_main_matrix_stays_dense(adata):
    adata.X = adata.X.toarray()
    schema, cells = encoded(adata, {"x": Input("layer")}, Fields(genes=tuple(f"gene{i}" for i in range(49, -1, -1))))
    batch = next(iter(minibatches(cells, np.arange(200), 64)))
    assert torch.equal(batch.x, torch.tensor(adata.X[:64, 49::-1].copy()))
    assert len(batch) == 64
    sparse = Schema.learn(adata, schema.fields).encode(adata)
    assert torch.equal(next(iter(minibatches(sparse, np.arange(200), 64))).x.dense(), batch.x)


def test_binary_values_are_checked_sparse_and_dense(adata):
    for matrix in (adata.X, adata.X.toarray()):
        adata.X = matrix
        with pytest.raises(DataError, match=r"not 0 and 1.*'cell"):
            encoded(adata, None, Fields(), "binary")
        adata.X = (matrix > 0).astype(np.float32)
        encoded(adata, {"x": Input("layer")}, Fields(), "binary")


def test_features_of_another_kind_in_x_are_an_input_and_no_genes(adata, tmp_path):
    class Kinds(Fields):
        protein_key = "var/kind=Peaks"

    adata.write_h5ad(tmp_path / "a.h5ad")
    for data in (adata, tmp_path / "a.h5ad"):
        schema, cells = encoded(data, {"protein": Input("protein_key")}, Kinds())
        assert schema.genes == tuple(adata.var_names[:50])
        assert schema.features["protein"] == tuple(adata.var_names[50:])
        assert np.array_equal(gathered(cells.extra["protein"]), adata.X[:, 50:].toarray())
        turned = replace(schema, features={"protein": schema.features["protein"][::-1]}).encode(data)
        assert np.array_equal(gathered(turned.extra["protein"]), adata.X[:, 50:].toarray()[:, ::-1])


def test_a_layer_called_like_a_place_is_a_layer(adata):
    adata.layers["X"], adata.layers["obsm"] = adata.X * 3, adata.X * 4
    assert np.array_equal(whole(locate_main(adata, "X")), 3 * adata.X.toarray())
    assert np.array_equal(whole(locate_main(adata, "obsm")), 4 * adata.X.toarray())


def test_minibatches_on_a_device_have_every_input(adata):
    class All(Fields):
        protein_key, peak_key, near_key = "frame", "peaks", "near"

    inputs = {
        "protein": Input("protein_key"),
        "peaks": Input("peak_key", values="any", sparse=True),
        "near": Input("near_key", axis="cell-cell", values="any", sparse=True),
    }
    schema, cells = encoded(adata, inputs, All())
    assert set(schema.features) == {"protein", "peaks"}  # a graph of cells has as many columns as there are cells
    there, order = device_cache(cells, torch.device("cpu")), np.random.default_rng(0).permutation(200)[:150]
    edges = np.array([0, 32, 64, 150])
    pairs = zip(there.minibatches(order, edges), minibatches(cells, order, 32, edges=edges), strict=True)
    for batch, other in pairs:
        assert torch.equal(batch.extra["protein"], other.extra["protein"])
        assert torch.equal(batch.extra["near"].dense(), other.extra["near"].dense())
        index = batch.index.numpy()
        assert np.array_equal(batch.extra["peaks"].dense().numpy(), adata.obsm["peaks"][index].toarray())
        assert np.array_equal(batch.extra["near"].dense().numpy(), adata.obsp["near"][index].toarray())


def test_an_optional_input_may_be_left_out(adata):
    class Maybe(Fields):
        protein_key = None

    schema, cells = encoded(adata, {"protein": Input("protein_key", required=False)}, Maybe())
    assert cells.extra == schema.reference(cells).n_extra == {}
    with pytest.raises(OptionError, match=r"protein_key.*'frame'"):
        encoded(adata, {"protein": Input("protein_key")}, Maybe())


def test_tables_keep_their_names(adata, tmp_path):
    class Table(Fields):
        edge_key = str(tmp_path / "edges.csv")

    pd.DataFrame({"from": ["TF1", "TF2"], "to": ["gene1", "node"]}).to_csv(tmp_path / "edges.csv", index=False)
    schema = Schema.learn(adata, Table(), "counts", {"edges": Input("edge_key", axis="table")})
    assert schema.about_features(adata)[1] == {"edges": {"from": ("TF1", "TF2"), "to": ("gene1", "node")}}
    sets = {"edges": {"set": ("a", "a", "b"), "feature": ("g", "h", "h")}}

    class Sets(Fields):
        edge_key = {"a": ["g", "h"], "b": ["h"]}

    schema = Schema.learn(adata, Sets(), "counts", {"edges": Input("edge_key", axis="table")})
    assert schema.about_features(adata)[1] == sets


def test_an_input_that_new_cells_lack_is_not_measured_there(adata):
    class Peaks(Fields):
        peak_key = "peaks"

    schema, _ = encoded(adata, {"peaks": Input("peak_key", values="any", sparse=True, may_miss=True)}, Peaks())
    del adata.obsm["peaks"]
    with pytest.warns(ScduetWarning, match="peak_key"):
        cells = schema.encode(adata)
    assert not cells.measured["peaks"].any()
    assert gathered(cells.extra["peaks"]).shape == (200, 7)


def test_which_modality_is_main_must_be_clear():
    rna, prot = two_modalities()
    with pytest.raises(DataError, match=r"\['a', 'b'\]"):
        locate_main(mudata.MuData({"a": rna, "b": prot}), None)
    assert locate_main(mudata.MuData({"a": rna, "b": prot}), "mod/b").names.tolist() == prot.var_names.tolist()
