"""`train` of the façade: shares, splits, stopping, callbacks, history; what scvi-tools' own tests check of it."""

from math import ceil, floor

import numpy as np
import pandas as pd
import pytest
from named import named

from scduet import scvi
from scduet.errors import DataError, OptionError

N = 80  # cells


@pytest.fixture(autouse=True)
def fixed_seed():
    scvi.settings.seed = 0
    yield
    scvi.settings.seed = None


def made(cls=None, cells=N, **options):
    adata = scvi.data.synthetic_iid(batch_size=ceil(cells / 2), n_genes=10)[:cells].copy()
    cls = cls or scvi.model.SCVI
    more = {"unlabeled_category": "label_0"} if cls is scvi.model.SCANVI else {}
    cls.setup_anndata(adata, batch_key="batch", labels_key="labels", **more)
    return cls(adata, n_latent=2, n_hidden=8, **options)


def train(model, epochs=1, **options):
    model.train(max_epochs=epochs, enable_progress_bar=False, accelerator="cpu", **options)
    return model


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"train_size": 1.5}, "train_size"),
        ({"train_size": 0.0}, "train_size"),
        ({"train_size": -0.1}, "train_size"),
        ({"train_size": 0.5, "validation_size": 1.0}, "validation_size"),
        ({"train_size": 0.5, "validation_size": -0.1}, "validation_size"),
        ({"train_size": 0.5, "validation_size": 0.8}, "validation_size"),
        ({"validation_size": 0.2}, "validation_size"),  # beside the default of 0.9
        ({"train_size": 1.0, "early_stopping": True}, "early_stopping"),
    ],
)
def test_shares_out_of_range_are_value_errors(given, name):
    with pytest.raises(ValueError, match=named(name)):
        train(made(), **given)


@pytest.mark.parametrize("shuffle", [True, False])
def test_validation_size_leaves_cells_for_testing(shuffle):
    model = train(made(), train_size=0.5, validation_size=0.3, shuffle_set_split=shuffle)
    order = np.random.RandomState(0).permutation(N) if shuffle else np.arange(N)
    n_held_out, n_train = floor(0.3 * N), ceil(0.5 * N)
    assert np.array_equal(model.validation_indices, order[:n_held_out])
    assert np.array_equal(model.train_indices, order[n_held_out : n_held_out + n_train])
    assert np.array_equal(model.test_indices, np.sort(order[n_held_out + n_train :]))


