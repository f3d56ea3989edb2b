"""In-silico perturbation: it does to the ranks what other counts would do, and knows what random genes would do."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from named import named
from torch.nn import functional as F

import scduet as sd
from scduet.errors import DataError, OptionError
from scduet.transformers.inference.embedding import in_order
from scduet.transformers.inference.perturbation import rearranged

NINTH = np.arange(90) == 9


@pytest.fixture(scope="module", params=[1, 2], ids=["V1, mean", "V2, cls"])
def geneformer(request, write, tmp_path_factory):
    return sd.load(write["geneformer"](tmp_path_factory.mktemp("geneformer"), request.param))


@pytest.fixture
def shallow(adata):
    """Cells with fewer genes than the model reads, so that counts alone decide what it sees."""
    keep = np.asarray((adata.X > 0).sum(1)).ravel()
    few = adata[(keep > 8) & (keep < 40)].copy()
    few.obs["state"] = np.where(np.arange(few.n_obs) % 2, "ill", "well")
    return few


def with_counts(adata, gene, value):
    """The same cells with another count of one gene."""
    changed = adata.copy()
    x = changed.X.tolil()
    x[:, changed.var_names.get_loc(gene)] = value
    changed.X = x.tocsr().astype(np.float32)
    return changed


def cosine(a, b):
    return F.cosine_similarity(torch.from_numpy(a), torch.from_numpy(b), dim=1).numpy()


def test_the_order_after_a_change():
    genes = np.array([5, 9, 3, 7, 4])
    assert rearranged(genes, np.array([3]), "delete", 5).tolist() == [5, 9, 7, 4]
    assert rearranged(genes, np.array([3, 5]), "delete", 5).tolist() == [9, 7, 4]
    assert rearranged(genes, np.array([3]), "overexpress", 5).tolist() == [3, 5, 9, 7, 4]
    assert rearranged(genes, np.array([8]), "overexpress", 5).tolist() == [8, 5, 9, 3, 7]


@pytest.mark.parametrize(("how", "count"), [("delete", 0), ("overexpress", 1e6)])
def test_cls_moves_as_it_does_for_cells_with_such_counts(write, tmp_path, shallow, how, count):
    model = sd.load(write["geneformer"](tmp_path, 2))
    table = sd.perturb_in_silico(model, shallow, "GENE3", how=how, n_random=0)
    cells = table.attrs["cells"].set_index("cell")["shift"]
    expected = 1 - cosine(model.embed(shallow), model.embed(with_counts(shallow, "GENE3", count)))
    assert np.allclose(cells.loc[shallow.obs_names], expected, atol=1e-5)
    assert table.loc["GENE3", "shift"] == pytest.approx(expected.mean(), abs=1e-5)
    assert np.isnan(table.loc["GENE3", "random_shift"])


@pytest.mark.parametrize("how", ["delete", "overexpress"])
def test_without_cls_each_other_gene_is_compared_with_itself(write, tmp_path, adata, how):
    model = sd.load(write["geneformer"](tmp_path, 1))
    found = sd.perturb_in_silico(model, adata, "GENE3", how=how, n_random=0).attrs["cells"].set_index("cell")["shift"]
    data, tokenizer = model.prepared(adata)
    gene, module = model.vocabulary.token["ENSG00000000003"], model.module
    for cell in range(0, 40, 7):
        batch = tokenizer(in_order(data.counts, cell, cell + 1))
        order = [token for token in batch.gene[0].tolist() if token != gene]
        after = torch.tensor([([] if how == "delete" else [gene]) + order])[:, :48]
        nothing = torch.zeros_like(after, dtype=torch.bool)
        with torch.inference_mode():
            old = dict(zip(batch.gene[0].tolist(), module.states(batch), strict=True))
            new = module.states(type(batch)(after, nothing, batch.index))
        pairs = [(old[t], state) for t, state in zip(after[0].tolist(), new, strict=True) if t != gene]
        expected = np.mean([float(F.cosine_similarity(a, b, dim=0)) for a, b in pairs])
        assert found[adata.obs_names[cell]] == pytest.approx(1 - expected, abs=1e-5)


def test_the_shift_towards_a_goal_is_that_of_the_cosines(geneformer, shallow):
    table = sd.perturb_in_silico(geneformer, shallow, "GENE3", labels_key="state", start="ill", goal="well", n_random=0)
    ill = shallow[shallow.obs["state"] == "ill"].copy()
    goal = geneformer.embed(shallow[shallow.obs["state"] == "well"].copy()).mean(0, keepdims=True)
    after = cosine(geneformer.embed(with_counts(ill, "GENE3", 0)), goal) - cosine(geneformer.embed(ill), goal)
    cells = table.attrs["cells"].set_index("cell")["towards"]
    assert np.allclose(cells.loc[ill.obs_names], after, atol=1e-5)
    assert table.loc["GENE3", "n_cells"] == ill.n_obs


@pytest.mark.parametrize("how", ["delete", "overexpress"])
def test_a_gene_that_matters_stands_out_of_random_genes_of_like_expression(write, tmp_path, adata, how):
    """All genes are nearly the same to the model, but one; and ranks mean nothing to it when genes are deleted."""
    model = sd.load(write["geneformer"](tmp_path, 2))
    strong = model.vocabulary.token["ENSG00000000007"]
    with torch.no_grad():
        weight = model.module.gene.weight
        different = weight[strong].clone()
        weight[4:] = weight[4] + 0.01 * weight[4:]
        weight[strong] = different
        model.module.position.weight[2 if how == "overexpress" else 0 :] = 0
    table = sd.perturb_in_silico(model, adata, ["GENE7", "GENE11", "GENE12", "GENE13"], how=how, n_random=19)
    assert table.index[0] == "GENE7"
    assert table.loc["GENE7", "p_value"] == pytest.approx(1 / 20)
    assert table.loc["GENE7", "z"] > 3
    assert (table.loc[["GENE11", "GENE12", "GENE13"], "p_value"] > 0.05).any()
    assert (table["fdr"] >= table["p_value"]).all()
    counted = np.asarray((adata[:, "GENE7"].X > 0).sum())
    assert table.loc["GENE7", "n_expressed"] == counted >= table.loc["GENE7", "n_held"]


def test_the_table_can_be_printed_joined_and_read_again_with_what_it_carries(geneformer, adata):
    table = sd.perturb_in_silico(geneformer, adata, ["GENE3", "GENE5"], n_random=1, max_cells=4)
    with pd.option_context("display.width", 40, "display.max_columns", 3):
        assert "GENE3" in str(table)
        assert "GENE3" in table.to_html()
    other = sd.perturb_in_silico(geneformer, adata, "GENE8", n_random=1, max_cells=4)
    assert sorted(pd.concat([table, other]).index) == ["GENE3", "GENE5", "GENE8"]
    cells = table.round(3).attrs["cells"]
    assert set(cells["gene"]) == {"GENE3", "GENE5"}
    assert (cells == cells.copy()).all().all()  # of its cells, beside any other table
    table.to_pickle(buffer := io.BytesIO())
    buffer.seek(0)
    assert set(pd.read_pickle(buffer).attrs["cells"]["gene"]) == {"GENE3", "GENE5"}


def test_genes_together_are_one_row_and_the_seed_decides(geneformer, adata):
    options = {"n_random": 5, "max_cells": 6}
    table = sd.perturb_in_silico(geneformer, adata, {"pair": ["GENE3", "GENE8"], "one": ["GENE5"]}, **options)
    assert set(table.index) == {"pair", "one"}
    assert (table["n_cells"] == 6).all()
    again = sd.perturb_in_silico(geneformer, adata, {"pair": ["GENE8", "GENE3"], "one": "GENE5"}, **options)
    assert table.equals(again)
    listed = sd.perturb_in_silico(geneformer, adata, [("GENE3", "GENE8")], n_random=0)
    alone = sd.perturb_in_silico(geneformer, adata, "GENE3", n_random=0)
    assert listed.index.tolist() == ["GENE3 + GENE8"]
    assert listed["n_held"].iloc[0] >= alone["n_held"].iloc[0]


def test_a_gene_that_no_cell_holds_is_told_with_the_numbers_of_cells(geneformer, adata):
    silent = with_counts(adata, "GENE9", 0)
    with pytest.raises(DataError, match=named("'GENE9'", 0, 40)):
        sd.perturb_in_silico(geneformer, silent, ["GENE3", "GENE9"])
    last = with_counts(adata, "GENE9", 0)
    last.X = (last.X * 100 + with_counts(adata, "GENE9", 1).X.multiply(NINTH)).tocsr()
    deep = last[np.asarray((last.X > 0).sum(1)).ravel() > 8]
    with pytest.raises(DataError, match=named("'GENE9'", deep.n_obs, 0, "max_length")):
        sd.perturb_in_silico(geneformer, deep, "GENE9", max_length=5)
    there = sd.perturb_in_silico(geneformer, silent, "GENE9", how="overexpress", n_random=0)
    assert there.loc["GENE9", ["n_expressed", "n_held", "n_cells"]].tolist() == [0, 0, 40]


def test_wrong_arguments(model, geneformer, adata):
    adata.obs["state"] = "a"
    with pytest.raises(DataError, match=named("'ZZ'")):
        sd.perturb_in_silico(geneformer, adata, ["GENE3", "ZZ"])
    with pytest.raises(OptionError, match=named("how", "'inhibit'", "'delete'")):
        sd.perturb_in_silico(geneformer, adata, "GENE3", how="inhibit")
    with pytest.raises(OptionError, match=named("start", "goal", "labels_key")):
        sd.perturb_in_silico(geneformer, adata, "GENE3", goal="a")
    with pytest.raises(DataError, match=named("'b'", "'state'")):
        sd.perturb_in_silico(geneformer, adata, "GENE3", labels_key="state", goal="b")
    with pytest.raises(DataError, match=named("genes")):
        sd.perturb_in_silico(geneformer, adata, [])
    with pytest.raises(OptionError, match=named("'poling'", "'pooling'")):
        sd.perturb_in_silico(geneformer, adata, "GENE3", poling="cls")
    if model.name != "geneformer":
        with pytest.raises(OptionError, match=named(repr(model.name), "Geneformer's")):
            sd.perturb_in_silico(model, adata, "GENE3")
