"""The training loop on a model small enough to know the answer."""

import math

import pytest
import torch
from named import named
from toys import Duel, silent, trainer

from scduet.data.schema import Fields, Schema
from scduet.errors import DeviceError, OptionError, TrainingError
from scduet.train import device
from scduet.train.config import TrainConfig, resolved


@pytest.fixture
def cells(counts):
    return Schema.learn(counts, Fields()).encode(counts)


def test_it_learns_the_means(cells, counts):
    run = trainer(cells, max_epochs=150, train_size=1.0)
    run.run(silent)
    assert torch.allclose(run.module.mean, torch.tensor(counts.X.toarray().mean(0)), atol=0.05)


def test_history_is_the_mean_over_cells_of_unequal_minibatches(cells, counts):
    run = trainer(cells, max_epochs=1, batch_size=64, train_size=1.0, lr=1e-12)
    row = run.run(silent).history[0]
    assert [n for *_, n, _ in run.module.steps] == [64, 64, 64, 8]
    assert row["distance_train"] == pytest.approx((counts.X.toarray() ** 2).sum(1).mean(), rel=1e-5)


def test_the_same_seed_gives_the_same_bits(cells):
    def weights(seed):
        run = trainer(cells, seed=seed)
        run.run(silent)
        return run.module.mean

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_last_minibatch_of_one_cell_harms_nothing(cells):
    run = trainer(cells, batch_size=199, train_size=1.0)
    run.run(silent)
    assert {n for *_, n, _ in run.module.steps} == {200}


def test_kl_warm_up(cells):
    run = trainer(cells, kl_warmup_epochs=4, max_epochs=6)
    history = run.run(silent).history
    assert [row["kl_weight"] for row in history] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert all(weight == 1 for _, weight, _, training in run.module.steps if not training)  # validation


def test_early_stopping_keeps_the_best_weights(cells):
    """A learning rate so high that the loss soon rises: the weights kept are those of the best epoch."""
    run = trainer(cells, lr=0.5, early_stopping=True, early_stopping_patience=5, max_epochs=200)
    outcome = run.run(silent)
    losses = [row["loss_validation"] for row in outcome.history]
    assert outcome.stop_reason == "early"
    assert outcome.best_epoch == losses.index(min(losses)) == len(losses) - 6
    assert run.validate(0)["loss_validation"] == pytest.approx(min(losses), rel=1e-6)


def test_plateau_lowers_the_rate(cells):
    run = trainer(cells, lr=0.5, reduce_lr_on_plateau=True, lr_patience=2, lr_factor=0.5, max_epochs=60)
    rates = [row["lr"] for row in run.run(silent).history]
    assert rates[0] == 0.5
    assert rates[-1] < 0.1


def test_clipping_bounds_the_step(cells):
    """With plain gradients Adam's first step is lr for every weight; a tiny clipped gradient drowns in eps."""
    free = trainer(cells, max_epochs=1, adam_eps=1.0)
    clipped = trainer(cells, max_epochs=1, adam_eps=1.0, clip_gradient=1e-6)
    free.run(silent)
    clipped.run(silent)
    assert clipped.module.mean.abs().max() < 1e-6 < free.module.mean.abs().max()


def test_added_up_gradients_are_those_of_the_large_minibatch(cells):
    """Minibatches of 50, 50, 50 and 30 for two steps of 100 and 80: a step sees the mean over all their cells."""
    parts = trainer(cells, max_epochs=3, batch_size=50, accumulate_grad_batches=2)
    whole = trainer(cells, max_epochs=3, batch_size=100)
    parts.run(silent)
    whole.run(silent)
    assert torch.allclose(parts.module.mean, whole.module.mean, rtol=1e-4)
    assert [n for *_, n, training in parts.module.steps if training] == [50, 50, 50, 30] * 3


def test_each_player_moves_its_own_weights(cells, counts):
    run = trainer(cells, Duel(), max_epochs=150, train_size=1.0)
    history = run.run(silent).history
    assert torch.allclose(run.module.mean, torch.tensor(counts.X.toarray().mean(0)), atol=0.05)
    assert run.module.other.item() == pytest.approx(1, abs=0.01)
    assert history[-1]["two_train"] < 0.01


