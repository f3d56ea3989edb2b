"""Differential expression finds planted genes, tests what was detected, and counts the calls of permuted labels."""

from scduet._torch import torch

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import make_counts
from named import assert_named, named

import scduet as sd
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.tasks.comparison.draws import Sampler
from scduet.tasks.comparison.fold_changes import (
    Pairs,
    called,
    described,
    estimated_offset,
    mean_and_largest,
    probability_changed,
    probability_higher,
)
from scduet.tasks.posterior.latent import modality_of

PLANTED = {f"g{i}" for i in range(20)}


@pytest.fixture(scope="module")
def planted():
    """Two types of 300 cells with equal totals; ten genes are four times as high in type a, the next ten in type b."""
    draw = np.random.default_rng(0)
    rate = np.tile(draw.gamma(2, 2, 60), (2, 1))
    rate[:, 10:20] = rate[:, :10]
    rate[0, :10] *= 4
    rate[1, 10:20] *= 4
    kind = np.repeat([0, 1], 300)
    obs = pd.DataFrame({"kind": pd.Categorical.from_codes(kind, ["a", "b"]), "batch": draw.choice(["x", "y"], 600)})
    obs["kind"] = obs["kind"].cat.add_categories("ghost")
    obs["half"] = draw.permutation(np.repeat(["left", "right"], 300))
    obs.index = obs.index.astype(str)
    var = pd.DataFrame(index=[f"g{i}" for i in range(60)])
    adata = anndata.AnnData(draw.poisson(rate[kind]).astype(np.float32), obs=obs, var=var)
    model = sd.fit(adata, "scvi", batch_key="batch", n_latent=4, n_hidden=32, max_epochs=30, lr=0.01)
    return model, adata


@pytest.fixture(scope="module")
def table(planted):
    return sd.differential_expression(*planted, "kind", "a", "b", verbose=False)


def test_planted_genes_come_first(table):
    assert set(table.index[:20]) == PLANTED
    assert table["lfc_median"].loc[[f"g{i}" for i in range(10)]].mean() == pytest.approx(2, abs=0.7)
    assert table["lfc_median"].loc[[f"g{i}" for i in range(10, 20)]].mean() == pytest.approx(-2, abs=0.7)
    assert (table["proba_de"] + table["proba_not_de"] == 1).all()
    assert set(table.index[table["is_de_fdr_0.05"]]) >= PLANTED


def test_raw_columns_are_those_of_the_counts(planted, table):
    _, adata = planted
    a, b = adata[:300].to_df()[table.index], adata[300:].to_df()[table.index]
    assert np.allclose(table["raw_mean1"], a.mean())
    assert np.allclose(table["non_zeros_proportion2"], (b > 0).mean())
    normalized = a.div(a.sum(1), axis=0).mean() * 1e4
    assert np.allclose(table["raw_normalized_mean1"], normalized, rtol=1e-5)


def test_raw_columns_are_the_same_of_more_genes_in_another_order(planted, table):
    model, adata = planted
    counts = sp.csr_matrix(np.hstack([adata.X[:, ::-1], np.ones((600, 5))]).astype(np.int64))
    names = [*adata.var_names[::-1], *(f"more{i}" for i in range(5))]
    wide = anndata.AnnData(counts, obs=adata.obs, var=pd.DataFrame(index=names))
    raw = [column for column in table if column.startswith(("raw_mean", "raw_norm", "non_zeros"))]
    found = sd.differential_expression(model, wide, "kind", "a", "b", n_draws=50, verbose=False).loc[table.index]
    pd.testing.assert_frame_equal(found[raw], table[raw])


def test_exchanging_the_groups_turns_the_sign(planted, table):
    turned = sd.differential_expression(*planted, "kind", "b", "a", verbose=False).loc[table.index]
    assert np.abs(turned["lfc_mean"] + table["lfc_mean"]).max() < 0.15


def test_groups_may_be_given_in_every_way(planted, table):
    model, adata = planted
    options = dict(verbose=False, calibrate=False, n_draws=400)
    mask = (adata.obs["kind"] == "a").to_numpy()
    ways = [
        dict(groupby="kind", group1="a"),
        dict(idx1=mask),
        dict(idx1=np.flatnonzero(mask), idx2=~mask),
        dict(idx1="kind == 'a'"),
    ]
    found = [sd.differential_expression(model, adata, **way, **options) for way in ways]
    assert all(np.array_equal(f["lfc_mean"].sort_index(), found[0]["lfc_mean"].sort_index()) for f in found)
    everything = sd.differential_expression(model, adata, "kind", **options)
    assert list(dict.fromkeys(everything["comparison"])) == ["a vs Rest", "b vs Rest"]  # not the ghost


