"""When to stop, and which weights to keep."""

from __future__ import annotations

from scduet._torch import torch

import math

from torch import Tensor, nn

from scduet.train.config import TrainConfig


class BestWeights:
    """Remembers the weights with the lowest validation loss, and how long ago that was."""

    def __init__(self, config: TrainConfig):
        self.min_delta, self.patience = config.early_stopping_min_delta, config.early_stopping_patience or 1
        self.loss, self.epoch = math.inf, 0
        self.weights: dict[str, Tensor] = {}

    def see(self, loss: float, epoch: int, module: nn.Module) -> None:
        """Take note of the validation `loss` after `epoch` epochs."""
        if loss < self.loss - self.min_delta:
            self.loss, self.epoch = loss, epoch
            self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def exhausted(self, epoch: int) -> bool:
        return epoch - self.epoch >= self.patience

    def restore(self, module: nn.Module) -> None:
        """Put the best weights back, if any were seen."""
        if self.weights:
            module.load_state_dict(self.weights)


def plateau_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig):
    """Lowers the learning rate when the validation loss no longer falls."""
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=config.lr_factor,
        patience=config.lr_patience,
        threshold=0.0,
        threshold_mode="abs",
        min_lr=config.lr_min,
    )