def test_a_listener_can_stop(cells):
    outcome = trainer(cells, max_epochs=50).run(lambda event: event.done == 2)
    assert (outcome.stop_reason, len(outcome.history)) == ("callback", 2)


def test_ctrl_c_keeps_the_best_weights(cells):
    def interrupt(event):
        if event.done == 30:
            raise KeyboardInterrupt

    run = trainer(cells, lr=0.5, early_stopping=True, max_epochs=50)
    outcome = run.run(interrupt)
    losses = [row["loss_validation"] for row in outcome.history]
    assert (outcome.stop_reason, len(losses)) == ("interrupted", 30)
    assert run.validate(0)["loss_validation"] == pytest.approx(min(losses), rel=1e-6)
    assert not run.module.training


def test_nan_stops_with_the_likely_cause(cells):
    with pytest.raises(TrainingError, match=named("epoch 1", "loss_train", "distance_train", "lr", "clip_gradient")):
        trainer(cells, lr=1e30, max_epochs=9, batch_size=200).run(silent)


def test_events_tell_progress(cells):
    events = []
    trainer(cells, max_epochs=3).run(lambda event: events.append(event))
    assert [(event.done, event.total) for event in events] == [(1, 3), (2, 3), (3, 3)]
    assert events[-1].seconds_left == 0
    assert math.isclose(events[0].terms["loss_train"], events[0].terms["distance_train"])


def test_the_last_row_has_a_validation(cells):
    history = trainer(cells, max_epochs=3).run(silent).history
    assert ["loss_validation" in row for row in history] == [False, False, True]


def test_bf16_rounds_products_alone(cells):
    """Half precision changes the loss by little, weights stay float32, and torch's setting is as before."""
    before, seen = torch.get_float32_matmul_precision(), []
    full, half = (trainer(cells, precision=precision, max_epochs=3) for precision in ("32", "bf16"))
    losses = [
        run.run(lambda event: seen.append(torch.get_float32_matmul_precision())).history[-1]["loss_train"]
        for run in (full, half)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert all(weight.dtype == torch.float32 for weight in half.module.parameters())
    assert {*seen, torch.get_float32_matmul_precision()} == {before}


def test_bf16_is_set_in_a_step(cells):
    run, seen = trainer(cells, precision="bf16", max_epochs=1), []
    run.module.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    run.run(silent)
    assert "medium" in seen


def test_what_is_not_there_is_said():
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match=named("'gpu'", "accelerator='cpu'")):
            device.choose("gpu")
    with pytest.raises(OptionError, match=named("precision", "'16'", "GPU", "'bf16'")):
        device.check_precision(torch.device("cpu"), "16")


def test_stopping_needs_held_out_cells():
    with pytest.raises(OptionError, match=named("early_stopping", "train_size")):
        resolved(TrainConfig(early_stopping=True, train_size=1.0), 100)


def test_the_recipe_fills_only_what_is_open():
    chosen = resolved(TrainConfig(recipe="scvi-tools", batch_size=77), 40_000)
    assert (chosen.batch_size, chosen.max_epochs, chosen.adam_eps) == (77, 200, 0.01)


def test_the_rate_falls_along_a_cosine(cells):
    rates = [row["lr"] for row in trainer(cells, lr=0.1, lr_schedule="cosine", max_epochs=5).run(silent).history]
    wave = [0.5 + 0.5 * math.cos(math.pi * epoch / 5) for epoch in range(5)]
    assert rates == pytest.approx([0.1 * (0.01 + 0.99 * part) for part in wave])


def test_two_rules_for_the_rate_are_refused():
    with pytest.raises(OptionError, match=named("reduce_lr_on_plateau", "lr_schedule='cosine'")):
        resolved(TrainConfig(reduce_lr_on_plateau=True, lr_schedule="cosine"), 100)
    assert resolved(TrainConfig(reduce_lr_on_plateau=True), 100).lr_schedule == "constant"


def test_auto_trains_as_long_as_batches_take_to_mix():
    """Early stopping would end it at the best held-out loss, where the batches of some data are still apart."""
    assert not resolved(TrainConfig(), 1000).early_stopping
    assert [resolved(TrainConfig(), n).max_epochs for n in (1000, 20_000, 40_000, 10**6)] == [200, 200, 100, 10]
