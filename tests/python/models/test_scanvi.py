"""scANVI learns from the labels it is shown, and from no others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_counts
from named import named

import scduet as sd
from scduet.contract import Reference, Step
from scduet.data.loader import minibatches
from scduet.data.schema import Fields, Schema
from scduet.errors import OptionError
from scduet.models.rna.scanvi import SCANVI, Config
from scduet.tasks.workflows.annotate import predict
from scduet.train.config import TrainConfig, resolved
from scduet.train.loop import Trainer

FAST = dict(n_latent=4, n_hidden=32, recipe="scvi-tools", batch_size=64, lr=0.01)


def fitted(adata, **options):
    return sd.fit(adata, "scanvi", labels_key="cell_type", **{**FAST, "max_epochs": 2, **options})


def test_the_labeled_stratum_has_training_cells_a_few_of_each_type():
    module = SCANVI(Reference(10, n_labels=3), Config(n_samples_per_label=4))
    label = np.array([0] * 20 + [1] * 2 + [-1] * 30 + [2] * 9)
    (rows,) = module.strata(label, np.random.default_rng(0))
    assert np.bincount(label[rows]).tolist() == [4, 2, 4]
    assert len(set(rows)) == len(rows)


def test_where_half_of_the_cells_are_labeled_there_is_no_labeled_stratum_but_all_labeled_cells_otherwise():
    module, draw = SCANVI(Reference(10, n_labels=3), Config()), np.random.default_rng(0)
    few = np.array([0] * 20 + [1] * 2 + [-1] * 30 + [2] * 7)
    assert np.array_equal(module.strata(few, draw)[0], np.flatnonzero(few >= 0))
    assert module.strata(few[few >= 0], draw) == module.strata(np.append(few, 2), draw) == ()


def test_the_trainer_gives_every_minibatch_labeled_cells_from_the_training_cells(counts):
    schema = Schema.learn(counts, Fields(labels_key="cell_type", unlabeled_category="NK"))
    cells = schema.encode(counts)
    training = resolved(TrainConfig(recipe="scvi-tools", batch_size=64), len(cells))
    trainer = Trainer(SCANVI(schema.reference(cells), Config(n_samples_per_label=5)), cells, training)

    def epoch():
        return list(trainer.feed.training(trainer.module, trainer.train_rows, 0, trainer.group.shard)[0])

    batches = epoch()
    assert sum(len(batch) for batch in batches) == 180
    labeled = torch.cat([batch.strata[0].index for batch in batches]).numpy()
    assert {len(batch.strata[0]) for batch in batches} == {10}
    assert set(labeled) <= set(trainer.train_rows)
    assert (cells.label[labeled] >= 0).all()
    again = torch.cat([batch.strata[0].index for batch in epoch()]).numpy()
    assert np.array_equal(labeled, again)


def test_the_classification_is_that_of_the_labeled_stratum_or_else_of_the_cells_themselves(counts):
    schema = Schema.learn(counts, Fields(labels_key="cell_type"))
    cells = schema.encode(counts)
    module = SCANVI(schema.reference(cells), Config()).eval()
    first, second = minibatches(cells, np.arange(200), 100)
    logits = module.classify(second)
    beside = module(replace(first, strata=(second,)), Step()).terms["classification"]
    assert torch.allclose(beside, torch.nn.functional.cross_entropy(logits, second.label))
    own = module(replace(second, label=torch.where(torch.arange(100) < 50, second.label, -1)), Step())
    assert torch.allclose(
        own.terms["classification"], torch.nn.functional.cross_entropy(logits[:50], second.label[:50])
    )
    unlabeled = module(replace(second, label=torch.full((100,), -1)), Step())
    assert "classification" not in unlabeled.terms


def test_types_are_learned_with_an_unlabeled_category_anywhere_among_the_names():
    for unlabeled in ("A", "M", "Z"):
        adata = make_counts(300, 60)
        kinds = adata.obs["cell_type"].astype(str)
        hidden = np.random.default_rng(0).random(300) < 0.5
        adata.obs["cell_type"] = np.where(hidden, unlabeled, kinds)
        model = fitted(adata, unlabeled_category=unlabeled, max_epochs=15)
        share = predict(model, adata)
        assert list(share.columns) == ["B", "NK", "T"]
        assert (share.columns.to_numpy()[share.to_numpy().argmax(1)][hidden] == kinds[hidden]).mean() > 0.8


@pytest.mark.parametrize("case", ["all labeled", "one cell of a type", "unused category", "numbers"])
def test_labels_of_every_kind_train(counts, case):
    if case == "one cell of a type":
        counts.obs["cell_type"] = counts.obs["cell_type"].cat.add_categories("rare")
        counts.obs.iloc[3, counts.obs.columns.get_loc("cell_type")] = "rare"
    elif case == "unused category":
        counts.obs["cell_type"] = counts.obs["cell_type"].cat.add_categories("ghost")
    elif case == "numbers":
        counts.obs["cell_type"] = counts.obs["cell_type"].cat.codes.astype(float)
    share = predict(fitted(counts))
    expected = {"one cell of a type": ["B", "NK", "T", "rare"], "numbers": [0.0, 1.0, 2.0]}
    assert list(share.columns) == expected.get(case, ["B", "NK", "T"])
    assert np.allclose(share.sum(1), 1, atol=1e-5)


def test_without_any_label_it_says_so(counts):
    counts.obs["cell_type"] = "Unknown"
    with pytest.raises(OptionError, match=named("labels_key=", "scVI")):
        fitted(counts)


def test_it_starts_from_a_trained_scvi(counts):
    base = sd.fit(counts, "scvi", batch_key="batch", dispersion="gene-batch", max_epochs=2, **FAST)
    model = sd.fit(counts, "scanvi", start=base, labels_key="cell_type", max_epochs=1, **{**FAST, "lr": 1e-12})
    weights = base.module.state_dict()
    assert all(
        torch.allclose(value, weights[name], atol=1e-6)
        for name, value in model.module.scvi.state_dict().items()
        if "running" not in name and "tracked" not in name
    )
    assert (model.config.dispersion, model.schema.levels["batch"]) == ("gene-batch", ("b0", "b1"))
    with pytest.raises(OptionError, match=named("n_hidden", 32)):
        sd.fit(counts, "scanvi", start=base, labels_key="cell_type", n_hidden=64)
    with pytest.raises(OptionError, match=named("'scvi'", "'scanvi'")):
        sd.fit(counts, "scvi", start=model)


@pytest.mark.parametrize(
    "changed",
    [{"batch_key": "cell_type"}, {"batch_key": None}, {"categorical_covariate_keys": ["cell_type"]}, {"genes": 3}],
)
def test_a_model_to_start_from_fixes_its_columns_and_genes(counts, changed):
    base = sd.fit(counts, "scvi", batch_key="batch", max_epochs=1, **FAST)
    changed = {"genes": base.genes[:3]} if "genes" in changed else changed
    with pytest.raises(OptionError, match="genes" if "genes" in changed else next(iter(changed))):
        sd.fit(counts, "scanvi", start=base, labels_key="cell_type", max_epochs=1, **changed)
    same = dict(batch_key="batch", genes=base.genes, categorical_covariate_keys=[])
    model = sd.fit(counts, "scanvi", start=base, labels_key="cell_type", max_epochs=1, **same)
    assert model.genes == base.genes


def test_a_larger_weight_of_the_kl_terms_shrinks_the_latent_space(counts):
    """The beta of a beta-VAE."""
    options = dict(max_epochs=15, kl_warmup_epochs=0, **FAST)
    plain, tight = (sd.fit(counts, "scvi", max_kl_weight=beta, **options) for beta in (1.0, 20.0))
    assert tight.history["kl_train"].iloc[-1] < 0.5 * plain.history["kl_train"].iloc[-1]
    assert tight.history["kl_weight"].iloc[-1] == 20