@torch.inference_mode()
def test_draws_are_compared_that_are_decoded_as_the_same_batch(planted):
    sampler = Sampler(planted[0], modality_of(planted[0]), planted[1], 400, 64, np.random.default_rng(0))
    rows = np.arange(300), np.arange(300, 600)
    draws = sampler.draw((rows[0], [0, 1]), (rows[1], [0, 1]))
    pairs = draws.pairs()
    assert (draws.code[pairs.first] == draws.code[pairs.second]).all()
    assert np.bincount(draws.code[pairs.first]).tolist() == [200, 200]
    assert np.allclose(draws.share.sum(1), 1)
    for cells, side, places in zip(np.split(draws.cell, [draws.n_first]), draws.sides, rows, strict=True):
        assert np.isin(cells, places).all()
        assert (np.diff(cells) >= 0).all()  # as files are read
        assert len(np.unique(side)) == 400


def test_batches_are_taken_out(planted, table):
    corrected = sd.differential_expression(*planted, "kind", "a", "b", batch_correction=True, verbose=False)
    assert set(corrected.index[:20]) == PLANTED


def test_permuted_labels_leave_no_calls_where_nothing_differs(planted, table, capsys):
    check = sd.calibration(table).loc["a vs b"]
    assert check["n_called"] == table["is_de_fdr_0.05"].sum()
    assert check["n_tested"] == table["tested"].sum()
    assert check["fdr_permuted"] == min(1, check["n_called_permuted"] / max(check["n_called"], 1))
    assert check["within_target"]
    nothing = sd.differential_expression(*planted, "half", "left", "right")
    assert not nothing["is_de_fdr_0.05"].any()
    assert_named(capsys.readouterr().out, "0 of 60", "0.0%", "5%")


def test_permuted_labels_show_overconfidence():
    """Two groups of two cells each: a difference between single cells looks like one between groups."""
    adata = make_counts(200, 60)
    model = sd.fit(adata, "scvi", n_latent=4, n_hidden=32, max_epochs=40, lr=0.01)
    kinds = adata.obs["cell_type"].to_numpy()
    pick = lambda kind, n: np.flatnonzero(kinds == kind)[:n]  # noqa: E731
    one, two = np.concatenate([pick("B", 1), pick("T", 1)]), np.concatenate([pick("B", 2)[1:], pick("NK", 1)])
    table = sd.differential_expression(model, adata, idx1=one, idx2=two, fdr_target=0.3, delta=0.05, verbose=False)
    check = sd.calibration(table).iloc[0]
    assert check["n_called_permuted"] > 0


def test_genes_are_tested_by_detection_and_fold_change_in_the_counts(planted):
    """g0 is given counts in 5 of the 300 cells of a and in none of b; the model has seen it in most cells."""
    model, adata = planted
    sparse = adata.copy()
    sparse.X[:, 0] = 0
    sparse.X[:5, 0] = 1
    compare = lambda **options: sd.differential_expression(model, sparse, "kind", "a", "b", verbose=False, **options)  # noqa: E731
    default, loose, everything = compare(), compare(min_pct=5 / 300), compare(min_pct=0)
    detected = np.maximum(default["non_zeros_proportion1"], default["non_zeros_proportion2"])
    assert (default["tested"] == (detected >= 0.1)).all()
    assert default.index[-1] == "g0"
    assert not default.loc["g0", "is_de_fdr_0.05"]
    assert loose["tested"].all()
    assert everything["tested"].all()
    large = compare(lfc_threshold=1.0)
    assert (large["tested"] == ((large["raw_lfc"].abs() >= 1) & (large.index != "g0"))).all()
    assert not (large["is_de_fdr_0.05"] & ~large["tested"]).any()
    assert large["tested"].is_monotonic_decreasing
    up = compare(only_pos=True)
    assert set(up.index) == set(default.index[(default["raw_lfc"] > 0) & (default["lfc_median"] > 0)])
    assert up["tested"].sum() == up.attrs["calibration"][0]["n_tested"] == sd.calibration(up)["n_tested"].iloc[0]
    assert compare(mode="vanilla")["tested"].sum() == 59
    for wrong in (dict(min_pct=10), dict(min_pct=-0.1), dict(lfc_threshold=-1)):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            compare(**wrong)


