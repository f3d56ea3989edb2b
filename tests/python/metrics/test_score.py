"""The table over AnnData: baselines always beside, means by the rule, reasons, graphs and corrected matrices."""

import pickle
import sys

import numpy as np
import pandas as pd
import pytest
from named import assert_named, named
from sklearn.decomposition import PCA

import scduet as sd
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.tasks.quality import baselines
from scduet.tasks.quality.shown import notes


@pytest.fixture
def scored(counts):
    counts.obsm["X_scVI"] = (
        np.random.default_rng(0).normal(size=(200, 5)) + 3 * np.eye(5)[counts.obs["cell_type"].cat.codes]
    )
    return counts


def test_unintegrated_pca_is_always_there_and_nothing_is_written(scored):
    before = scored.copy()
    table = sd.score(scored, ["X_scVI"], batch_key="batch", labels_key="cell_type")
    expected = {"X_pca", "X_scVI"} | ({"X_harmony"} if baselines.harmony_installed() else set())
    assert set(table.index) == expected
    assert table.index[0] == "X_pca"
    assert list(scored.obsm) == list(before.obsm)
    assert (scored.X != before.X).nnz == 0
    assert table.loc["X_scVI", "silhouette_label"] == pytest.approx(
        sd.metrics.silhouette_label(scored.obsm["X_scVI"], scored.obs["cell_type"])
    )


def test_means_follow_scib_and_leave_out_what_a_row_lacks(scored):
    table = sd.score(scored, batch_key="batch", labels_key="cell_type")
    counted = table.attrs["counted"]
    assert "isolated_labels" not in counted  # every label is in both batches, and it says so
    assert_named(table.attrs["reasons"]["X_pca"]["isolated_labels"], "label", "batch")
    bio = [m for m in counted if sd.metrics.METRICS[m].group == "bio"]
    batch = [m for m in counted if sd.metrics.METRICS[m].group == "batch"]
    np.testing.assert_allclose(table["bio"], table[bio].mean(axis=1))
    np.testing.assert_allclose(table["batch"], table[batch].mean(axis=1))
    np.testing.assert_allclose(table["total"], 0.6 * table["bio"] + 0.4 * table["batch"])
    assert table["rank"].tolist() == table["total"].rank(ascending=False).tolist()


def test_pca_of_counts_is_that_of_the_log_normalized_data(counts):
    import scanpy as sc

    found = baselines.unintegrated_pca(counts, n_components=5)
    sc.pp.normalize_total(counts, target_sum=1e4)
    sc.pp.log1p(counts)
    expected = PCA(5).fit_transform(counts.X.toarray().astype(float))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)
    again = baselines.unintegrated_pca(counts, n_components=5)  # no counts any more: used as it is
    np.testing.assert_allclose(again, found, atol=1e-3)


def test_pca_in_obsm_is_used(counts):
    counts.obsm["X_pca"] = np.random.default_rng(0).normal(size=(200, 4))
    table = sd.score(counts, batch_key="batch", labels_key="cell_type", metrics=["silhouette_label"])
    assert table.loc["X_pca", "silhouette_label"] == pytest.approx(
        sd.metrics.silhouette_label(counts.obsm["X_pca"], counts.obs["cell_type"])
    )


def test_a_corrected_matrix_and_a_graph_can_be_scored(scored):
    scored.layers["combat"] = baselines.log_normalized(scored.X).toarray()
    near = sd.metrics.nearest_neighbors(scored.obsm["X_scVI"], 15)
    from scduet.metrics.integration.graph import adjacency

    scored.obsp["bbknn"] = adjacency(near, near.distance)
    names = ["layers/combat", "obsp/bbknn", "X_scVI"]
    table = sd.score(scored, names, "batch", "cell_type", metrics="all")
    assert table.loc["layers/combat", "hvg_overlap"] == 1  # the matrix is the uncorrected one
    assert np.isnan(table.loc["X_scVI", "hvg_overlap"])
    assert table.loc["obsp/bbknn", "nmi_leiden"] == table.loc["X_scVI", "nmi_leiden"]
    assert_named(table.attrs["reasons"]["obsp/bbknn"]["bras"], "embedding")


def test_long_table_holds_the_same_numbers_and_the_reasons(scored):
    options = {"batch_key": "batch", "labels_key": "cell_type", "with_baselines": False}
    wide, long = sd.score(scored, **options), sd.score(scored, long=True, **options)
    assert list(wide.index) == ["X_scVI"]
    for row in long.itertuples():
        assert wide.loc[row.embedding, row.metric] == pytest.approx(row.value, nan_ok=True)
        assert np.isnan(row.value) == bool(row.reason)


