"""What a process sees of the cells: the minibatches of an epoch or of a validation, on its device."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from torch import nn

from scduet.contract import Accompanied, CellBatch, MakeBatch, TokenBatch
from scduet.data.loader import epoch_order, minibatches
from scduet.data.resident import resident
from scduet.data.samplers import Share, boundaries, repeated, shared
from scduet.data.sources import Cells
from scduet.train.config import TrainConfig

Batches = Iterator[CellBatch | TokenBatch]


class Feed:
    """Minibatches of some cells; on a GPU cut from a copy there, where it fits."""

    def __init__(self, cells: Cells, config: TrainConfig, device: torch.device, make_batch: MakeBatch | None):
        self.cells, self.config, self.device, self.make_batch = cells, config, device, make_batch
        self.size = config.batch_size or 128
        self.resident = resident(cells, device) if device.type == "cuda" and make_batch is None else None

    def training(self, module: nn.Module, rows: np.ndarray, epoch: int, share: Share) -> Batches:
        """The share of `rows` that one process trains on in an epoch, with companions where the module wants such."""
        random = self.config.seed, epoch
        order, edges = epoch_order(self.cells, rows, self.size, random, share, self.config.shuffle_block)
        batches = self._cut(order, edges)
        if not isinstance(module, Accompanied) or self.cells.label is None:
            return batches
        draw = np.random.default_rng((*random, 1 + share.number))
        chosen = rows[module.companions(self.cells.label[rows], draw)]
        return self._accompanied(batches, chosen, len(edges) - 1, draw) if len(chosen) else batches

    def validation(self, rows: np.ndarray, share: Share) -> Batches:
        """The share of `rows` that one process validates, in the order in which they are stored."""
        mine = shared(np.sort(rows), share, together=True)
        return self._cut(mine, boundaries(len(mine), self.size))

    def _accompanied(self, batches: Batches, rows: np.ndarray, n_batches: int, draw: np.random.Generator) -> Batches:
        size = min(self.size, max(len(rows), 3))
        order = repeated(rows, n_batches * size, draw)
        companions = self._cut(order, boundaries(len(order), size))
        return (replace(cells, companion=more) for cells, more in zip(batches, companions, strict=True))

    def _cut(self, order: np.ndarray, edges: np.ndarray) -> Batches:
        if self.resident is not None:
            return self.resident.minibatches(order, edges)
        batches = minibatches(self.cells, order, self.size, self.make_batch, edges)
        return batches if self.device.type == "cpu" else (cells.to(self.device) for cells in batches)
