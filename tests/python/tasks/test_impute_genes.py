"""Planted modules of genes: hidden ones are predicted, independent ones are not and it is said so; and bad input."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from named import named

import scduet as sd
from scduet.errors import DataError, OptionError, ScduetWarning

N_CELLS, N_MODULES, OF_EACH = 150, 4, 15
METHODS = ["ridge", "knn", "knn_10", "depth", "mean"]


def cells(names, effect, seed, depth=40.0):
    """Genes in modules of which each cell has an amount of its own, at a total that differs between cells."""
    rng = np.random.default_rng(seed)
    amount = rng.normal(0, effect, (N_CELLS, N_MODULES)).repeat(OF_EACH, 1)
    rate = np.exp(amount + 1) * rng.gamma(4, 0.25, (N_CELLS, 1)) * depth / 40
    found = ad.AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)))
    found.var_names, found.obs_names = names, [f"{seed}-{i}" for i in range(N_CELLS)]
    return found


NAMES = [f"m{module}g{i}" for module in range(N_MODULES) for i in range(OF_EACH)]
MEASURED = [name for name in NAMES if int(name.split("g")[1]) >= 5]


@pytest.fixture(scope="module")
def planted():
    """Single cells with all genes, spatial ones with two thirds of each module, and the truth."""
    truth = cells(NAMES, 1.0, 1)
    truth.obs["area"], truth.obsm["spatial"] = 1.0, np.zeros((N_CELLS, 2))
    return truth[:, MEASURED].copy(), cells(NAMES, 1.0, 0), truth


def independent():
    return cells(NAMES, 0.0, 1)[:, MEASURED].copy(), cells(NAMES, 0.0, 0)


@pytest.mark.parametrize("model", ["auto", "ridge", "knn", "knn_10"])
def test_genes_of_a_module_are_predicted(planted, model):
    spatial, single, truth = planted
    before = spatial.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScduetWarning)
        found = sd.impute_genes(spatial, single, model=model)
    assert list(found.values.var_names) == [name for name in NAMES if name not in MEASURED]
    assert list(found.values.obs_names) == list(spatial.obs_names)
    assert list(found.values.obs) == ["area"]
    assert "spatial" in found.values.obsm
    known = np.log1p(truth[:, found.values.var_names].X.toarray() * 1e4 / truth.X.sum(1).A)
    each = [np.corrcoef(a, b)[0, 1] for a, b in zip(known.T, found.values.X.T, strict=True)]
    assert np.median(each) > 0.4
    assert np.sqrt(np.square(known - found.values.X).mean()) < 0.9 * np.sqrt(np.square(known - known.mean(0)).mean())
    assert found.table.loc["knn", "beyond_depth"] > 0.5 > 0.2 > found.table.loc["depth", "spearman"]
    assert (found.values.X >= 0).all()
    assert np.array_equal(before.X.toarray(), spatial.X.toarray())
    assert not spatial.uns


def test_the_table_holds_every_method_and_gene(planted):
    spatial, single, _ = planted
    found = sd.impute_genes(spatial, single)
    assert list(found.table.index) == METHODS
    assert sorted(found.scores.loc["ridge"].index) == sorted(MEASURED)
    assert np.isclose(found.table.loc["knn", "spearman"], found.scores.loc["knn", "spearman"].median())
    assert found.model == found.table.loc[["ridge", "knn", "knn_10"], "beyond_depth"].idxmax()
    assert (found.table["rmse"][:3] < found.table.loc["mean", "rmse"]).all()
    assert (found.table.loc["mean", ["spearman", "beyond_depth", "pearson"]] == 0).all()


def test_gimvi_is_judged_beside_the_others(planted):
    spatial, single, truth = planted
    found = sd.impute_genes(spatial, single, model="gimvi", n_folds=2, max_epochs=60, batch_size=64)
    assert list(found.table.index) == [*METHODS[:3], "gimvi", *METHODS[3:]]
    assert found.model == "gimvi"
    assert found.table.loc["gimvi", "beyond_depth"] > 0.25
    known = np.log1p(truth[:, found.values.var_names].X.toarray() * 1e4 / truth.X.sum(1).A)
    each = [np.corrcoef(a, b)[0, 1] for a, b in zip(known.T, found.values.X.T, strict=True)]
    assert np.median(each) > 0.25
    assert abs(found.values.X.mean() / known.mean() - 1) < 0.2  # of counts per 10,000 of all genes


@pytest.mark.filterwarnings("ignore::scduet.errors.ScduetWarning")
def test_a_held_out_gene_is_not_seen():
    """A gene of its own with most of the counts would give itself away by the shares of the others."""
    spatial, single = independent()
    for part in (spatial, single):
        x = part.X.toarray()
        x[:, part.var_names.get_loc("m0g7")] = np.random.default_rng(part.n_vars).poisson(2, N_CELLS) * 500
        part.X = sp.csr_matrix(x)
    own = sd.impute_genes(spatial, single).scores.xs("m0g7", level="gene")["beyond_depth"]
    assert (own.abs() < 0.35).all()


def test_independent_genes_are_said_not_to_be_predicted():
    """Totals differ between cells, by which log shares of independent genes correlate all the same."""
    spatial, single = (cells(NAMES, 0.0, seed, depth=8.0) for seed in (1, 0))
    with pytest.warns(ScduetWarning, match=named("Spearman")):
        found = sd.impute_genes(spatial[:, MEASURED].copy(), single)
    assert (found.table["beyond_depth"].abs() < 0.1).all()
    assert "Spearman" in found.notes[0]


def test_a_platform_effect_does_not_hinder(planted):
    spatial, single, _ = planted
    other = spatial.copy()
    keep = np.random.default_rng(0).uniform(0.2, 1, spatial.n_vars)
    other.X = sp.csr_matrix(np.random.default_rng(0).binomial(spatial.X.toarray().astype(int), keep).astype("f4"))
    found = sd.impute_genes(other, single)
    assert found.table.loc[found.model, "beyond_depth"] > 0.4


def test_named_genes_and_order(planted):
    spatial, single, _ = planted
    found = sd.impute_genes(spatial, single, ["m3g0", "m0g1"], model="ridge")
    shuffled = single[::-1, np.random.default_rng(0).permutation(single.n_vars)].copy()
    again = sd.impute_genes(spatial[:, ::-1].copy(), shuffled, ["m3g0", "m0g1"], model="ridge")
    assert list(found.values.var_names) == ["m3g0", "m0g1"] == list(again.values.var_names)
    assert np.allclose(found.values.X, again.values.X, atol=1e-3)
    assert sd.impute_genes(spatial, single, n_genes=3).values.n_vars == 3


def test_single_cells_without_shared_counts_are_left_out(planted):
    spatial, single, _ = planted
    x = single.X.toarray()
    x[:4, single.var_names.isin(MEASURED)] = 0
    silent = ad.AnnData(sp.csr_matrix(x), single.obs, single.var)
    assert any("4" in note for note in sd.impute_genes(spatial, silent).notes)


def renamed(data, names):
    data = data.copy()
    data.var_names = names
    return data


def test_bad_input(planted):
    spatial, single, _ = planted
    logged = spatial.copy()
    logged.X = logged.X.log1p()
    empty = spatial.copy()
    empty.X = sp.csr_matrix(empty.X.multiply(np.arange(N_CELLS)[:, None] != 3))
    ids = renamed(single, [f"ENSG{i:011d}" for i in range(single.n_vars)])
    for data, reference, error, names in [
        (logged, single, DataError, ["X"]),
        (spatial, renamed(logged, MEASURED), DataError, []),
        (empty, single, DataError, ["'1-3'"]),
        (spatial[:, :9].copy(), single, DataError, ["9"]),
        (spatial, ids, DataError, ["0", "Ensembl"]),
        (spatial[:5].copy(), single, DataError, ["spatial", "5"]),
        (spatial, single[:5].copy(), DataError, ["single_cell", "5"]),
        (single, single, DataError, []),
        (spatial.to_df(), single, DataError, ["spatial", "DataFrame"]),
    ]:
        with pytest.raises(error, match=named(*names)):
            sd.impute_genes(data, reference)
    for options, error, names in [
        ({"genes": ["m0g0", "nobody"]}, DataError, ["'nobody'", "single_cell"]),
        ({"genes": ["m0g0", "m0g9"]}, DataError, ["'m0g9'", "spatial"]),
        ({"genes": ["m0g0", "m0g0"]}, DataError, ["m0g0"]),
        ({"genes": []}, OptionError, ["genes"]),
        ({"model": "tangram"}, OptionError, ["'tangram'", "ridge", "gimvi"]),
        ({"model": "ridge", "max_epochs": 3}, OptionError, ["'max_epochs'", "'ridge'"]),
        ({"model": "gimvi", "n_layers": 3}, OptionError, ["'n_layers'", "'gimvi'"]),
        ({"n_folds": 1}, OptionError, ["'n_folds'"]),
    ]:
        with pytest.raises(error, match=named(*names)):
            sd.impute_genes(spatial, single, **options)


def test_command(planted, tmp_path, capsys):
    from scduet.cli import main

    spatial, single, _ = planted
    spatial.write_h5ad(tmp_path / "spatial.h5ad")
    single.write_h5ad(tmp_path / "cells.h5ad")
    asked = ["impute-genes", str(tmp_path / "spatial.h5ad"), str(tmp_path / "cells.h5ad")]
    out, scores = tmp_path / "out.h5ad", tmp_path / "scores.csv"
    assert main([*asked, "-o", str(out), "--scores", str(scores), "--gene", "m0g0", "--gene", "m1g1"]) == 0
    found = sd.impute_genes(spatial, single, ["m0g0", "m1g1"])
    assert repr(found) in capsys.readouterr().out
    assert np.allclose(ad.read_h5ad(out).to_df(), found.values.to_df())
    assert len(pd.read_csv(scores)) == len(found.scores)
    assert main([*asked, "-o", str(tmp_path / "out.csv"), "--model", "ridge", "--n-genes", "2"]) == 0
    assert pd.read_csv(tmp_path / "out.csv", index_col=0).shape == (N_CELLS, 2)
    assert main([*asked, "-o", str(tmp_path / "b.csv"), "--gene", "nobody"]) == 1
    assert main([*asked, "-o", str(tmp_path / "b.csv"), "--model", "tangram"]) == 2