def test_calls_are_the_most_tested_genes_within_the_target(planted):
    """Genes that are not tested take no part in the control of false calls."""
    table = sd.differential_expression(*planted, "kind", "a", "b", lfc_threshold=0.1, verbose=False)
    tested = table[table["tested"]]
    expected = np.zeros(len(table), bool)
    expected[: len(tested)] = called(tested["proba_de"].to_numpy(), 0.05)
    assert 0 < len(tested) < len(table)
    assert np.array_equal(table["is_de_fdr_0.05"], expected)


def test_the_raw_fold_change_is_that_of_seurat(planted, table):
    """log2 of (sum of counts per 10,000 of all genes + 1) / cells, of a less that of b."""
    model, adata = planted
    more = 7 * adata.X[:, :5]  # of genes that the model does not know
    names = [*adata.var_names, *(f"more{i}" for i in range(5))]
    wide = anndata.AnnData(np.hstack([adata.X, more]), obs=adata.obs, var=pd.DataFrame(index=names))
    by_hand = wide.X / wide.X.sum(1, keepdims=True) * 1e4
    side = [np.log2((by_hand[rows].sum(0) + 1) / 300) for rows in (slice(300), slice(300, None))]
    expected = pd.Series(side[0] - side[1], wide.var_names)
    options = dict(groupby="kind", group1="a", group2="b", n_draws=50, verbose=False)
    found = sd.differential_expression(model, wide, **options)
    assert np.allclose(found["raw_lfc"], expected[found.index], atol=1e-5)
    few = wide[:, model.genes].copy()
    few.obs["total"] = wide.X.sum(1)
    of_column = sd.differential_expression(model, few, total_key="total", **options)
    assert np.allclose(of_column["raw_lfc"], expected[of_column.index], atol=1e-5)
    few.obs["total"] = 0
    for key in ("total", "nowhere"):
        with pytest.raises(DataError, match=key):
            sd.differential_expression(model, few, total_key=key, **options)


def test_equally_sure_genes_are_in_the_order_of_the_counts(table):
    keys = table.reset_index()[["tested", "proba_de", "raw_lfc"]].abs()
    ordered = keys.sort_values(["tested", "proba_de", "raw_lfc"], ascending=False, kind="stable")
    assert list(ordered.index) == list(range(len(keys)))
    assert keys["proba_de"].duplicated().any()


def test_minified_cells_are_compared_without_the_filter(planted, table):
    model, adata = planted
    small = sd.minify(model, adata)
    with pytest.warns(ScduetWarning, match="min_pct"):
        found = sd.differential_expression(model, small, "kind", "a", "b", verbose=False)
    assert found["tested"].all()
    assert "raw_lfc" not in found
    assert found.attrs["calibration"][0]["min_pct"] == 0
    assert set(found.index[:20]) == PLANTED
    with pytest.raises(OptionError, match="lfc_threshold"):
        sd.differential_expression(model, small, "kind", "a", "b", min_pct=0, lfc_threshold=1)


def test_interferon_genes_lead_and_genes_without_counts_are_not_called(real_data):
    """Monocytes of Kang et al. 2018: every fifteenth gene of all that were measured, and twelve known ones."""
    known = [
        "CXCL10",
        "CXCL11",
        "IFI6",
        "IFIT1",
        "IFIT2",
        "IFIT3",
        "IFITM3",
        "ISG15",
        "ISG20",
        "MX1",
        "RSAD2",
        "TNFSF10",
    ]
    adata = real_data("kang_ifnb_2800.h5ad")
    adata = adata[adata.obs["cell_type"] == "CD14 Mono", sorted({*adata.var_names[::15], *known})].copy()
    model = sd.fit(adata, "scvi", max_epochs=40, n_hidden=64, n_latent=5, seed=0)
    options = dict(groupby="condition", group1="stim", group2="ctrl", n_draws=2000, verbose=False)
    table = sd.differential_expression(model, adata, min_pct=0, **options)
    called_genes = table[table["is_de_fdr_0.05"]]
    detected = called_genes[["non_zeros_proportion1", "non_zeros_proportion2"]].max(axis=1)
    assert (detected == 0).any()
    assert (detected < 0.01).sum() > 10
    assert sd.calibration(table)["n_called_permuted"].iloc[0] == 0  # permuted labels do not show it
    filtered = sd.differential_expression(model, adata, **options)
    called_genes = filtered[filtered["is_de_fdr_0.05"]]
    assert called_genes[["non_zeros_proportion1", "non_zeros_proportion2"]].max(axis=1).min() >= 0.1
    assert len(set(filtered.index[:15]) & set(known)) >= 8


