"""Embedding whole data sets: neighbors, padding, order and memory change nothing; bad input is refused by name."""

import dataclasses

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import assert_named, named

from scduet.errors import DataError, DeviceError, OptionError, ScduetWarning
from scduet.transformers.inference import embedding
from scduet.transformers.inference.embedding import alike


def test_a_cell_alone_is_the_cell_among_others(model, adata):
    together = model.embed(adata)
    for i in (0, 5, 39):
        np.testing.assert_allclose(model.embed(adata[i : i + 1].copy()), together[i : i + 1], atol=2e-6)


@pytest.mark.parametrize("tokens_at_once", [1, 64, 100_000])
def test_size_of_minibatches_and_windows_changes_nothing(model, adata, tokens_at_once, monkeypatch):
    together = model.embed(adata)
    monkeypatch.setattr(embedding, "WINDOW", 7)
    np.testing.assert_allclose(model.embed(adata, tokens_at_once=tokens_at_once), together, atol=2e-6)


def test_order_of_cells_and_genes_changes_nothing(model, adata):
    order = np.random.default_rng(1).permutation(adata.n_obs)
    np.testing.assert_allclose(model.embed(adata[order].copy()), model.embed(adata)[order], atol=2e-6)
    if model.name != "geneformer":  # equal ranks keep the order of the genes in the data
        genes = np.random.default_rng(2).permutation(adata.n_vars)
        np.testing.assert_allclose(model.embed(adata[:, genes].copy()), model.embed(adata), atol=2e-6)


def test_genes_that_the_checkpoint_does_not_know_change_nothing(model, adata):
    extra = ad.AnnData(
        sp.csr_matrix(np.ones((40, 2), np.float32)),
        obs=adata.obs,
        var=pd.DataFrame({"gene_id": ["A", "B"]}, index=["A", "B"]),
    )
    more = ad.concat([extra, adata], axis=1, merge="same")
    np.testing.assert_allclose(model.embed(more), model.embed(adata), atol=2e-6)


def test_dense_and_sparse_and_a_layer_are_the_same(model, adata):
    dense = ad.AnnData(
        np.full(adata.shape, -1.0, np.float32), adata.obs, adata.var, layers={"counts": adata.X.toarray()}
    )
    np.testing.assert_array_equal(model.embed(dense, layer="counts"), model.embed(adata))


def test_low_precision_is_close(model, adata):
    exact = model.embed(adata)
    for precision in ("bf16", "16") if model.module.fits_float16 else ("bf16",):
        low = model.embed(adata, precision=precision)
        cosine = (low * exact).sum(1) / np.linalg.norm(low, axis=1) / np.linalg.norm(exact, axis=1)
        assert cosine.min() > 0.999
        assert low.dtype == np.float32


def test_scfoundation_refuses_float16(model, adata):
    if model.name == "scfoundation":
        with pytest.raises(OptionError, match=named("float16", "bf16")):
            model.embed(adata, precision="16")


def test_progress_reaches_the_end(model, adata):
    seen = []
    model.embed(adata, tokens_at_once=64, callback=seen.append)
    assert [event.done for event in seen] == sorted(event.done for event in seen)
    last = seen[-1]
    assert (last.kind, last.done, last.total, last.unit, last.seconds_left) == ("progress", 40, 40, "cell", 0)
    assert len(seen) > 3


def test_minibatches_stay_within_the_budget_and_hold_each_cell_once():
    lengths = np.random.default_rng(0).integers(1, 500, 300)
    groups = alike(lengths, 1000)
    assert sorted(np.concatenate(groups)) == list(range(300))
    assert all(len(g) * lengths[g].max() <= 1000 for g in groups if len(g) > 1)
    waste = sum(len(g) * lengths[g].max() for g in groups) / lengths.sum()
    assert waste < 1.1


class _SmallMemory:
    """Stands before a module and says that memory is out for more than `most` tokens."""

    def __init__(self, function, most):
        self.function, self.most, self.sizes = function, most, []

    def __call__(self, tokens):
        self.sizes.append(tokens.gene.numel())
        if tokens.gene.numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.function(tokens)


