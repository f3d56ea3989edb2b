"""The training loop, for every model: epochs of minibatches, validation, stopping."""

from __future__ import annotations

from scduet._torch import torch

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor, nn

from scduet.contract import Accompanied, Loss, MakeBatch, Step
from scduet.data.cells import Cells
from scduet.data.loader import minibatches
from scduet.data.samplers import boundaries, repeated, shuffled, split
from scduet.errors import TrainingError
from scduet.train import device as devices
from scduet.train.config import TrainConfig
from scduet.train.events import Event, Listener
from scduet.train.stopping import BestWeights, plateau_schedule

Row = dict[str, float]


@dataclass
class Outcome:
    """What training left beside the weights."""

    history: list[Row] = field(default_factory=list)  # one row an epoch
    stopped: str = "finished"  # or "early", "callback", "interrupted"
    best_epoch: int | None = None  # the epoch whose weights the module holds, when they are not the last


class Trainer:
    """Fits one module to some cells: the state of a run, advanced epoch by epoch."""

    def __init__(self, module: nn.Module, cells: Cells, config: TrainConfig, make_batch: MakeBatch | None = None):
        self.module, self.cells, self.config, self.make_batch = module, cells, config, make_batch
        self.device = devices.choose(config.accelerator)
        self.autocast = devices.autocast(self.device, config.precision)
        self.train_rows, self.held_out = split(len(cells), config.train_size or 1.0, config.seed)
        module.to(self.device)
        self.optimizers = {player: _adam(module, player, config) for player in module.players}  # type: ignore[attr-defined]
        self.schedules = [plateau_schedule(optimizer, config) for optimizer in self.optimizers.values()]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "16")
        self.best, self.outcome = BestWeights(config), Outcome()

    def run(self, listener: Listener, keep: Callable[[Trainer, bool], None] | None = None) -> Outcome:
        """Train until the recipe, the listener or the keyboard ends it; leave the module in evaluation mode.

        keep: called after each epoch with the trainer and whether that was the last one.
        """
        begun, first, last = time.monotonic(), len(self.outcome.history), self.config.max_epochs or 1
        try:
            for epoch in range(first, last if self.outcome.stopped == "finished" else first):
                row = self.epoch(epoch)
                self.outcome.history.append(row)
                pace = (time.monotonic() - begun) / (epoch + 1 - first)
                ends = self._ends(epoch, listener(_event(row, epoch, last, pace)))
                if keep is not None:
                    keep(self, ends or epoch + 1 == last)
                if ends:
                    break
        except KeyboardInterrupt:
            self.outcome.stopped = "interrupted"
        self._finish()
        return self.outcome

    def epoch(self, epoch: int) -> Row:
        """One pass over the training cells, and the validation that is due after it; returns the history's row."""
        begun = time.monotonic()
        warmup = self.config.kl_warmup_epochs or 0
        kl_weight = self.config.max_kl_weight * (min(1.0, epoch / warmup) if warmup else 1.0)
        row = {"epoch": epoch, "kl_weight": kl_weight, "lr": next(iter(self.optimizers.values())).param_groups[0]["lr"]}
        row |= _named(self._pass(epoch, kl_weight), "train")
        _refuse_nan(row, epoch)
        every = self.config.validate_every
        if every and (epoch + 1) % every == 0 and len(self.held_out):
            row |= self.validate(epoch)
            self.best.see(row["loss_validation"], epoch, self.module)
            if self.config.reduce_lr_on_plateau:
                for schedule in self.schedules:
                    schedule.step(row["loss_validation"])
        return row | {"seconds": time.monotonic() - begun}

    def validate(self, epoch: int) -> Row:
        """Mean loss of the held-out cells with full KL weight (a VAE's negative ELBO), with the same draws."""
        self.module.eval()
        sums = _Means()
        with torch.inference_mode(), torch.random.fork_rng(_cuda(self.device)), self.autocast:
            torch.manual_seed(self.config.seed)
            for cells in minibatches(self.cells, np.sort(self.held_out), self._size, self.make_batch):
                sums.add(self.module(cells.to(self.device), Step(epoch, self.config.max_kl_weight)))
        return _named(sums.means(), "validation")

    def _pass(self, epoch: int, kl_weight: float) -> Row:
        self.module.train()
        order, sums = shuffled(self.train_rows, self.config.seed, epoch), _Means()
        for cells in self._accompanied(order, epoch):
            cells = cells.to(self.device)
            for player, optimizer in self.optimizers.items():
                sums.add(self._step(cells, Step(epoch, kl_weight, player), optimizer))
        return sums.means()

    def _accompanied(self, order: np.ndarray, epoch: int):
        """The minibatches of an epoch, each with its companions where the module trains on such."""
        batches = minibatches(self.cells, order, self._size, self.make_batch)
        if not isinstance(self.module, Accompanied) or self.cells.label is None:
            return batches
        draw = np.random.default_rng((self.config.seed, epoch, 1))
        rows = self.train_rows[self.module.companions(self.cells.label[self.train_rows], draw)]
        if len(rows) == 0:
            return batches
        size, n_batches = min(self._size, max(len(rows), 3)), len(boundaries(len(order), self._size)) - 1
        companions = minibatches(self.cells, repeated(rows, n_batches * size, draw), size, self.make_batch)
        return (replace(cells, companion=more) for cells, more in zip(batches, companions, strict=True))

    def _step(self, cells, step: Step, optimizer: torch.optim.Optimizer) -> Loss:
        optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            loss: Loss = self.module(cells, step)
        self.scaler.scale(loss.total).backward()
        if self.config.clip_gradient is not None:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_gradient)
        self.scaler.step(optimizer)
        self.scaler.update()
        return loss

    def _ends(self, epoch: int, asked: bool | None) -> bool:
        if asked:
            self.outcome.stopped = "callback"
        elif self.config.early_stopping and self.best.exhausted(epoch):
            self.outcome.stopped = "early"
        return self.outcome.stopped != "finished"

    def _finish(self) -> None:
        """Keep the best weights where they were watched for; end with a validation of what is kept."""
        if self.config.early_stopping and self.best.weights:
            self.best.restore(self.module)
            self.outcome.best_epoch = self.best.epoch
        self.module.eval()
        history = self.outcome.history
        if history and len(self.held_out) and "loss_validation" not in history[-1]:
            history[-1] |= self.validate(len(history) - 1)

    @property
    def _size(self) -> int:
        return self.config.batch_size or 128


class _Means:
    """Means over cells of the terms of a loss, accumulated on the device: no wait for it at each step."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, int] = {}

    def add(self, loss: Loss) -> None:
        for name, value in {"loss": loss.total, **loss.terms}.items():
            weighted = value.detach() * loss.n_cells
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
            self.weights[name] = self.weights.get(name, 0) + loss.n_cells

    def means(self) -> Row:
        return {name: float(total) / max(1, self.weights[name]) for name, total in self.sums.items()}


def _adam(module: nn.Module, player: str, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam over the weights of `player`; a module with several players says which weights are whose."""
    owned = module.parameters() if len(module.players) == 1 else module.parameters_of(player)  # type: ignore[attr-defined, operator]
    trained = [parameter for parameter in owned if parameter.requires_grad]
    return torch.optim.Adam(
        trained, lr=config.lr or 1e-3, weight_decay=config.weight_decay or 0.0, eps=config.adam_eps or 1e-8, fused=True
    )


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
    return Event("epoch", f"{watched.replace('_', ' ')} {row[watched]:.2f}", epoch + 1, max_epochs, left, row)


def _cuda(device: torch.device) -> list[int]:
    return [torch.cuda.current_device()] if device.type == "cuda" else []
