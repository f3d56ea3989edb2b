"""Models small enough to know the answer, and a trainer for them."""

import os
import time

import torch
from torch import nn

from scduet.contract import Loss
from scduet.train.config import TrainConfig, resolved
from scduet.train.loop import Trainer


class Profile(nn.Module):
    """Learns the mean count of each gene: the loss is the squared distance to it."""

    players = ("model",)

    def __init__(self, n_genes=60):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(n_genes))
        self.norm = nn.BatchNorm1d(n_genes)  # fails on a minibatch of one cell in training
        self.steps = []

    def forward(self, cells, step):
        self.steps.append((step.epoch, float(step.kl_weight), len(cells), self.training))
        noise = 0 * self.norm(cells.x.dense()).sum() + 0 * torch.randn(())
        distance = ((cells.x.dense() - self.mean) ** 2).sum(1).mean() + noise
        return Loss(distance, {"distance": distance}, len(cells))

    def embed(self, cells):
        return cells.x.dense() - self.mean


class Duel(Profile):
    """Two players, each with weights of its own."""

    players = ("one", "two")

    def __init__(self):
        super().__init__()
        self.other = nn.Parameter(torch.zeros(()))

    def parameters_of(self, player):
        return [self.mean] if player == "one" else [self.other]

    def forward(self, cells, step):
        distance = super().forward(cells, step).total
        total = distance if step.player == "one" else (self.other - 1) ** 2
        return Loss(total, {step.player: total}, len(cells))


class Fragile(Profile):
    """Fails in epoch 1, in a process that is not the first."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, cells, step):
        if step.epoch == 1 and torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            {"dies": lambda: os._exit(7), "fails": self.fail, "hangs": lambda: time.sleep(1000)}[self.how]()
        return super().forward(cells, step)

    def fail(self):
        raise ValueError("Fragile")


def trainer(cells, module=None, **options):
    options = {"max_epochs": 3, "recipe": "scvi-tools", "lr": 0.05, "adam_eps": 1e-8, "weight_decay": 0.0} | options
    return Trainer(module or Profile(), cells, resolved(TrainConfig(**options), len(cells)))


def silent(event):
    return None