def test_out_of_memory_halves_the_minibatch_and_says_so(model, adata, monkeypatch):
    together, small = model.embed(adata), _SmallMemory(model.module.embed, 300)
    monkeypatch.setattr(model.module, "embed", lambda tokens, options: small(tokens))
    with pytest.warns(ScduetWarning, match=named("cpu")) as told:
        np.testing.assert_allclose(model.embed(adata), together, atol=2e-6)
    assert_named(str(told[0].message), 40)
    assert max(small.sizes) > 300
    assert small.sizes[-1] <= 300


def test_a_cell_that_does_not_fit_is_an_error(model, adata, monkeypatch):
    small = _SmallMemory(model.module.embed, 2)
    monkeypatch.setattr(model.module, "embed", lambda tokens, options: small(tokens))
    with pytest.raises(DeviceError, match=named("tokens", "max_length", "cpu")):
        model.embed(adata[:1].copy())


def test_other_errors_of_torch_are_not_taken_for_lack_of_memory(model, adata, monkeypatch):
    error = RuntimeError("of another kind")

    def fail(tokens, options):
        raise error

    monkeypatch.setattr(model.module, "embed", fail)
    with pytest.raises(RuntimeError) as caught:
        model.embed(adata)
    assert caught.value is error


def test_learned_vectors_of_genes_are_the_rows_of_the_table(model):
    vectors = model.embed_genes()
    assert len(vectors) == 90
    gene = vectors.index[7]
    row = model.module.genes()[model.vocabulary.token[gene]].detach()
    np.testing.assert_allclose(vectors.loc[gene], row, atol=1e-7)


def test_contextual_vectors_of_genes_are_means_over_cells(model, adata):
    some_cells = adata[:6].copy()
    vectors = model.embed_genes(some_cells)
    each = [model.embed_genes(some_cells[i : i + 1].copy()) for i in range(6)]
    gene = vectors.index[0]
    mean = np.mean([v.loc[gene] for v in each if gene in v.index], 0)
    np.testing.assert_allclose(vectors.loc[gene], mean, atol=1e-5)


def test_statistics_of_tokens(model, adata):
    told = model.token_statistics(adata)
    assert told["genes_known"] == told["genes"] == 90
    assert told["share_of_counts"] == 1
    extra = {"geneformer": 2, "scgpt": 1, "scfoundation": 2}[model.name]
    assert told["tokens_least"] == (adata.X > 0).sum(1).min() + extra


# --------------------------------------------------------------------------------------------------------- bad input


def test_unknown_options_and_values_are_named(model, adata):
    with pytest.raises(OptionError, match=named(model.name, "'poling'", "'pooling'")):
        model.embed(adata, poling="cls")
    with pytest.raises(OptionError, match=named("'pooling'", "'median'")):
        model.embed(adata, pooling="median")
    with pytest.raises(OptionError, match=named("'precision'", "'64'")):
        model.embed(adata, precision="64")
    with pytest.raises(OptionError, match=named("'tokens_at_once'", 0)):
        model.embed(adata, tokens_at_once=0)


def test_no_shared_genes(model, adata):
    adata.var_names = [f"x{i}" for i in range(90)]
    del adata.var["gene_id"]
    with pytest.raises(DataError, match=named(0, 90, "var_names")):
        model.embed(adata)


def test_mouse_genes(model, adata):
    adata.var_names = [f"Actb{i}" for i in range(90)]
    adata.var["gene_id"] = [f"ENSMUSG{i:011d}" for i in range(90)]
    with pytest.raises(DataError, match=named(0, 90, "mouse")):
        model.embed(adata)


def test_symbols_where_ids_are_needed_and_the_reverse(model, adata):
    if model.vocabulary.identifiers == "ensembl":
        adata.var_names, wanted = [f"SYMB{i}" for i in range(90)], "Ensembl"
        del adata.var["gene_id"]
    else:
        adata.var_names, wanted = adata.var["gene_id"].to_numpy(), "symbols"
    with pytest.raises(DataError, match=named(0, 90, wanted)):
        model.embed(adata)


