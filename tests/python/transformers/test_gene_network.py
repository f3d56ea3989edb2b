"""Gene networks of transformers: from learned vectors, from states in cells, and from attention, by condition."""

import numpy as np
import pandas as pd
import pytest
from named import named

import scduet as sd
from scduet.errors import DataError
from scduet.tasks.genes.gene_network import cosines
from scduet.transformers.inference.attention import attention

GENES = [f"GENE{i}" for i in (3, 5, 8, 13, 21, 34, 55)]


@pytest.fixture
def cells(adata):
    """Each cell three times, so that genes are in enough of them; two conditions."""
    many = adata[np.tile(np.arange(40), 3)].copy()
    many.obs_names = [f"cell{i}" for i in range(120)]
    many.obs["drug"] = np.where(np.arange(120) % 40 < 20, "no", "yes")
    return many


def pairs(network, column="weight"):
    return network.set_index(["gene", "other"])[column]


def test_learned_vectors_and_their_cosines(model, cells):
    network = sd.gene_network(model, cells, genes=GENES, n_neighbors=None)
    names = list(cells.var.loc[GENES, "gene_id"]) if model.name == "geneformer" else GENES
    expected = pd.DataFrame(cosines(model.embed_genes().loc[names].to_numpy()), GENES, GENES)
    assert len(network) == 21
    assert all(weight == pytest.approx(expected.loc[pair], abs=1e-5) for pair, weight in pairs(network).items())


def test_states_in_the_cells_of_each_condition(model, cells):
    network = sd.gene_network(model, cells, genes=GENES, n_neighbors=None, method="contextual", groupby="drug")
    for level in ("no", "yes"):
        alone = sd.gene_network(
            model, cells[cells.obs["drug"] == level].copy(), genes=GENES, n_neighbors=None, method="contextual"
        )
        own = network[network["group"] == level]
        both = pairs(own).to_frame("a").join(pairs(alone).to_frame("b"), how="outer")
        assert np.allclose(both["a"], both["b"], atol=1e-5, equal_nan=True)
        assert np.allclose(pairs(own, "coexpression"), pairs(alone, "coexpression").loc[pairs(own).index], atol=1e-6)


def test_attention_has_a_direction_and_differs_from_the_control(model, cells):
    network = sd.gene_network(
        model, cells, genes=GENES, n_neighbors=None, method="attention", groupby="drug", control="no"
    )
    assert set(network["group"]) == {"yes"}
    token = model.match(cells).token[cells.var_names.get_indexer(GENES)]
    found = attention(model, cells, token, (cells.obs["drug"] == "yes").to_numpy(int))
    by = {(a, b): (i, j) for i, a in enumerate(GENES) for j, b in enumerate(GENES)}
    assert network["by_model"].sum() == sum(min(found.cells[:, i, j]) >= 10 for (i, j) in by.values() if i != j)
    for row in network[network["by_model"]].itertuples():
        i, j = by[row.gene, row.other]
        assert row.weight == pytest.approx(found.weight[1, i, j], abs=1e-6)
        assert row.difference == pytest.approx(found.weight[1, i, j] - found.weight[0, i, j], abs=1e-6)
    assert network["difference"].abs().dropna().is_monotonic_decreasing


def test_genes_that_the_checkpoint_does_not_know_and_groups_too_small_are_told(model, cells):
    cells.obs["rare"] = ["x"] * 3 + ["y"] * 117
    with pytest.raises(DataError, match=named("'rare'", "'x'")):
        sd.gene_network(model, cells, genes=GENES, method="attention", groupby="rare")
    with pytest.raises(DataError, match=named("'zz'", "'drug'")):
        sd.gene_network(model, cells, genes=GENES, method="attention", groupby="drug", control="zz")
    with pytest.raises(DataError, match=named(1, 87)):
        sd.gene_network(model, cells, genes=["GENE3"])


def test_of_a_fine_tuned_transformer_the_tuned_encoder_is_read(write, tmp_path, cells):
    """LoRA changes attention, and leaves the table of genes as it was."""
    base = sd.load(write["scgpt"](tmp_path))
    tuned = sd.finetune(cells, base, "drug", max_epochs=3, lr=0.05, accelerator="cpu")
    options = {"genes": GENES, "n_neighbors": None}
    learned = [pairs(sd.gene_network(source, cells, **options)) for source in (base, tuned)]
    assert np.array_equal(*learned)
    looks = [pairs(sd.gene_network(source, cells, method="attention", **options)) for source in (base, tuned)]
    assert (looks[0] - looks[1]).abs().max() > 0.01
