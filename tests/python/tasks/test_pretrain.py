"""Pre-training on one's own cells: that it learns what the data hold, and that what is generated is like them."""

import numpy as np
import pandas as pd
import pytest
from named import named
from transformer_toys import GENES, make_cells, transformer

import scduet as sd
from scduet.errors import DataError, FormatError, OptionError, ScduetWarning
from scduet.metrics.perturbation import energy_distance
from scduet.tasks.foundation.finetune import evaluate, finetune
from scduet.tasks.foundation.generate import generate, prompt_vectors
from scduet.tasks.foundation.pretrain import pretrain
from scduet.train import resume
from scduet.transformers.families.scratch import usual_counts
from scduet.transformers.inference.embedding import SAME, spread

SMALL = dict(width=32, n_layers=2, n_heads=4, feedforward=64, accelerator="cpu", batch_size=10)


@pytest.fixture(scope="module")
def cells():
    return make_cells(200, 1)


@pytest.fixture(scope="module")
def gpt(cells):
    return pretrain(cells, "scgpt", max_epochs=26, lr=4e-3, zeros=0.5, **{**SMALL, "n_layers": 1})


@pytest.fixture(scope="module")
def bert(cells):
    return pretrain(cells, "geneformer", max_epochs=20, lr=6e-3, max_length=64, **SMALL)


def test_masked_genes_are_restored_better_than_by_frequency(cells, bert):
    """The frequency of genes among expressed ones is all that can be known without looking at the cell."""
    share = np.asarray((cells.X > 0).sum(0)).ravel() / cells.X.nnz
    by_frequency = -(share[share > 0] * np.log(share[share > 0])).sum()
    assert bert.history["cross_entropy_validation"].iloc[-1] < by_frequency - 0.1
    assert bert.vocabulary.special == {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}


def test_values_are_predicted_better_than_by_their_mean(gpt):
    """After one epoch little more than the mean is known: the loss is the variance of the bins, zeros included."""
    first, last = gpt.history.iloc[0], gpt.history.iloc[-1]
    for term in ("gene_prompt", "mvc", "cell_prompt"):
        assert last[f"{term}_train"] < 0.7 * first[f"{term}_train"]
        assert last[f"{term}_validation"] < 0.9 * first[f"{term}_validation"]


@pytest.mark.parametrize("by", ["genes", "cell"])
def test_generated_cells_are_like_their_type(gpt, by):
    """Energy distance of predicted profiles to the real ones of each type, all as bins of the same genes."""
    query = make_cells(90, 5)
    given, wanted = GENES[::2], GENES[1::2]
    made = generate(gpt, query, wanted if by == "genes" else None, by=by, given=given if by == "genes" else None)
    assert list(made.var_names) == (wanted if by == "genes" else list(gpt.vocabulary.token))
    made = made[:, wanted].X
    real = real_bins(gpt, query)[wanted].to_numpy()
    for kind in ("B", "NK", "T"):
        mine = (query.obs["type"] == kind).to_numpy()
        to = {
            other: energy_distance(real[(query.obs["type"] == other).to_numpy()], made[mine])
            for other in ("B", "NK", "T")
        }
        assert min(to, key=to.get) == kind, to


def real_bins(model, adata):
    """The bins of all genes of each cell, zeros included, as the tokenizer gives them."""
    from scduet.transformers.inference.embedding import in_order

    cells, tokenizer = model.prepared(adata)
    tokens = tokenizer.tokens(in_order(cells.counts, 0, adata.n_obs))
    out = pd.DataFrame(0.0, index=adata.obs_names, columns=list(model.vocabulary.token))
    names = {token: gene for gene, token in model.vocabulary.token.items()}
    for cell in range(adata.n_obs):
        a, b = tokens.indptr[cell] + 1, tokens.indptr[cell + 1]
        out.loc[adata.obs_names[cell], [names[t] for t in tokens.gene[a:b]]] = tokens.value[a:b]
    return out


def test_vectors_of_cells_are_prompts_too(gpt):
    query = make_cells(12, 6)
    by_cells = generate(gpt, query, GENES[:9], by="cell")
    by_vectors = generate(gpt, prompt_vectors(gpt, query), GENES[:9], by="cell")
    np.testing.assert_allclose(by_cells.X, by_vectors.X, atol=1e-4)
    unit = prompt_vectors(gpt, query)
    np.testing.assert_allclose(
        unit / np.linalg.norm(unit, axis=1, keepdims=True), gpt.embed(query), atol=1e-4
    )  # the vector is the embedding before it is scaled


def test_what_is_asked_together_changes_nothing(gpt):
    query = make_cells(5, 6)
    many = generate(gpt, query, GENES[60:], given=GENES[:60])
    for gene in (GENES[60], GENES[99]):
        one = generate(gpt, query, [gene], given=GENES[:60], tokens_at_once=100)
        np.testing.assert_allclose(one.X[:, 0], many[:, gene].X[:, 0], atol=1e-4)


def test_saved_it_still_generates_and_trains_on(gpt, cells, tmp_path):
    gpt.save(tmp_path / "gpt")
    loaded = sd.load(tmp_path / "gpt")
    np.testing.assert_allclose(loaded.embed(cells[:9]), gpt.embed(cells[:9]), atol=1e-6)
    ours, theirs = (generate(m, cells[:9], GENES[:5], given=GENES[5:]).X for m in (gpt, tmp_path / "gpt"))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    pd.testing.assert_frame_equal(loaded.history, gpt.history)
    more = pretrain(cells, loaded, max_epochs=1, lr=1e-4, batch_size=20, accelerator="cpu")
    start = gpt.history["loss_train"]
    assert more.history["loss_train"].iloc[0] < 0.75 * start.iloc[0]  # goes on where it was, heads included
    assert not np.array_equal(more.embed(cells[:9]), gpt.embed(cells[:9]))


