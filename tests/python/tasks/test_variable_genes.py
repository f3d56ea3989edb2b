"""The choice of variable genes is scanpy's, of counts that stay as they are, and the model is trained on it."""

import numpy as np
import pytest

import scduet as sd
from scduet.errors import DataError, OptionError

QUICK = {"max_epochs": 1, "n_hidden": 8, "callback": lambda event: None}


def by_scanpy(adata, n, batch_key=None, layer=None):
    import scanpy as sc

    copy = adata.copy()
    copy.X = copy.X.copy() if layer is None else copy.layers[layer].copy()
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    sc.pp.highly_variable_genes(copy, n_top_genes=n, flavor="seurat", batch_key=batch_key)
    return copy.var


@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_it_is_that_of_scanpy_and_the_model_has_these_genes(counts, batch_key):
    before, truth = counts.copy(), by_scanpy(counts, 20, batch_key)
    model = sd.integrate(counts, n_top_genes=20, batch_key=batch_key, **QUICK)
    for column in truth:
        np.testing.assert_array_equal(counts.var[column], truth[column])
    assert counts.uns["hvg"] == {"flavor": "seurat"}
    assert model.genes == list(counts.var_names[truth["highly_variable"]])
    assert len(model.genes) == 20
    assert (counts.X != before.X).nnz == 0
    assert list(counts.obs) == list(before.obs)


def test_counts_of_a_layer_and_an_earlier_choice(counts):
    counts.layers["counts"] = counts.X.copy()
    counts.X = counts.X.copy() * 0.5
    counts.var["highly_variable"] = np.arange(60) < 3
    said = []
    options = {**QUICK, "callback": lambda event: said.append(event.message), "layer": "counts"}
    sd.integrate(counts, n_top_genes=12, **options)
    truth = by_scanpy(counts, 12, layer="counts")["highly_variable"]  # more than 12 where genes are tied
    np.testing.assert_array_equal(counts.var["highly_variable"], truth)
    assert any(f"{truth.sum()} highly variable genes of 60" in line for line in said)


def test_more_than_there_are_is_all(counts):
    assert len(sd.integrate(counts, n_top_genes=500, **QUICK).genes) == 60


def test_batches_of_few_cells_do_not_break_it(counts):
    counts.obs["plate"] = ["one"] * 1 + ["two"] * 3 + ["left"] * 96 + ["right"] * 100
    sd.integrate(counts, n_top_genes=30, batch_key="plate", **QUICK)
    truth = by_scanpy(counts[4:], 30, "plate")
    np.testing.assert_array_equal(counts.var["highly_variable"], truth["highly_variable"])
    assert counts.var["highly_variable_nbatches"].max() == 2


def test_where_all_batches_are_small_the_genes_are_ranked_over_all_cells(counts):
    counts.obs["plate"] = [f"plate{i // 10}" for i in range(200)]
    sd.integrate(counts, n_top_genes=30, batch_key="plate", **QUICK)
    np.testing.assert_array_equal(counts.var["highly_variable"], by_scanpy(counts, 30)["highly_variable"])


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"n_top_genes": 0}, OptionError, "n_top_genes"),
        ({"n_top_genes": 20.5}, OptionError, "n_top_genes"),
        ({"n_top_genes": 20, "genes": ("gene1", "gene2")}, OptionError, "genes="),
        ({"n_top_genes": 20, "n_latnet": 5}, OptionError, "n_latent"),
        ({"n_top_genes": 20, "batch_key": "zz"}, DataError, "zz"),
        ({"n_top_genes": 20, "layer": "zz"}, DataError, "zz"),
    ],
)
def test_refused_before_anything_is_written(counts, options, error, named):
    with pytest.raises(error, match=named):
        sd.integrate(counts, **options)
    assert "highly_variable" not in counts.var


def test_logged_values_are_refused(counts):
    counts.X = counts.X.log1p()
    with pytest.raises(DataError, match="X"):
        sd.integrate(counts, n_top_genes=20)
    assert "highly_variable" not in counts.var


def test_counts_on_disk_are_refused(counts, tmp_path):
    path = tmp_path / "cells.h5ad"
    counts.write_h5ad(path)
    with pytest.raises(OptionError, match="genes="):
        sd.integrate(path, output=tmp_path / "out.h5ad", n_top_genes=20)
    assert not (tmp_path / "out.h5ad").exists()


def test_on_the_command_line(counts, tmp_path):
    import anndata

    from scduet.cli import main

    source, target = tmp_path / "cells.h5ad", tmp_path / "out.h5ad"
    counts.write_h5ad(source)
    quick = ["--max-epochs", "1", "--n-hidden", "8", "--quiet"]
    assert main(["integrate", str(source), "-o", str(target), "--n-top-genes", "15", *quick]) == 0
    chosen = by_scanpy(counts, 15)["highly_variable"]
    np.testing.assert_array_equal(anndata.read_h5ad(target).var["highly_variable"], chosen)
    assert main(["integrate", str(source), "-o", str(target), "--overwrite", "--on-disk", "--n-top-genes", "15"]) == 2