def test_symbols_are_translated_where_the_checkpoint_has_a_dictionary(model, adata):
    if model.name == "geneformer":
        truth = model.embed(adata)
        del adata.var["gene_id"]
        assert model.match(adata).place == "var_names"
        np.testing.assert_array_equal(model.embed(adata), truth)
        adata.var["versioned"] = [f"{gene}.7" for gene in model.vocabulary.token]
        np.testing.assert_array_equal(model.embed(adata, gene_column="versioned"), truth)


def test_a_column_that_is_not_there(model, adata):
    with pytest.raises(DataError, match=named("'genes'", "adata.var", "'gene_id'")):
        model.embed(adata, gene_column="genes")


def test_a_low_share_of_known_genes_is_refused_or_allowed(model, adata):
    names = adata.var_names.to_numpy().copy()
    names[5:] = [f"unknown{i}" for i in range(85)]
    adata.var_names = names
    adata.var["gene_id"] = ["unknown"] * 5 + [f"u{i}" for i in range(85)] if model.name != "geneformer" else names
    with pytest.raises(DataError, match=named(5, 90, "50%")):
        model.embed(adata)
    assert model.embed(adata, min_share=0.01).shape[0] == 40


def test_log_normalized_values(model, adata):
    truth = model.embed(adata)
    adata.X = sp.csr_matrix(np.log1p(adata.X.toarray() / 3))
    if model.name == "scgpt":  # bins do not change under a monotone map
        np.testing.assert_allclose(model.embed(adata), truth, atol=2e-6)
    else:
        with pytest.raises(DataError, match=named("X", "log", "'cell0'", "layer")):
            model.embed(adata)


def test_scaled_values(model, adata):
    adata.X = adata.X.toarray() - 0.5
    with pytest.raises(DataError, match=named("X", "negative", "'cell0'")):
        model.embed(adata)


def test_empty_cells_are_named(model, adata):
    adata.X = sp.csr_matrix(adata.X.toarray() * (np.arange(40) != 7)[:, None])
    with pytest.raises(DataError, match=named("'cell7'")):
        model.embed(adata)


def test_cells_without_a_known_gene_are_named(model, adata):
    dense = adata.X.toarray()
    dense[4] = 0
    dense[4, 0] = 3
    adata.X = sp.csr_matrix(dense)
    adata.var_names = ["unknown", *adata.var_names[1:]]
    adata.var["gene_id"] = ["unknown", *adata.var["gene_id"][1:]]
    with pytest.raises(DataError, match=named("'cell4'")):
        model.embed(adata)


def test_a_cell_with_more_genes_than_the_model_takes_is_cut(model, adata):
    """Geneformer keeps the highest ranks, scGPT a random choice, scFoundation takes all."""
    told = model.token_statistics(adata)
    most = {"geneformer": 48, "scgpt": 91, "scfoundation": 92}[model.name]
    assert told["tokens_most"] <= most
    if model.name == "geneformer":
        assert told["cells_cut"] > 0
    if model.name == "scgpt":
        short = model.token_statistics(adata, max_length=10)
        assert short["tokens_most"] == 10
        with pytest.raises(OptionError, match=named("max_length", 1, 2)):
            model.embed(adata, max_length=1)


def test_a_layer_out_of_range(model, adata):
    if model.name == "geneformer":
        for emb_layer in (1, -3):
            with pytest.raises(OptionError, match=named("emb_layer", emb_layer, -2, 0)):
                model.embed(adata, emb_layer=emb_layer)


def test_resolution_must_be_understood(model, adata):
    if model.name == "scfoundation":
        for resolution in ("4", "t", "x4", "f0"):
            with pytest.raises(OptionError, match=named("resolution", repr(resolution))):
                model.embed(adata, resolution=resolution)


def test_pretrained_models_are_frozen(model):
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "other"
