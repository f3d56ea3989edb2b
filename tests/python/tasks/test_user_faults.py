"""What users did that went wrong without a word: edits after training, odd groups, measurements taken for types."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from named import named

import scduet as sd
from scduet.errors import DataError, OptionError, ScduetWarning

QUICK = {"max_epochs": 2, "n_hidden": 8, "callback": lambda event: None}


@pytest.fixture
def model(counts):
    return sd.fit(counts, batch_key="batch", **QUICK)


def test_edits_of_the_cells_trained_on_are_found(counts, model):
    before, copy = model.embed(), counts.copy()
    assert np.array_equal(model.embed(), before)
    row = counts.X[3].indices[:2]
    values = counts.X.data[counts.X.indptr[3] : counts.X.indptr[4]]
    assert len(row) == 2
    values[:2] += [1, -1]  # the total of the cell stays
    with pytest.raises(DataError, match=named(1)):
        model.embed()
    sc.pp.log1p(counts)
    for call in (model.embed, lambda: sd.elbo(model), lambda: sd.normalized_expression(model)):
        with pytest.raises(DataError, match=named(200)):
            call()
    assert np.array_equal(model.embed(copy), before)


def test_groups_that_are_no_two_groups_are_refused(counts, model):
    a, b, *_ = counts.obs["cell_type"].unique()
    options = {"verbose": False, "n_draws": 20}
    for groups, names in (
        ({"groupby": "cell_type", "group1": a, "group2": a}, [repr(a)]),
        ({"groupby": "cell_type", "group1": [b, a], "group2": a}, [repr(a)]),
        ({"groupby": "cell_type", "group2": a}, ["group1=", repr(a)]),
        ({"idx2": [1, 2]}, ["idx1="]),
        ({"groupby": "cell_type", "group1": a, "idx1": [1, 2]}, ["idx1="]),
    ):
        with pytest.raises(OptionError, match=named(*names)):
            sd.differential_expression(model, counts, **groups, **options)
    with pytest.raises(DataError, match=named(2, "'cell5'", "'cell6'")):
        sd.differential_expression(model, counts, idx1=[4, 5, 6], idx2=[5, 6, 7], **options)
    table = sd.differential_expression(model, counts, idx1=[4, 5, 6], idx2=[5, 6], allow_overlap=True, **options)
    assert len(table) == counts.n_vars


def test_groups_come_back_as_the_user_has_them(counts, model):
    counts.obs["number"] = pd.array([1, 2, None, 2] * 50, dtype="Int64")
    counts.obs["word"] = pd.array(["x", "y", None, "y"] * 50, dtype="string")
    found = {}
    for key, group in (("number", "2.0"), ("number", 2), ("word", "y")):
        table = sd.differential_expression(model, counts, key, group, verbose=False, n_draws=50)
        found[group] = table
        assert set(table["comparison"]) == {f"{2 if key == 'number' else 'y'} vs Rest"}
    assert set(found[2]["group1"]) == {2}
    assert found["2.0"].equals(found[2])
    assert np.allclose(found["y"]["raw_mean1"], found[2]["raw_mean1"])


def test_a_missing_batch_is_refused_as_fit_does(counts):
    query = counts[:50].copy()
    query.obs["batch"] = query.obs["batch"].where(np.arange(50) != 3)
    with pytest.raises(DataError, match=named("'batch'", "'cell3'")):
        sd.annotate(query, counts, "cell_type", batch_key="batch", **QUICK)


@pytest.mark.parametrize("where", ["query", "reference"])
def test_annotate_names_a_gene_that_is_there_twice(counts, where):
    parts = {"query": counts[:50].copy(), "reference": counts.copy()}
    parts[where].var_names = ["gene1", *parts[where].var_names[1:]]
    with pytest.raises(DataError, match=named("'gene1'")):
        sd.annotate(parts["query"], parts["reference"], "cell_type", **QUICK)


def test_the_refusal_says_where_counts_are(counts):
    counts.raw, counts.layers["other"] = counts.copy(), counts.X.copy()
    counts.X = counts.X.log1p()
    with pytest.raises(DataError, match=named("layer='raw'", "layer='other'")):
        sd.fit(counts, **QUICK)


def test_a_score_needs_categories(counts):
    draw = np.random.default_rng(0)
    counts.obsm["X_made"] = draw.normal(size=(200, 3))
    counts.obs["depth"] = draw.normal(size=200)
    counts.obs["total"] = draw.permutation(200)
    options = {"metrics": ["silhouette_label"], "with_baselines": False}
    for key in ("depth", "total"):
        with pytest.raises(DataError, match=named(f"labels_key={key!r}", 200)):
            sd.score(counts, "X_made", labels_key=key, **options)
    with pytest.raises(OptionError, match=named("batch_key", "labels_key", "'batch'")):
        sd.score(counts, "X_made", "batch", "batch", **options)
    counts.obsm["X_text"] = pd.DataFrame({"x": ["a"] * 200}, index=counts.obs_names)
    with pytest.raises(DataError, match=named("obsm['X_text']")):
        sd.score(counts, "X_text", labels_key="cell_type", **options)


def test_a_covariate_of_huge_scale_and_a_batch_for_each_cell_warn(counts):
    counts.obs["depth"], counts.obs["barcode"] = np.arange(200) * 1e3, counts.obs_names
    with pytest.warns(ScduetWarning, match=named("'depth'")):
        sd.fit(counts, continuous_covariate_keys=("depth",), **{**QUICK, "callback": None})
    with pytest.warns(ScduetWarning, match=named("batch_key='barcode'", 200)):
        sd.fit(counts, batch_key="barcode", **{**QUICK, "callback": None})


def test_a_batch_of_one_cell_trains_with_a_learned_library(counts):
    counts.obs["batch"] = ["alone", *counts.obs["batch"][1:]]
    model = sd.fit(counts, batch_key="batch", use_observed_lib_size=False, **QUICK)
    assert np.isfinite(model.embed()).all()
    assert np.isfinite(model.history["loss_train"]).all()


def test_seeds_out_of_range_are_named(counts, model):
    for seed in (-1, 2**32, 1.5, "a"):
        for call in (
            lambda seed: sd.fit(counts, seed=seed, **QUICK),
            lambda seed: sd.elbo(model, counts, seed=seed),
            lambda seed: sd.datasets.simulate(20, 20, seed=seed),
        ):
            with pytest.raises(OptionError, match=named("'seed'", seed)):
                call(seed)


def _seeded(seed):
    cells = sd.datasets.simulate(120, 40, seed=0)
    return sd.fit(cells, seed=seed, **QUICK).embed()


def test_fits_in_two_threads_are_those_of_one():
    alone = [_seeded(seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(_seeded, (0, 1)))
    assert [np.array_equal(a, b) for a, b in zip(alone, together, strict=True)] == [True, True]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_forked_workers_do_not_hang():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = _seeded(0)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map_async(_seeded, [0, 0]).get(timeout=120)
    finally:
        torch.set_num_threads(threads)
    assert all(np.allclose(one, alone, atol=1e-4) for one in found)
