"""Early stopping and learning-rate reduction."""

from __future__ import annotations

from scduet._torch import torch

import math
from collections.abc import Mapping

from torch import Tensor, nn

from scduet.errors import OptionError, some
from scduet.train.config import TrainConfig


class BestWeights:
    """Remembers the weights with the best value of the term that is watched, and how long ago that was."""

    def __init__(self, config: TrainConfig):
        self.min_delta, self.patience = config.early_stopping_min_delta, config.early_stopping_patience or 1
        self.term, self.sign = f"{config.early_stopping_monitor}_validation", 1
        if config.early_stopping_mode == "max":
            self.sign = -1
        self.warmup = config.early_stopping_warmup_epochs if config.early_stopping else 0
        self.loss, self.epoch = math.inf, 0
        self.weights: dict[str, Tensor] = {}

    def see(self, row: Mapping[str, float], epoch: int, module: nn.Module) -> None:
        """Take note of the validation in `row`, of that epoch. Raises OptionError where it lacks the term."""
        if epoch < self.warmup:
            return
        if self.term not in row:
            terms = [name.removesuffix("_validation") for name in row if name.endswith("_validation")]
            raise OptionError(f"early_stopping_monitor: no term {self.term!r}", f"the validation has {some(terms, 9)}")
        loss = self.sign * row[self.term]
        if loss < self.loss - self.min_delta:
            self.loss, self.epoch = loss, epoch
            self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def exhausted(self, epoch: int) -> bool:
        return epoch - max(self.epoch, self.warmup) >= self.patience

    def restore(self, module: nn.Module) -> None:
        """Restore the best weights, if any were recorded."""
        if self.weights:
            module.load_state_dict(self.weights)


def plateau_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig):
    """Reduces the learning rate when the validation loss no longer decreases."""
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=config.lr_factor,
        patience=config.lr_patience,
        threshold=0.0,
        threshold_mode="abs",
        min_lr=config.lr_min,
    )
