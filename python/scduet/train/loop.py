"""The training loop shared by all models: epochs of minibatches, validation, stopping."""

from __future__ import annotations

from scduet._torch import torch

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from scduet.contract import Loss, MakeBatch, Player, Step, players_of
from scduet.data.schema import refuse_newer
from scduet.data.sources import Cells
from scduet.errors import TrainingError
from scduet.events import Event, Listener
from scduet.nn.adam import Adam
from scduet.train import device as devices
from scduet.train.config import TrainConfig
from scduet.train.feed import Batches, BatchFeeder, parts_of
from scduet.train.group import SINGLE_PROCESS, Group, check_shares, joined, local_rank
from scduet.train.launcher import launch_workers
from scduet.train.stopping import BestWeights, plateau_schedule

Row = dict[str, float]
Rows = tuple[np.ndarray, np.ndarray]  # of the cells to train on, and of those held out


@dataclass
class TrainingResult:
    """Results of training other than the weights."""

    history: list[Row] = field(default_factory=list)  # one row per epoch
    stop_reason: str = "finished"  # or "early", "callback", "interrupted"
    best_epoch: int | None = None  # the epoch whose weights the module holds, when they are not the last
    train_rows: list[int] | None = None  # of the cells, where the caller chose them; None for those of `split`
    held_out: list[int] | None = None

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> TrainingResult:
        """Read the result from a manifest; FormatError for unknown entries. Version 0.1.0 uses "stopped"."""
        saved = {"stop_reason" if name == "stopped" else name: value for name, value in saved.items()}
        refuse_newer(saved, {f.name for f in fields(cls)}, "outcome")
        return cls(**saved)

    def table(self) -> pd.DataFrame:
        """One row per epoch: mean loss and its terms per cell, for training and held-out cells."""
        return pd.DataFrame(self.history).set_index("epoch") if self.history else pd.DataFrame()