def test_pretrained_it_annotates(bert, cells):
    model = finetune(cells, bert, "type", tuning="lora", max_epochs=5, lr=3e-3, batch_size=16, accelerator="cpu")
    assert evaluate(model, make_cells(90, 2))["accuracy"] > 0.8


class Killed(BaseException):
    pass


def killed_in(epoch):
    def listener(event):
        if event.kind == "progress" and event.done == epoch:
            raise Killed  # before the state of this epoch is kept

    return listener


@pytest.mark.filterwarnings("ignore:the usual vector")  # of a model of one layer
@pytest.mark.parametrize("family", ["geneformer", "scgpt"])
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(family, cells, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SECONDS_BETWEEN", 0.0)
    options = {**SMALL, "n_layers": 1, "max_epochs": 4, "batch_size": 20, "dropout": 0.1}
    few = cells[:100].copy()
    whole = pretrain(few, family, **options)
    for moment in (2, 4):
        with pytest.raises(Killed):
            pretrain(few, family, checkpoint=tmp_path, callback=killed_in(moment), **options)
    resumed = pretrain(few, family, checkpoint=tmp_path, **options)
    same = {**whole.module.state_dict(), **whole.head_weights}
    for name, value in {**resumed.module.state_dict(), **resumed.head_weights}.items():
        assert np.array_equal(value, same[name]), name
    losses = [run.history.drop(columns="seconds") for run in (whole, resumed)]
    pd.testing.assert_frame_equal(*losses, check_exact=True)
    with pytest.raises(FormatError, match=named("training.safetensors", "lr", 0.0005, 0.1)):
        pretrain(few, family, checkpoint=tmp_path, lr=0.1, **options)
    with pytest.raises(FormatError, match=named("training.safetensors", "cells", "checkpoint")):
        pretrain(few[::-1].copy(), family, checkpoint=tmp_path, **options)


def test_the_usual_count_is_the_median_over_cells_that_express(cells, bert):
    encoded, _ = bert.prepared(cells)
    x = cells.X.toarray() / cells.X.toarray().sum(1, keepdims=True) * 1e4
    expected = [np.median(x[x[:, g] > 0, g]) if (x[:, g] > 0).any() else 0 for g in range(len(GENES))]
    np.testing.assert_allclose(usual_counts(encoded), expected, rtol=1e-5)
    assert bert.vocabulary.median["GENE7"] == pytest.approx(expected[7], rel=1e-5)


def test_what_cannot_work_is_refused(cells, gpt, bert):
    with pytest.raises(DataError, match=named(4, "'A'", "'GENE0'")):
        generate(gpt, cells, GENES[:3], given=["A", "B", "C", "D"])
    blank = cells[:4].copy()
    blank.X = blank.X.toarray()
    blank.X[2, :60] = 0
    with pytest.raises(DataError, match=named(1, "'cell2'", "given=")):
        generate(gpt, blank, GENES[60:], given=GENES[:60])
    with pytest.raises(DataError, match=named(1, 2, "'XYZ'")):
        generate(gpt, cells, ["XYZ", GENES[0]])
    with pytest.raises(OptionError, match=named("genes=", "given=")):
        generate(gpt, cells)
    with pytest.raises(FormatError, match=named("geneformer", "scGPT")):
        generate(bert, cells, GENES[:3])
    with pytest.raises(FormatError, match=named("'flag.weight'", "pretrain()")):
        generate(transformer("scgpt"), cells, GENES[:3])
    with pytest.raises(DataError, match=named("(3, 5)", 32)):
        generate(gpt, np.zeros((3, 5)), GENES[:3], by="cell")
    with pytest.raises(OptionError, match=named("'geneforme'", "'geneformer'")):
        pretrain(cells, "geneforme")
    with pytest.raises(OptionError, match=named("'mask_share'", "'scgpt'")):
        pretrain(cells, "scgpt", mask_share=0.2)
    with pytest.raises(OptionError, match=named("'mask_share'", 2.0)):
        pretrain(cells, "geneformer", mask_share=2.0)
    with pytest.raises(OptionError, match=named("width=30", "n_heads=4")):
        pretrain(cells, "scgpt", width=30)
    logged = cells.copy()
    logged.X = logged.X.log1p()
    with pytest.raises(DataError, match=named("X", "counts", "'cell0'", "layer")):
        pretrain(logged, "geneformer")


def test_a_geneformer_whose_cls_is_the_same_in_all_cells_embeds_by_the_mean_and_says_so(cells, tmp_path):
    """With one layer the usual state of <cls>, that of the last layer but one, has seen no gene."""
    with pytest.warns(ScduetWarning, match="pooling='mean'"):
        small = pretrain(cells, "geneformer", max_epochs=1, max_length=64, **{**SMALL, "n_layers": 1})
    assert spread(small.embed(cells, pooling="mean")) > SAME
    np.testing.assert_array_equal(small.embed(cells), small.embed(cells, pooling="mean"))
    small.save(tmp_path / "model")
    again = sd.load(tmp_path / "model")
    np.testing.assert_allclose(again.embed(cells), small.embed(cells), atol=1e-6)
    with pytest.warns(ScduetWarning, match="pooling='mean'"):
        asked = again.embed(cells, pooling="cls")  # what is asked for is done
    assert spread(asked) < SAME


def test_spread_is_the_distance_from_the_mean_in_lengths_of_the_mean():
    vectors = np.array([[3.0, 4.0], [3.0, 4.0], [6.0, 8.0], [0.0, 0.0]], np.float32)
    assert spread(vectors) == pytest.approx(np.sqrt(0.5))  # the mean has length 5, two cells are 5 from it
    assert spread(vectors[:2]) == 0
