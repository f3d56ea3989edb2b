"""Several kinds of features in one object: each container gives a model the same cells, and losses are named."""

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import make_counts
from named import named

import scduet as sd
from scduet.contract import Input
from scduet.data.feature_names import places_of
from scduet.data.locate import column
from scduet.data.schema import Fields, Schema
from scduet.data.sources import gathered
from scduet.errors import DataError, ScduetWarning
from scduet.tasks.workflows.map_query import prepare_query

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
QUICK = {"max_epochs": 2, "n_hidden": 8, "n_latent": 3, "seed": 0, "batch_key": "batch"}


@pytest.fixture(scope="module")
def parts():
    rna, prot = make_counts(200, 60), make_counts(200, 5, seed=3)
    prot.obs, prot.var_names = prot.obs[[]], [f"CD{i}" for i in range(5)]
    return rna, prot


def containers(rna, prot):
    """The same cells as an AnnData with obsm, one with feature_types, and a MuData."""
    with_obsm = rna.copy()
    with_obsm.obsm["prot"] = prot.to_df()
    kinds = ["Gene Expression"] * rna.n_vars + ["prot"] * prot.n_vars
    var = pd.DataFrame({"feature_types": kinds}, [*rna.var_names, *prot.var_names])
    in_x = ad.AnnData(sp.hstack([rna.X, prot.X], "csr"), rna.obs.copy(), var)
    return {"obsm": with_obsm, "feature_types": in_x, "MuData": mudata.MuData({"rna": rna.copy(), "prot": prot.copy()})}


@pytest.fixture(scope="module")
def fitted(parts):
    cells = containers(*parts)
    return cells, {name: sd.fit(data, "totalvi", protein_key="prot", **QUICK) for name, data in cells.items()}


def test_totalvi_is_the_same_from_every_container(fitted):
    cells, models = fitted
    expected = models["obsm"].embed(cells["obsm"])
    for name, model in models.items():
        assert model.genes == models["obsm"].genes, name
        np.testing.assert_array_equal(model.embed(cells[name]), expected, err_msg=name)


@pytest.mark.parametrize("kind", ["obsm", "feature_types", "MuData"])
def test_a_minified_copy_gives_the_same_numbers_without_counts(fitted, kind):
    cells, model = fitted[0][kind], fitted[1][kind]
    small = sd.minify(model, cells)
    assert type(small) is type(cells)
    main = small.mod["rna"] if kind == "MuData" else small
    assert main[:, model.genes].X.nnz == 0
    for modality in ("rna", "protein"):
        whole, kept = (sd.normalized_expression(model, c, seed=0, modality=modality) for c in (cells, small))
        np.testing.assert_allclose(kept, whole, rtol=1e-4)


def test_a_mudata_is_mapped_prepared_and_keeps_its_order_of_names(fitted):
    cells, model = fitted[0]["MuData"], fitted[1]["MuData"]
    query = mudata.MuData({"rna": cells.mod["rna"][:50, ::-1][:, :-3].copy(), "prot": cells.mod["prot"][:50].copy()})
    lost = sorted(set(model.genes) - set(query.mod["rna"].var_names))
    with pytest.warns(ScduetWarning, match=named(lost[0])):
        prepared = prepare_query(query, model)
    assert prepared.mod["rna"].var_names.tolist() == model.genes
    assert prepared.mod["rna"][:, lost].X.nnz == 0
    np.testing.assert_array_equal(prepared.mod["prot"].X.toarray(), query.mod["prot"].X.toarray())
    with pytest.warns(ScduetWarning, match=named(lost[0])):
        sd.map_query(query, model)
    np.testing.assert_allclose(query.obsm["X_totalVI"], model.embed(prepared), atol=1e-5)


def test_annotating_a_mudata_is_annotating_its_genes(parts):
    rna, prot = parts
    whole = mudata.MuData({"rna": rna.copy(), "prot": prot[::-1].copy()})
    tables, called = [], []
    for data in (rna, whole):
        reference, query = data[:120].copy(), data[120:].copy()
        tables.append(sd.annotate(query, reference, "cell_type", max_epochs=2, n_hidden=8, use="knn"))
        called.append(query.obs["predicted"].astype(str).to_numpy())
    pd.testing.assert_frame_equal(*tables)
    assert (called[0] == called[1]).all()


def test_cells_of_one_modality_only_are_not_measured_in_the_other(parts):
    rna, prot = parts
    mosaic = mudata.MuData({"rna": rna.copy(), "prot": prot[50:].copy()})
    model = sd.fit(mosaic, "totalvi", protein_key="prot", **QUICK)
    unmeasured = np.isnan(gathered(model.encode(mosaic).extra["protein"])).all(1)
    assert (unmeasured == ~mosaic.obs_names.isin(prot.obs_names[50:])).all()
    other = mudata.MuData({"rna": rna[50:].copy(), "prot": prot.copy()})
    other.obs["batch"] = rna.obs["batch"].reindex(other.obs_names)
    with pytest.raises(DataError, match=named(50, "'rna'")):
        sd.fit(other, "totalvi", protein_key="prot", **QUICK)


def test_peaks_are_the_main_matrix_of_a_model_of_peaks(parts):
    rna, peaks = parts[0].copy(), make_counts(200, 30, seed=5)
    peaks.var_names = [f"chr1:{i * 100}-{i * 100 + 50}" for i in range(30)]
    both = mudata.MuData({"rna": rna, "atac": peaks})
    schema = Schema.learn(both, Fields(), "counts", None, "peaks")
    assert schema.genes == tuple(peaks.var_names)
    signac = peaks[:, ::-1].copy()
    signac.var_names = signac.var_names.str.replace(":", "-")
    assert np.array_equal(gathered(schema.encode(signac).counts).toarray(), peaks.X.toarray())
    with pytest.raises(DataError, match=named("'rna'", "'other'")):
        Schema.learn(mudata.MuData({"rna": rna, "other": peaks}), Fields(), "counts", None, "peaks")


def test_two_spellings_of_a_peak_are_one():
    wanted = pd.Index(["chr1:1-2", "chrX-5-6", "chrUn_KI270442v1:7-8", "chr1:1-3", "HLA-A"])
    names = pd.Index(["chrX:5-6", "HLA-A", "chr1-1-2", "chrUn_KI270442v1-7-8"])
    assert places_of(wanted, names).tolist() == [2, 0, 3, -1, 1]


def test_a_column_of_several_modalities_is_joined_or_refused():
    pairs = (("xyz", "cde"), ("yzw", "def"))
    a, b = (ad.AnnData(np.ones((3, 2)), pd.DataFrame({"d": list(v)}, list(n))) for v, n in pairs)
    whole = mudata.MuData({"rna": a, "prot": b})
    assert column(whole, "d").loc[list("cdef")].tolist() == list("xyzw")
    b.obs["d"] = list("qzw")
    with pytest.raises(DataError, match=named("'d'", "'d'")):
        column(mudata.MuData({"rna": a, "prot": b}), "d")


def test_a_misspelt_kind_of_features_names_those_there_are(parts):
    with pytest.raises(DataError, match=named("'protien'", "'prot'")):
        Schema.learn(containers(*parts)["feature_types"], _Keys(), "counts", {"protein": Input("protein_key")})


class _Keys(Fields):
    protein_key = "protien"