class Trainer:
    """Trains a module on some cells; holds the state of a run, advanced epoch by epoch."""

    def __init__(
        self,
        module: nn.Module,
        cells: Cells,
        config: TrainConfig,
        make_batch: MakeBatch | None = None,
        rows: Rows | None = None,
    ):
        self.module, self.cells, self.config, self.make_batch = module, cells, config, make_batch
        self.device = devices.choose(config.accelerator, local_rank())
        devices.check_precision(self.device, config.precision)
        self.group = joined(self.device)
        self.train_rows, self.held_out = rows or parts_of(cells, config)
        check_shares(max(self.group.world_size, config.devices), config.batch_size or 128, len(self.train_rows))
        module.to(self.device)
        self.players = players_of(module)
        self.turns = [player for player in self.players for _ in range(player.steps)]
        self.optimizers = {player.name: _optimizer(module, player, config) for player in self.players}
        self.schedules = [plateau_schedule(optimizer, config) for optimizer in self.optimizers.values()]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "16")
        chosen = {} if rows is None else {"train_rows": rows[0].tolist(), "held_out": rows[1].tolist()}
        self.best, self.outcome, self.number = BestWeights(config), TrainingResult(**chosen), 0

    def run(self, listener: Listener, keep: Callable[[Trainer, bool], None] | None = None) -> TrainingResult:
        """Train until the last epoch, early stopping, the listener or Ctrl-C; leave the module in evaluation mode.

        keep: called after each epoch with the trainer and whether it was the last. Only the first of several processes
        calls `listener` and `keep`.
        """
        try:
            with launch_workers(self):
                self.epochs(listener, keep)
        except KeyboardInterrupt:
            self.outcome.stop_reason, self.group = "interrupted", SINGLE_PROCESS
        self._finish()
        return self.outcome

    def epochs(self, listener: Listener, keep: Callable[[Trainer, bool], None] | None = None) -> None:
        """The remaining epochs."""
        first, last = len(self.outcome.history), self.config.max_epochs or 1
        self.group.same_weights(self.module)
        for epoch in range(first, last if self.outcome.stop_reason == "finished" else first):
            with devices.cpu_products(self.device, self.config.precision):
                row = self.epoch(epoch)
            self.outcome.history.append(row)
            pace = float(np.median([row["seconds"] for row in self.outcome.history[-20:]]))  # the first compiles
            reports = self.group.rank == 0
            ends = self._ends(epoch, self.group.broadcast(reports and listener(_event(row, epoch, last, pace))))
            if keep is not None and reports:
                keep(self, ends or epoch + 1 == last)
            if ends:
                break

    def epoch(self, epoch: int) -> Row:
        """One pass over the training cells, and a validation if due; returns a row of the history."""
        begun = time.monotonic()
        row = {"epoch": epoch, "kl_weight": self._kl_weight(epoch), "lr": self._rate(epoch)}
        row |= _named(self._pass(epoch), "train")
        _refuse_nan(row, epoch)
        every = self.config.validate_every
        if every and (epoch + 1) % every == 0 and len(self.held_out):
            row |= self.validate(epoch)
            self.best.see(row, epoch, self.module)
            if self.config.reduce_lr_on_plateau:
                for schedule in self.schedules:
                    schedule.step(row["loss_validation"])
        return row | {"seconds": time.monotonic() - begun}

    def _kl_weight(self, epoch: int) -> float:
        """The current weight of the KL terms, which increases by epoch or, with kl_warmup_steps, by step."""
        if self.config.kl_warmup_steps:
            return self.config.max_kl_weight * min(1.0, self.number / self.config.kl_warmup_steps)
        warmup = self.config.kl_warmup_epochs or 0
        return self.config.max_kl_weight * (min(1.0, epoch / warmup) if warmup else 1.0)

    def _rate(self, epoch: int) -> float:
        """Set the learning rates of all optimizers for an epoch; return that of the first player."""
        if self.config.lr_schedule == "cosine":
            fallen = 0.5 + 0.5 * math.cos(math.pi * epoch / (self.config.max_epochs or 1))
            for player in self.players:
                rate = player.lr * _lr_of(self.config) * (0.01 + 0.99 * fallen)
                self.optimizers[player.name].param_groups[0]["lr"] = rate
        return self._lr(self.players[0])

    def _lr(self, player: Player) -> float:
        return self.optimizers[player.name].param_groups[0]["lr"]

    def validate(self, epoch: int) -> Row:
        """Mean loss of the first player on the held-out cells with full KL weight (a VAE's negative ELBO).

        The draws are the same at each validation.
        """
        self.module.eval()
        sums, generator = _Means(), torch.Generator(self.device).manual_seed(self.config.seed)
        step = Step(epoch, self.config.max_kl_weight, self.players[0].name, self.number, generator=generator)
        with torch.inference_mode(), torch.random.fork_rng(_cuda(self.device)), self._autocast():
            torch.manual_seed(self.config.seed)
            for cells in self.feed.validation(self.held_out, self.group.shard):
                sums.add(self.module(cells, step))
        return _named(sums.means(self.group), "validation")

    @property
    def after_step(self) -> Callable[[Step], None] | None:
        return getattr(self.module, "after_step", None)

    @cached_property
    def feed(self) -> BatchFeeder:
        return BatchFeeder(self.cells, self.config, self.device, self.make_batch)

    def move(self, device: torch.device) -> None:
        """Move all tensors of the run to `device`."""
        self.device = device
        self.module.to(device)
        self.best.weights = {name: value.to(device) for name, value in self.best.weights.items()}
        for optimizer in self.optimizers.values():
            for state in optimizer.state.values():
                state.update({name: value.to(device) for name, value in state.items() if isinstance(value, Tensor)})

    def _pass(self, epoch: int) -> Row:
        self.module.train()
        if self.group.rank:  # separate random state; that of the first process is part of the checkpoint
            torch.manual_seed(int(np.random.default_rng((self.config.seed, epoch, self.group.rank)).integers(2**62)))
        sums, generator = _Means(), self._generator(epoch)
        batches, n_batches = self.feed.training(self.module, self.train_rows, epoch, self.group.shard)
        n_steps, last = math.ceil(n_batches / self.config.accumulate_grad_batches), self.config.max_epochs or 1
        together = len(self.turns) == len(self.players)
        for i, some in enumerate(_several(batches, self.config.accumulate_grad_batches)):
            progress, kl_weight = (epoch + i / n_steps) / last, self._kl_weight(epoch)
            for player in self.players if together else (self.turns[self.number % len(self.turns)],):
                where = (player.name, self.number, progress, self._lr(player), generator)
                self._step(some, Step(epoch, kl_weight, *where), sums)
            self.number += 1
        self.group.mean_buffers(self.module)
        return sums.means(self.group)

    def _generator(self, epoch: int) -> torch.Generator:
        """Random generator for each epoch and process, independent of the model, so that a run can be resumed."""
        draw = np.random.default_rng((self.config.seed, epoch, self.group.rank, 2))
        return torch.Generator(self.device).manual_seed(int(draw.integers(2**62)))

    def _step(self, batches: list, step: Step, sums: _Means) -> None:
        """Update a player's weights with the mean gradient over the cells of `batches` in all processes."""
        optimizer = self.optimizers[step.player]
        optimizer.zero_grad(set_to_none=True)
        n_cells = sum(len(cells) for cells in batches)
        for cells in batches:
            with self._autocast():
                loss: Loss = self.module(cells, step)
            sums.add(loss, "" if step.player == self.players[0].name else step.player)
            part = loss.total if len(batches) == 1 else loss.total * (len(cells) / n_cells)
            self.scaler.scale(part).backward()
        self.group.mean_gradients(optimizer.param_groups[0]["params"], n_cells)
        if self.config.clip_gradient is not None:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.config.clip_gradient)
        self.scaler.step(optimizer)
        self.scaler.update()
        if self.after_step is not None:
            with torch.no_grad():
                self.after_step(step)

    def _autocast(self):
        return devices.autocast(self.device, self.config.precision)

    def _ends(self, epoch: int, asked: bool | None) -> bool:
        if asked:
            self.outcome.stop_reason = "callback"
        elif self.config.early_stopping and self.best.exhausted(epoch):
            self.outcome.stop_reason = "early"
        return self.outcome.stop_reason != "finished"

    def _finish(self) -> None:
        """Restore the best weights with early stopping, and validate the final weights."""
        if self.config.early_stopping and self.best.weights:
            self.best.restore(self.module)
            self.outcome.best_epoch = self.best.epoch
        self.module.eval()
        history = self.outcome.history
        if history and len(self.held_out) and "loss_validation" not in history[-1]:
            history[-1] |= self.validate(len(history) - 1)