def test_min_max_is_only_on_request(scored):
    plain = sd.score(scored, None, "batch", "cell_type", metrics=["silhouette_label", "bras"])
    scaled = sd.score(scored, None, "batch", "cell_type", metrics=["silhouette_label", "bras"], min_max=True)
    assert scaled["bio"].max() == 1
    assert scaled["bio"].min() == 0
    assert plain["bio"].max() < 1
    np.testing.assert_array_equal(plain["bras"], scaled["bras"])


def test_cells_without_a_label_are_left_out_with_a_warning(scored):
    kept = scored[20:].copy()
    scored.obs["cell_type"] = scored.obs["cell_type"].cat.add_categories("Unknown")
    scored.obs.iloc[:10, scored.obs.columns.get_loc("cell_type")] = "Unknown"
    scored.obs.iloc[10:20, scored.obs.columns.get_loc("cell_type")] = np.nan
    options = {"metrics": ["silhouette_label"], "with_baselines": False}
    with pytest.warns(ScduetWarning, match=named(20, 200)):
        table = sd.score(scored, None, "batch", "cell_type", unlabeled_category="Unknown", **options)
    assert table.equals(sd.score(kept, None, "batch", "cell_type", **options))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"batch_key": "donor"}, ("batch_key='donor'", "obs", "'batch'")),
        ({"labels_key": "type"}, ("labels_key='type'", "obs", "'cell_type'")),
        ({"embeddings": ["X_none"]}, ("'X_none'", "obsm", "'X_scVI'")),
        ({"embeddings": ["layers/none"]}, ("'layers/none'", "obsm")),
        ({"pseudotime_key": "dpt"}, ("pseudotime_key='dpt'", "obs", "'age'")),
    ],
)
def test_unknown_keys_are_named(scored, options, names):
    with pytest.raises(DataError, match=named(*names)):
        sd.score(scored, **({"batch_key": "batch", "labels_key": "cell_type"} | options))


def test_an_embedding_that_is_not_finite_is_an_error_before_work(scored):
    scored.obsm["X_scVI"][3] = np.nan
    with pytest.raises(DataError, match=named("X_scVI", "NaN", 1, 3)):
        sd.score(scored, batch_key="batch", labels_key="cell_type", callback=lambda *_: pytest.fail("work began"))


def test_one_batch_keeps_the_biology_and_gives_reasons(scored):
    scored.obs["batch"] = "one"
    table = sd.score(scored, batch_key="batch", labels_key="cell_type")
    assert list(table.index) == ["X_pca", "X_scVI"]  # nothing for Harmony to correct
    assert table["batch"].notna().all()  # graph connectivity needs no batches
    assert_named(table.attrs["reasons"]["X_scVI"]["ilisi"], "iLISI", "batches", 2, 1)


@pytest.mark.parametrize(
    "keys", [{"batch_key": "batch"}, {"labels_key": "cell_type"}, {"batch_key": "batch", "labels_key": "site"}]
)
@pytest.mark.parametrize("metrics", ["all", ["batch_entropy", "clisi"]])
def test_every_missing_value_has_its_reason(scored, keys, metrics):
    scored.obsm["X_flat"] = np.ones((200, 3))
    table = sd.score(scored, metrics=metrics, **keys)
    reasons = table.attrs["reasons"]
    for name, row in table.iterrows():
        assert set(row.index[row.isna()]) == set(reasons[name])
        assert all(reasons[name].values())


def test_notes_say_once_why_values_are_missing_and_where(scored):
    scored.obsm["X_flat"] = np.ones((200, 3))
    table = sd.score(scored, batch_key="batch", metrics=["ilisi", "clisi", "silhouette_label"], with_baselines=False)
    told = notes(table)
    assert "cLISI, Silhouette label are not defined for X_scVI: needs labels." in told
    assert [line for line in told if "iLISI" in line and "X_flat" in line and "constant" in line]
    assert len(told) == len({line.partition(": ")[2] for line in told})


