"""Minibatches of one process for an epoch or a validation, on its device."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from torch import nn

from scduet.contract import CellBatch, MakeBatch, Stratified, TokenBatch
from scduet.data.device_cache import device_cache
from scduet.data.loader import epoch_order, minibatches
from scduet.data.loader_source import Cutter, LoaderSource
from scduet.data.samplers import Shard, boundaries, repeated, shared, split, stratified
from scduet.data.sources import Cells
from scduet.errors import OptionError
from scduet.train.config import TrainConfig

Batches = Iterator[CellBatch | TokenBatch]


def parts_of(cells: Cells, config: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out; of a loader, which itself tells them apart, their numbers alone matter."""
    source = cells.counts
    if isinstance(source, LoaderSource):
        return np.arange(len(cells)), np.arange(0 if source.held_out is None else source.held_out.n_cells)
    return split(len(cells), config.train_size or 1.0, config.seed)


class BatchFeeder:
    """Minibatches of some cells; on a GPU, taken from a cached copy if it fits."""

    def __init__(self, cells: Cells, config: TrainConfig, device: torch.device, make_batch: MakeBatch | None):
        self.cells, self.config, self.device, self.make_batch = cells, config, device, make_batch
        self.size = config.batch_size or 128
        self.device_cache = device_cache(cells, device) if device.type == "cuda" and make_batch is None else None

    def training(self, module: nn.Module, rows: np.ndarray, epoch: int, shard: Shard) -> tuple[Batches, int]:
        """The shard of `rows` that one process trains on in an epoch, stratified if the module requires it.

        Returns the minibatches, and how many there are.
        """
        if isinstance(self.cells.counts, LoaderSource):
            _refuse_other_than_a_walk(module, shard)
            return self._walked(self.cells.counts), len(boundaries(len(self.cells), self.size)) - 1
        random, wanted = (self.config.seed, epoch), getattr(module, "strata", None)
        draw = np.random.default_rng((*random, 1 + shard.rank))
        if isinstance(wanted, str):
            order, edges = stratified(rows, self._stratum(wanted)[rows], self.size, draw, shard)
        else:
            order, edges = epoch_order(self.cells, rows, self.size, random, shard, self.config.shuffle_block)
        batches, n = self._cut(order, edges), len(edges) - 1
        if isinstance(wanted, str) or not isinstance(module, Stratified) or self.cells.label is None:
            return batches, n
        chosen = [rows[places] for places in module.strata(self.cells.label[rows], draw)]
        parts = [self._cycled(some, n, draw) for some in chosen if len(some)]
        return (self._beside(batches, parts) if parts else batches), n

    def validation(self, rows: np.ndarray, shard: Shard) -> Batches:
        """The shard of `rows` that one process validates, in storage order."""
        if isinstance(self.cells.counts, LoaderSource) and self.cells.counts.held_out is not None:
            return self._walked(self.cells.counts.held_out)
        mine = shared(np.sort(rows), shard, together=True)
        return self._cut(mine, boundaries(len(mine), self.size))

    def _walked(self, source: LoaderSource) -> Batches:
        """The cells of a loader, in one pass."""
        return (cells.to(self.device) for cells in Cutter(source.walk())(0, self.size))

    def _stratum(self, name: str) -> np.ndarray:
        """The code of each cell's stratum."""
        if name == "batch":
            return self.cells.batch
        if name in self.cells.extra:
            return self.cells.measured.get(name, np.ones(len(self.cells), bool))
        label = np.full(len(self.cells), -1) if self.cells.label is None else self.cells.label
        return label if name == "label" else label >= 0

    def _cycled(self, rows: np.ndarray, n_batches: int, draw: np.random.Generator) -> Batches:
        """Cells of one stratum for each of `n_batches` minibatches."""
        size = min(self.size, max(len(rows), 3))
        order = repeated(rows, n_batches * size, draw)
        return self._cut(order, boundaries(len(order), size))

    def _beside(self, batches: Batches, parts: list[Batches]) -> Batches:
        together = zip(batches, *parts, strict=True)
        return (replace(cells, strata=tuple(strata)) for cells, *strata in together)

    def _cut(self, order: np.ndarray, edges: np.ndarray) -> Batches:
        if self.device_cache is not None:
            return self.device_cache.minibatches(order, edges)
        batches = minibatches(self.cells, order, self.size, self.make_batch, edges)
        return batches if self.device.type == "cpu" else (cells.to(self.device) for cells in batches)


def _refuse_other_than_a_walk(module: nn.Module, shard: Shard) -> None:
    """Raise OptionError where cells would have to be chosen, which a loader gives in its own order."""
    remedy = "pass files (a list of paths), whose cells can be had in any order"
    if shard.world_size > 1:
        raise OptionError(f"a loader would give all its cells to each of {shard.world_size} processes", remedy)
    if isinstance(getattr(module, "strata", None), str):
        raise OptionError(f"this model draws its minibatches by {module.strata!r}, and a loader has its own", remedy)
    if getattr(getattr(module, "config", None), "n_samples_per_label", None) is not None:
        raise OptionError("n_samples_per_label draws cells, and a loader has its own order", remedy)
