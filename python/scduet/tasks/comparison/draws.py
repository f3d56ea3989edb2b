"""Draws of cells of two groups, decoded, and put together in pairs."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from scduet.api import Model
from scduet.nn.layers import rsample
from scduet.tasks.comparison.fold_changes import Pairs
from scduet.tasks.comparison.importance import Draws, Importance, importance_weights, redrawn
from scduet.tasks.posterior.latent import Modality, states


@dataclass(frozen=True)
class PairedDraws:
    """Shares of genes of cells drawn from two groups: all of the first group, then all of the second."""

    cell: Int[np.ndarray, " draw"]
    share: Float[np.ndarray, "draw gene"]
    code: Int[np.ndarray, " draw"]  # batch decoded as, -1 for the one observed
    order: Int[np.ndarray, " draw"]  # numbers of the draws of each batch decoded as, at random: for pairs
    n_first: int

    @property
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the draws of each group, in the order of the pairs."""
        return self.order[: self.n_first], self.order[self.n_first :]

    def pairs(self) -> Pairs:
        first, second = self.sides
        n = min(len(first), len(second))
        return Pairs(self.share, first[:n], second[:n])


class Sampler:
    """Draws cells of a group, then their states, then decodes those."""

    def __init__(
        self, model: Model, decoded: Modality, adata, n_draws: int, batch_size: int, random: np.random.Generator
    ):
        self.model, self.decoded, self.adata = model, decoded, adata
        self.n_draws, self.batch_size, self.random = n_draws, batch_size, random
        self.importance: Importance | None = None

    def draw(self, *groups: tuple[Int[np.ndarray, " cell"], Sequence[int | None]]) -> PairedDraws:
        """groups: places of the cells, and codes of the batches to decode as, of either group."""
        drawn = [self._drawn(*group) for group in groups]
        shares = None
        if self.importance is not None:
            parts = [self._weighted(rows, cell, code) for (rows, _), (cell, code, _) in zip(groups, drawn, strict=True)]
            drawn = [(cell, code, order) for (cell, _), (_, code, order) in zip(parts, drawn, strict=True)]
            shares = np.concatenate([share for _, share in parts])
        starts = np.cumsum([0, *(len(cell) for cell, *_ in drawn)])
        cell, code, order = map(np.concatenate, zip(*drawn, strict=True))
        order += np.repeat(starts[:-1], np.diff(starts))
        shares = self._decoded(cell, code) if shares is None else shares
        return PairedDraws(cell, shares, code, order, int(starts[1]))

    def _drawn(self, rows: Int[np.ndarray, " cell"], codes: Sequence[int | None]) -> tuple[np.ndarray, ...]:
        """Cells, ascending as files are read; codes to decode them as; and in which order they were drawn, as many for
        each code one after the other."""
        code = np.repeat([-1 if code is None else code for code in codes], max(2, self.n_draws // len(codes)))
        cell = self.random.choice(rows, len(code))
        ascending = cell.argsort(kind="stable")
        return cell[ascending], code[ascending], ascending.argsort()

    def _weighted(self, rows: np.ndarray, cell: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cells and shares of draws that were drawn once more by their weight, those of each batch for themselves."""
        kept: list[Draws] = []
        share = self._decoded(cell, code, kept)
        assert self.importance is not None
        given = self.model, self.decoded, self.adata, rows, kept, self.importance
        picked = redrawn(importance_weights(*given, self.random), code, self.random)
        return cell[picked], share[picked]

    def _decoded(
        self, cell: np.ndarray, code: np.ndarray, kept: list[Draws] | None = None
    ) -> Float[np.ndarray, "draw gene"]:
        """Shares of a draw of each cell's state; the draws are added to `kept`."""
        share, start = np.empty((len(cell), len(self.decoded.features)), np.float32), 0
        for part in states(self.model, self.adata, cell, self.batch_size):
            rows = slice(start, start + len(part.cells))
            batch = torch.from_numpy(code[rows]).to(part.cells.batch)
            batch = torch.where(batch < 0, part.cells.batch, batch)
            z = rsample(part.mean, part.variance)
            if kept is not None:
                kept.append(Draws(z, part.cells, batch))
            state = z if part.encoder is None else part.encoder.transform_latent(z)
            self.decoded.normalized(state, part.cells, batch, torch.from_numpy(share[rows]))
            start = rows.stop
        return share