def test_the_default_split_is_that_of_scvi_tools(scvi_split):
    model = train(made())
    for ours, theirs in zip((model.train_indices, model.validation_indices), scvi_split, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.fixture
def scvi_split():
    order = np.random.RandomState(0).permutation(N)  # as in the DataSplitter of scvi-tools: validation first
    n_train = ceil(0.9 * N)
    return order[N - n_train :], order[: N - n_train]


def test_the_split_is_kept_in_files(tmp_path):
    first, _ = np.arange(N - 20), np.arange(N - 20, N)
    splitter = {"external_indexing": [first, np.arange(N - 20, N - 5), np.arange(N - 5, N)]}
    model = train(made(), datasplitter_kwargs=splitter, check_val_every_n_epoch=1)
    assert np.array_equal(model.train_indices, first)
    assert np.array_equal(model.validation_indices, np.arange(N - 20, N - 5))
    assert np.array_equal(model.test_indices, np.arange(N - 5, N))
    model.save(tmp_path / "model")
    again = scvi.model.SCVI.load(tmp_path / "model")
    for which in ("train_indices", "validation_indices", "test_indices"):
        assert np.array_equal(getattr(again, which), getattr(model, which)), which


def test_only_the_training_cells_of_external_indexing_are_learned_from():
    """Other counts in the cells left for testing change nothing."""
    parts = [np.arange(0, N, 2), np.arange(1, N, 4), np.arange(3, N, 4)]
    one, other = made(), made()
    other.adata.X[parts[2]] *= 7
    other.adata = other.adata
    for model in (one, other):
        train(model, 2, datasplitter_kwargs={"external_indexing": parts}, check_val_every_n_epoch=1)
    assert one.history["elbo_validation"].equals(other.history["elbo_validation"])


@pytest.mark.parametrize(
    ("parts", "error", "name"),
    [
        (np.arange(N), OptionError, "external_indexing"),
        ([list(range(N))], OptionError, "external_indexing"),
        ([np.arange(N - 3)], DataError, 3),
        ([np.arange(N), np.arange(2)], DataError, 2),
        ([np.arange(N + 1)], DataError, N),
        ([], DataError, N),
    ],
)
def test_external_indexing_must_be_a_partition(parts, error, name):
    with pytest.raises(error, match=named(name)):
        train(made(), datasplitter_kwargs={"external_indexing": parts})


def test_a_last_minibatch_of_one_cell_trains():
    """scvi-tools cannot train on it, or with drop_last leaves the cell out."""
    for splitter in ({}, {"drop_last": True}):
        model = train(made(cells=65), train_size=1.0, batch_size=64, datasplitter_kwargs=splitter)
        assert len(model.train_indices) == 65
    with pytest.raises(OptionError, match=named("'stratify'")):
        train(made(), datasplitter_kwargs={"stratify": True})


def test_a_learning_rate_of_zero_changes_no_weight():
    model = made()
    before = {name: value.clone() for name, value in model._model.module.named_parameters()}
    train(model, 2, plan_kwargs={"lr": 0.0})
    assert all(value.equal(before[name]) for name, value in model._model.module.named_parameters())


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("patience", [2, 5])
def test_early_stopping_counts_from_the_end_of_its_warmup(warmup, patience):
    """With an improvement out of reach the best epoch is the first that counts."""
    options = {"early_stopping_warmup_epochs": warmup, "early_stopping_patience": patience}
    model = train(made(), 30, early_stopping=True, early_stopping_min_delta=1e9, **options)
    assert len(model.history["elbo_train"]) == warmup + patience + 1
    assert model._model.outcome.best_epoch == warmup


def test_early_stopping_watches_the_term_that_is_named():
    options = {"early_stopping": True, "early_stopping_patience": 3, "train_size": 0.5}
    model = train(made(), 12, early_stopping_monitor="kl_local_validation", early_stopping_mode="max", **options)
    watched = model.history["kl_local_validation"]["kl_local_validation"]
    assert model._model.outcome.best_epoch == watched.idxmax()
    model = train(made(), 6, early_stopping_monitor="reconstruction_loss_validation", **options)
    watched = model.history["reconstruction_loss_validation"].iloc[:, 0]
    assert model._model.outcome.best_epoch == watched.idxmin()
    with pytest.raises(OptionError, match=named("'loss_of_sleep'")):
        train(made(), early_stopping_monitor="loss_of_sleep", early_stopping=True)
    with pytest.raises(OptionError, match=named("'accuracy_validation'")):  # a scVI has none
        train(made(), early_stopping_monitor="validation_accuracy", **options)


def test_the_history_has_the_names_of_scvi_tools():
    model = train(made(), 2, check_val_every_n_epoch=1)
    both = [f"{term}_{where}" for term in ("elbo", "reconstruction_loss", "kl_local", "kl_global")
            for where in ("train", "validation")]  # fmt: skip
    assert {*both, "train_loss", "validation_loss", "kl_weight", "lr-Adam"} <= set(model.history)
    assert model.history["lr-Adam"]["lr-Adam"].tolist() == [1e-3, 1e-3]
    rest = model.history["elbo_validation"].iloc[:, 0] - model.history["reconstruction_loss_validation"].iloc[:, 0]
    assert np.allclose(rest, model.history["kl_local_validation"].iloc[:, 0])
    with pytest.raises(KeyError, match=named("'validation_f1_score'", "elbo_train")):
        model.history["validation_f1_score"]


def test_training_again_goes_on_in_the_history():
    model = train(train(made(), 2, check_val_every_n_epoch=1), 3)
    assert model.history["elbo_train"].index.tolist() == [0, 1, 2, 3, 4]


def test_losses_of_steps():
    model = train(made(), 3, batch_size=9, plan_kwargs={"on_step": True, "on_epoch": True}, log_every_n_steps=4,
                  train_size=0.9, check_val_every_n_epoch=1)  # fmt: skip
    assert len(model.history["elbo_train_epoch"]) == 3
    assert model.history["train_loss_step"].index.tolist() == [3, 7, 11, 15, 19, 23]  # of 8 steps an epoch
    assert np.allclose(model.history["validation_loss_epoch"].iloc[:, 0], model.history["validation_loss"].iloc[:, 0])
    every = train(made(), 1, batch_size=9, plan_kwargs={"on_step": True}, log_every_n_steps=1, train_size=0.9)
    mean = every.history["train_loss_step"]["train_loss_step"].mean()  # eight steps of nine cells
    assert every.history["train_loss"].iloc[0, 0] == pytest.approx(mean, rel=1e-5)


class Recorder:
    """As a subclass of lightning's Callback."""

    def __init__(self, stop_at=None):
        self.seen, self.stop_at = [], stop_at

    def on_train_start(self, trainer, pl_module):
        self.seen.append(("start", trainer.max_epochs))

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append((trainer.current_epoch, trainer.callback_metrics["elbo_train"]))
        trainer.should_stop = trainer.current_epoch == self.stop_at

    def on_train_end(self, trainer, pl_module):
        self.seen.append(("end", pl_module.is_trained))


def test_callbacks_see_each_epoch_and_can_stop():
    recorder, events, model = Recorder(stop_at=2), [], made()
    train(model, 9, callbacks=[recorder, lambda event: events.append(event.done)])
    elbo = model.history["elbo_train"]["elbo_train"]
    assert recorder.seen == [("start", 9), *((i, pytest.approx(elbo[i])) for i in range(3)), ("end", True)]
    assert [done for done in events if done] == [1, 2, 3]


def test_callbacks_that_cannot_be_called_are_refused_by_name():
    class PerStep(Recorder):
        def on_train_batch_end(self, *_): ...

    with pytest.raises(OptionError, match=named("PerStep", "'on_train_batch_end'")):
        train(made(), callbacks=[PerStep()])
    lightning = pytest.importorskip("lightning.pytorch.callbacks")
    train(made(), callbacks=[lightning.LearningRateMonitor()])
    with pytest.raises(OptionError, match=named("EarlyStopping", "early_stopping=True")):
        train(made(), callbacks=[lightning.EarlyStopping("elbo_validation")])


def test_a_plan_that_would_be_ignored_is_refused():
    train(made(), plan_kwargs={"optimizer": "Adam", "min_kl_weight": 0.0, "n_steps_kl_warmup": None})
    for plan in ({"optimizer": "AdamW"}, {"min_kl_weight": 0.5}, {"update_only_decoder": True}):
        with pytest.raises(OptionError, match=named(repr(next(iter(plan))))):
            train(made(), plan_kwargs=plan)
    steps = train(made(), plan_kwargs={"n_steps_kl_warmup": 4, "n_epochs_kl_warmup": None})
    assert steps._model.training.kl_warmup_steps == 4


def test_scanvi_trains_on_chosen_cells():
    parts = [np.arange(0, N, 2), np.arange(1, N, 2)]
    model = train(made(scvi.model.SCANVI), datasplitter_kwargs={"external_indexing": parts}, check_val_every_n_epoch=1)
    assert np.array_equal(model.train_indices, parts[0])
    assert {"validation_accuracy", "validation_classification_loss", "elbo_validation"} <= set(model.history)
    with pytest.raises(OptionError, match=named("adversarial_classifier")):
        train(model, adversarial_classifier=True)


def test_a_mapped_query_has_a_history_and_a_split_of_its_own():
    reference = train(made(), 3)
    query = scvi.data.synthetic_iid(batch_size=15, n_genes=10)
    query.obs["batch"] = pd.Categorical(["new"] * query.n_obs)
    mapped = scvi.model.SCVI.load_query_data(query, reference)
    assert len(mapped.history) == len(mapped.train_indices) == 0
    train(mapped, 2, train_size=0.5)
    assert len(mapped.history["elbo_train"]) == 2
    assert sorted([*mapped.train_indices, *mapped.validation_indices]) == list(range(30))
    with pytest.raises(OptionError, match=named("freeze_expression")):
        scvi.model.SCVI.load_query_data(query, reference, freeze_expression=False)
