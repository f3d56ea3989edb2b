"""Attention between genes against a plain re-computation, head after head and cell after cell."""

import numpy as np
import pytest
import torch
from named import named
from scipy.stats import rankdata

from scduet.errors import OptionError
from scduet.transformers.encoder.trunk import Packing
from scduet.transformers.inference.attention import attention, quantiles


def plain(model, adata, token, cells, block):
    """Mean quantiles by loops and numpy."""
    total, seen = np.zeros((2, len(token), len(token)))
    data, tokenizer = model.prepared(adata)
    from scduet.transformers.inference.embedding import in_order

    module, qkv = model.module, model.module.trunk.blocks[block].qkv
    for cell in cells:
        batch = tokenizer(in_order(data.counts, cell, cell + 1))
        with torch.inference_mode():
            states = module(batch, Packing.of(batch.padding), block).double().numpy()
        genes = batch.gene[0].tolist()
        kept = [i for i, gene in enumerate(genes) if gene in token]
        q, k, _ = np.split(states[kept] @ qkv.weight.detach().double().numpy().T + qkv.bias.detach().numpy(), 3, axis=1)
        place = [token.index(genes[i]) for i in kept]
        ranks = 0
        for head in range(2):
            part = slice(head * 8, head * 8 + 8)
            rows = (rankdata(q[:, part] @ k[:, part].T, axis=1) - 0.5) / len(kept)
            ranks = ranks + (rankdata(rows.round(9), axis=0) - 0.5) / len(kept) / 2
        total[np.ix_(place, place)] += ranks
        seen[np.ix_(place, place)] += 1
    return total, seen


@pytest.mark.parametrize("block", [0, 1])
def test_attention_is_that_of_the_formula(model, adata, block):
    token = model.match(adata).token[[3, 10, 11, 40, 41, 60, 77, 89]]
    group = np.repeat([0, 1], [25, 15])
    found = attention(model, adata, token, group, block=block)
    for code, cells in enumerate([range(25), range(25, 40)]):
        total, seen = plain(model, adata, token.tolist(), cells, block)
        assert np.array_equal(found.cells[code], seen)
        assert np.allclose(found.weight[code][seen > 0], (total / np.maximum(seen, 1))[seen > 0], atol=1e-5)
        assert np.isnan(found.weight[code][seen == 0]).all()


def test_the_cells_computed_together_make_no_difference(model, adata):
    token = model.match(adata).token[:30]
    alone = attention(model, adata, token, np.zeros(40, int), tokens_at_once=1)
    together = attention(model, adata, token, np.zeros(40, int))
    assert np.allclose(alone.weight, together.weight, atol=1e-4, equal_nan=True)
    with pytest.raises(OptionError, match=named("block", 2, model.name)):
        attention(model, adata, token, np.zeros(40, int), block=2)


def test_quantiles_do_not_depend_on_the_order_of_the_genes_even_where_values_are_equal():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 4, (2, 9, 9), generator=generator).float()
    order = torch.randperm(9, generator=generator)
    assert torch.equal(quantiles(values)[:, order][:, :, order], quantiles(values[:, order][:, :, order]))
    assert torch.equal(quantiles(torch.zeros(1, 5, 5)), torch.full((1, 5, 5), 0.5))