def test_a_table_without_harmony_says_how_to_add_it(scored, monkeypatch):
    keys = {"batch_key": "batch", "labels_key": "cell_type", "metrics": ["ilisi"]}
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    monkeypatch.setattr(baselines, "find_spec", lambda name: None)
    for long in (True, False):
        (note,) = sd.score(scored, **keys, long=long).attrs["notes"]
        assert all(word in note for word in ("harmonypy", "scduet[baselines]", "GPL"))
    assert note in notes(sd.score(scored, **keys))
    scored.obsm["X_pca_harmony"] = scored.obsm["X_scVI"]  # the user's own
    assert sd.score(scored, **keys).attrs["notes"] == []
    assert sd.score(scored, ["X_scVI"], with_baselines=False, **keys).attrs["notes"] == []
    assert sd.score(scored, ["X_scVI"], labels_key="cell_type", metrics=["clisi"]).attrs["notes"] == []


def test_real_batches_of_one_type_of_cells_mix_after_harmony(real_data):
    adata = real_data("pbmc_3tech_savercat.h5ad")
    pytest.importorskip("harmonypy")
    table = sd.score(
        adata, None, "batch", "cell_type", metrics=["ilisi", "bras", "silhouette_batch", "silhouette_label"]
    )
    assert table.loc["X_harmony", "ilisi"] > 0.3 > 0.1 > table.loc["X_pca", "ilisi"]
    assert table.loc["X_harmony", "bras"] > table.loc["X_pca", "bras"] + 0.15
    assert table.loc["X_pca", "silhouette_batch"] > 0.75  # unintegrated, and looks good: why BRAS is read beside it


def test_a_score_without_keys_is_a_usage_error(scored):
    with pytest.raises(OptionError, match=r"batch_key.*labels_key"):
        sd.score(scored, ["X_scVI"])


def test_a_column_of_numbers_taken_for_batches_warns(scored):
    with pytest.warns(ScduetWarning, match="batch_key='age'"):
        sd.score(scored, ["X_scVI"], "age", metrics=["pcr_comparison"], with_baselines=False)


QUICK = {"max_epochs": 1, "n_hidden": 8, "callback": lambda event: None}
CHEAP = {"metrics": ["silhouette_label", "ilisi"], "with_baselines": False}


def test_scanvi_scored_by_the_labels_it_learned_says_so(counts, tmp_path):
    """In memory, after a file, of a part of the cells, and of mapped cells; scVI and other labels are no such case."""
    import anndata

    counts.obs["other"] = list("pq") * 100
    for name in ("scvi", "scanvi"):
        model = sd.integrate(counts, name, batch_key="batch", labels_key="cell_type", **QUICK)
    counts.write_h5ad(tmp_path / "cells.h5ad")
    query = counts[:100].copy()
    del query.uns, query.obsm
    sd.map_query(query, model)
    for cells in (counts, anndata.read_h5ad(tmp_path / "cells.h5ad"), counts[:100], query):
        notes = sd.score(cells, batch_key="batch", labels_key="cell_type", **CHEAP).attrs["notes"]
        assert ["X_scANVI" in note and "cell_type" in note for note in notes] == [True]
        assert sd.score(cells, batch_key="batch", labels_key="other", **CHEAP).attrs["notes"] == []
        assert sd.score(cells, batch_key="batch", **CHEAP).attrs["notes"] == []


def test_the_note_travels_with_an_embedding_that_is_written_to_a_file(counts, tmp_path):
    import anndata

    for ending, read in (("h5ad", anndata.read_h5ad), ("zarr", anndata.read_zarr)):
        source, target = tmp_path / f"cells.{ending}", tmp_path / f"out.{ending}"
        getattr(counts, f"write_{ending}")(source)
        sd.integrate(source, "scanvi", output=target, batch_key="batch", labels_key="cell_type", **QUICK)
        table = sd.score(read(target), batch_key="batch", labels_key="cell_type", **CHEAP)
        assert "X_scANVI" in table.attrs["notes"][0]
        assert "X_scANVI" in str(table).splitlines()[-1]


def test_a_table_of_scores_prints_metrics_as_rows_and_is_a_plain_table_else(scored):
    table = sd.score(scored, ["X_scVI"], "batch", "cell_type", metrics=["silhouette_label", "isolated_labels", "ilisi"])
    lines = str(table).splitlines()
    assert lines[0].split() == list(table.index)
    assert lines[1].split() == ["silhouette_label", *(f"{value:.3f}" for value in table["silhouette_label"])]
    assert lines[2].split() == ["isolated_labels", *["-"] * len(table)]
    assert "Isolated labels" in lines[-1]
    assert type(table.T) is type(table[["ilisi"]]) is pd.DataFrame
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(table)), table)