def test_calls_keep_the_expected_rate():
    calls = called(np.array([0.99, 0.5, 0.96, 0.8]), 0.05)
    assert calls.tolist() == [True, False, True, False]  # (0.01 + 0.04) / 2 is below, (0.01 + 0.04 + 0.2) / 3 above
    assert not called(np.array([0.5, 0.5]), 0.05).any()


def test_pseudocounts_come_from_silent_genes():
    mean, largest = mean_and_largest(np.array([[0.1, 0.4, 0.2], [0.3, 0.1, 0.2]], np.float32))
    assert np.allclose(mean, [0.2, 0.25, 0.2])
    assert estimated_offset(largest, np.array([True, False, False])) == pytest.approx(0.3 / 3)
    assert estimated_offset(largest, np.zeros(3, bool)) == 1e-10


def test_groups_that_are_not_there_are_named(planted):
    model, adata = planted
    for arguments, names in (
        (("kind", "c"), ("'c'", "obs['kind']", "'a'", "'b'")),
        (("kind", "ghost"), ("'ghost'", "obs['kind']")),
        (("sort",), ("'sort'", "adata.obs", "'kind'")),
    ):
        with pytest.raises(DataError, match=named(*names)):
            sd.differential_expression(model, adata, *arguments)
    with pytest.raises(DataError, match=named("idx1=")):
        sd.differential_expression(model, adata, idx1=np.zeros(600, bool))
    with pytest.raises(DataError, match=named(601, 600)):
        sd.differential_expression(model, adata, idx1=np.ones(601, bool))
    for places in ([600], [0.5], [-1]):
        with pytest.raises(DataError, match=named("idx1=")):
            sd.differential_expression(model, adata, idx1=places)


@pytest.mark.parametrize("n_pairs", [7, 600])
def test_fold_changes_are_those_of_all_pairs_at_once(n_pairs):
    """600 pairs of 300 genes are looked at in several pieces of either."""
    draw = np.random.default_rng(0)
    share = draw.gamma(1, 1e-3, (2 * n_pairs, 300)).astype(np.float32)
    order = draw.permutation(2 * n_pairs)
    pairs, offset = Pairs(share, order[:n_pairs], order[n_pairs:]), 1e-4
    change = np.log2((share[pairs.first].astype(float) + offset) / (share[pairs.second] + offset))
    for mode, expected in (("two", np.abs(change) > 0.25), ("three", None)):
        found = probability_changed(pairs, offset, 0.25, mode)
        sides = np.maximum((change > 0.25).mean(0), (change < -0.25).mean(0))
        assert np.allclose(found, sides if expected is None else expected.mean(0), atol=1.01 / n_pairs)
    assert np.allclose(probability_higher(pairs), (change > 0).mean(0))
    statistics = {"mean": np.mean, "median": np.median, "std": np.std, "min": np.min, "max": np.max}
    found = described(pairs, offset)
    for name, function in statistics.items():
        assert np.allclose(found[f"lfc_{name}"], function(change, axis=0), rtol=1e-4, atol=1e-5), name


def test_threads_change_nothing(planted, table):
    allowed = torch.get_num_threads()
    torch.set_num_threads(3 if allowed < 3 else 1)
    try:
        again = sd.differential_expression(*planted, "kind", "a", "b", verbose=False)
    finally:
        torch.set_num_threads(allowed)
    pd.testing.assert_frame_equal(again.loc[table.index], table, rtol=1e-4, check_like=True)


def test_batches_without_a_counterpart_are_compared_all_the_same(planted):
    model, adata = planted
    options = dict(batch_correction=True, batchid1=["x"], batchid2=["y"], n_draws=500, verbose=False)
    table = sd.differential_expression(model, adata, "kind", "a", "b", **options)
    assert set(table.index[:20]) == PLANTED