class _Means:
    """Means over cells of the terms of a loss, accumulated on the device to avoid synchronization at each step."""

    def __init__(self):
        self.sums: dict[tuple[str, str], Tensor] = {}
        self.weights: dict[tuple[str, str], int] = {}

    def add(self, loss: Loss, player: str = "") -> None:
        """Add a loss; `player` is empty for the first player."""
        for name, value in {"loss": loss.total, **loss.terms}.items():
            key, weighted = (player, name), value.detach() * loss.n_cells
            self.sums[key] = self.sums[key] + weighted if key in self.sums else weighted
            self.weights[key] = self.weights.get(key, 0) + loss.n_cells

    def means(self, group: Group) -> Row:
        """Means over the cells of all processes; duplicated terms are prefixed with the player's name."""
        parts = group.all_gather({key: (float(total), self.weights[key]) for key, total in self.sums.items()})
        found = {key: [part[key] for part in parts if key in part] for part in parts for key in part}
        first, row = {"loss", *(name for player, name in found if not player)}, {}
        for (player, name), pairs in found.items():
            named = f"{player}_{name}" if player and name in first else name
            row[named] = sum(total for total, _ in pairs) / max(1, sum(n for _, n in pairs))
        return row


OPTIMIZERS = {
    "adam": Adam,
    "adamw": partial(torch.optim.AdamW, fused=True),
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


def _optimizer(module: nn.Module, player: Player, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of the weights of `player`; `parameters_of` assigns weights if there are several players."""
    owned = module.parameters() if len(module.players) == 1 else module.parameters_of(player.name)  # type: ignore[attr-defined, operator]
    trained = [parameter for parameter in owned if parameter.requires_grad]
    decay = config.weight_decay if player.weight_decay is None else player.weight_decay
    options: dict[str, Any] = {"lr": player.lr * _lr_of(config), "weight_decay": decay or 0.0}
    if player.optimizer in ("adam", "adamw"):
        options |= {"betas": player.betas, "eps": config.adam_eps or 1e-8}
    return OPTIMIZERS[player.optimizer](trained, **options)


def _lr_of(config: TrainConfig) -> float:
    return 1e-3 if config.lr is None else config.lr


def _several(batches: Batches, n: int) -> Iterator[list]:
    """`n` minibatches at a time; the last may be fewer."""
    while some := list(islice(batches, n)):
        yield some


def _named(means: Mapping[str, float], where: str) -> Row:
    return {f"{name}_{where}": value for name, value in means.items()}


def _refuse_nan(row: Row, epoch: int) -> None:
    bad = [name for name, value in row.items() if not math.isfinite(value)]
    if bad:
        causes = "a learning rate that is too high (lower lr, or set clip_gradient), half precision, or extreme values"
        raise TrainingError(f"training failed in epoch {epoch}: {', '.join(bad)} is not finite", f"likely: {causes}")


def _event(row: Row, epoch: int, max_epochs: int, pace: float) -> Event:
    watched = "loss_validation" if "loss_validation" in row else "loss_train"
    left = pace * (max_epochs - epoch - 1)
    shown = row.get(watched, math.nan)  # missing if the first player had no turn in this epoch
    message = f"{watched.replace('_', ' ')} {shown:.2f}"
    return Event("progress", message, epoch + 1, max_epochs, "epoch", left, row)


def _cuda(device: torch.device) -> list[int]:
    return [torch.cuda.current_device()] if device.type == "cuda" else []
