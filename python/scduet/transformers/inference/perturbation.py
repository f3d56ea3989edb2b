"""Geneformer's in-silico perturbation: the effect of deleting or overexpressing genes on a cell's embedding.

Source: Theodoris et al., Nature 2023. "delete" removes the tokens, so that later genes move up a rank; "overexpress"
moves them to the front, whether or not the cell expresses them, and truncates at the end. The cosine between before and
after is that of <cls> if the model pools by it, otherwise the mean over the other genes of the cosine between their
states.
"""

from __future__ import annotations

from scduet._torch import torch

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from scduet.contract import TokenBatch
from scduet.transformers.families.geneformer import Geneformer, Options
from scduet.transformers.inference.embedding import Resources, of_tokens
from scduet.transformers.tokenizers.tokens import Tokens, joined

How = Literal["delete", "overexpress"]
CELLS_AT_ONCE = 32  # maximum number of cells whose original states are kept in memory


@dataclass(frozen=True)
class Change:
    """Genes perturbed together, and the cells (indices into the tokens) that contain them."""

    genes: Int[np.ndarray, " gene"]  # tokens
    how: How
    cells: Int[np.ndarray, " cell"]


@dataclass(frozen=True)
class Effect:
    """The effect of a change on each of its cells."""

    cosine: Float[np.ndarray, " cell"]  # between before and after: 1 is no effect
    towards: Float[np.ndarray, "cell state"]  # cosine with each state, after minus before


def effects(
    module: Geneformer,
    tokens: Tokens,
    changes: Sequence[Change],
    states: Float[np.ndarray, "state width"],
    options: Options,
    resources: Resources,
) -> list[Effect]:
    """The effects of `changes` on the cells of `tokens`; each cell is computed once, and once per change."""
    found = [Effect(np.empty(len(c.cells)), np.empty((len(c.cells), len(states)))) for c in changes]
    goals = torch.from_numpy(np.asarray(states, np.float32))
    everything = np.unique(np.concatenate([np.empty(0, np.int64), *(change.cells for change in changes)]))
    begun, runner = time.monotonic(), _Runner(module.to(resources.device).eval(), options, resources)
    for start in range(0, len(everything), CELLS_AT_ONCE):
        cells = everything[start : start + CELLS_AT_ONCE]
        before = dict(zip(cells.tolist(), runner.each(_taken(tokens, cells)), strict=True))
        pairs = [
            (i, place) for i, change in enumerate(changes) for place in np.flatnonzero(np.isin(change.cells, cells))
        ]
        after = runner.each(joined([runner.perturbed(tokens, changes[i], changes[i].cells[p]) for i, p in pairs]))
        for (i, place), new in zip(pairs, after, strict=True):
            old = before[int(changes[i].cells[place])]
            found[i].cosine[place] = runner.cosine(old, new, changes[i].genes)
            found[i].towards[place] = (_cosines(new.vector, goals) - _cosines(old.vector, goals)).numpy()
        if resources.progress is not None:
            done = start + len(cells)
            left = (time.monotonic() - begun) / done * (len(everything) - done)
            resources.progress(done, len(everything), left)
    return found


def rearranged(
    genes: Int[np.ndarray, " place"], change: Int[np.ndarray, " gene"], how: How, longest: int
) -> Int[np.ndarray, " place"]:
    """The genes of a cell, by rank, after the change."""
    others = genes[~np.isin(genes, change)]
    return others if how == "delete" else np.concatenate([change, others])[:longest]


@dataclass(frozen=True)
class _State:
    """A cell: its ranked genes, their states (if they are compared individually), and its embedding."""

    genes: Int[np.ndarray, " place"]
    states: Float[Tensor, "place width"] | None
    vector: Float[Tensor, " width"]


@dataclass(frozen=True)
class _Runner:
    """A model, and how it embeds a cell."""

    module: Geneformer
    options: Options
    resources: Resources

    @property
    def pad(self) -> int:
        return self.module.vocabulary.special["<pad>"]

    @property
    def inner(self) -> slice:
        """Positions of the genes between the special tokens."""
        return slice(1, -1) if self.module.has_cls else slice(None)

    def each(self, tokens: Tokens) -> Iterator[_State]:
        """The states of the cells, in their order."""
        by_cls = self.module.pools_by_cls(self.options)
        found: list[_State | None] = [None] * len(tokens.index)
        for cells, result in of_tokens(self._embed if by_cls else self._states, tokens, self.pad, self.resources):
            parts = result.float().cpu().split([1] * len(cells) if by_cls else tokens.lengths[cells].tolist())
            for cell, part in zip(cells, parts, strict=True):
                genes = tokens.gene[tokens.indptr[cell] : tokens.indptr[cell + 1]][self.inner]
                states = None if by_cls else part[self.inner]
                found[cell] = _State(genes, states, part[0] if states is None else states.mean(0))
        return iter([state for state in found if state is not None])

    def perturbed(self, tokens: Tokens, change: Change, cell: int) -> Tokens:
        """One cell after the change."""
        sequence = tokens.gene[tokens.indptr[cell] : tokens.indptr[cell + 1]]
        frame = 2 if self.module.has_cls else 0
        genes = rearranged(sequence[self.inner], change.genes, change.how, self.longest - frame)
        new = np.concatenate([sequence[:1], genes, sequence[-1:]]) if frame else genes
        return Tokens(new, None, np.array([0, len(new)]), tokens.index[cell : cell + 1])

    @property
    def longest(self) -> int:
        return self.options.max_length or self.module.config.length

    def cosine(self, old: _State, new: _State, change: Int[np.ndarray, " gene"]) -> float:
        if old.states is None or new.states is None:
            return float(F.cosine_similarity(old.vector, new.vector, dim=0))
        kept_new = ~np.isin(new.genes, change)
        kept_old = np.flatnonzero(~np.isin(old.genes, change))[: kept_new.sum()]
        return float(F.cosine_similarity(old.states[kept_old], new.states[np.flatnonzero(kept_new)]).mean())

    def _embed(self, tokens: TokenBatch) -> Tensor:
        return self.module.embed(tokens, self.options)

    def _states(self, tokens: TokenBatch) -> Tensor:
        return self.module.states(tokens, self.options)


def _taken(tokens: Tokens, cells: Int[np.ndarray, " cell"]) -> Tokens:
    """Some of the cells."""
    pieces = [tokens.gene[tokens.indptr[cell] : tokens.indptr[cell + 1]] for cell in cells]
    indptr = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
    return Tokens(np.concatenate(pieces), None, indptr, tokens.index[cells])


def _cosines(vector: Float[Tensor, " width"], states: Float[Tensor, "state width"]) -> Float[Tensor, " state"]:
    return F.cosine_similarity(vector[None], states, dim=1) if len(states) else torch.zeros(0)
