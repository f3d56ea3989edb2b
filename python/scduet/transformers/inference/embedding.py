"""Batched inference: cells are tokenized in windows, batched by length, and returned in their original order."""

from __future__ import annotations

from scduet._torch import torch

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from scduet.contract import TokenBatch
from scduet.data import inference
from scduet.data.loader import Rows
from scduet.data.sources import Source
from scduet.errors import OptionError, ScduetWarning
from scduet.transformers.tokenizers.tokens import Tokenizer, Tokens

WINDOW = 4_096  # cells tokenized together: bounds memory, and is enough to find cells of similar length
TOKENS_AT_ONCE = {"cpu": 8_192, "cuda": 131_072}
FEW_CELLS = 10  # fewer cells may really be alike
SAME = 0.01  # spread below which cells are practically identical, as for an untrained <cls>
DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}
Precision = Literal["32", "bf16", "16"]


@dataclass(frozen=True)
class Resources:
    """Computational resources."""

    device: torch.device
    precision: Precision = "32"
    tokens_at_once: int | None = None  # tokens of a minibatch; None decides by the device
    progress: inference.Progress | None = None

    def __post_init__(self):
        if self.precision not in ("32", *DTYPES):
            raise OptionError(f"option 'precision' cannot be {self.precision!r}", "it must be '32', 'bf16' or '16'")
        if self.tokens_at_once is not None and self.tokens_at_once < 1:
            raise OptionError(f"option 'tokens_at_once' cannot be {self.tokens_at_once}", "it must be at least 1")

    def each(self, function: Callable[[TokenBatch], Tensor], cut: inference.Cut, n_cells: int, progress: bool = True):
        """`data.inference.each` with these resources: indices of cells, and the results of `function`."""
        size, dtype = self.tokens_at_once or TOKENS_AT_ONCE.get(self.device.type, 8_192), DTYPES.get(self.precision)
        told = self.progress if progress else None
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            for index, result in inference.each(function, cut, n_cells, size, self.device, told):
                yield index.numpy(), result


def embed_cells(
    function: Callable[[TokenBatch], Tensor], tokenizer: Tokenizer, source: Source, pad: int, resources: Resources
) -> Float[np.ndarray, "cell ..."]:
    """`function` of all cells of `source`, one row each."""
    out: np.ndarray | None = None
    for index, result in batches(function, tokenizer, source, pad, resources):
        rows = result.float().cpu().numpy()
        if out is None:
            out = np.empty((source.n_cells, *rows.shape[1:]), np.float32)
        out[index] = rows
    return np.empty((0, 0), np.float32) if out is None else out


def spread(vectors: Float[np.ndarray, "cell width"]) -> float:
    """Root mean square distance of cells from their mean, relative to the mean's length; 0 if all are equal."""
    mean = vectors.mean(0, dtype=np.float64)
    return float(np.sqrt(np.square(vectors - mean).sum(1).mean()) / max(np.linalg.norm(mean), 1e-30))


def batches(
    function: Callable[[TokenBatch], Tensor], tokenizer: Tokenizer, source: Source, pad: int, resources: Resources
) -> Iterator[tuple[Int[np.ndarray, " cell"], Tensor]]:
    """Yield rows of some cells and the result of `function`, until all cells are done."""

    def cut(done: int, size: int) -> Iterator[TokenBatch]:
        first = done // WINDOW * WINDOW
        for tokens in windows(tokenizer, source, first):
            yield from (tokens.batch(cells, pad) for cells in alike(tokens.lengths, size, done - first))
            done = first = first + WINDOW

    return resources.each(function, cut, source.n_cells)


def of_tokens(
    function: Callable[[TokenBatch], Tensor], tokens: Tokens, pad: int, resources: Resources
) -> Iterator[tuple[Int[np.ndarray, " cell"], Tensor]]:
    """Yield positions of some cells in `tokens` and the result of `function`, until all are done."""
    placed = replace(tokens, index=np.arange(len(tokens.index)))

    def cut(done: int, size: int) -> Iterator[TokenBatch]:
        return (placed.batch(cells, pad) for cells in alike(placed.lengths, size, done))

    return resources.each(function, cut, len(placed.index), progress=False)


def windows(tokenizer: Tokenizer, source: Source, first: int = 0) -> Iterator[Tokens]:
    """The tokens of all cells from index `first`, some thousand cells at a time."""
    for start in range(first, source.n_cells, WINDOW):
        yield tokenizer.tokens(in_order(source, start, min(start + WINDOW, source.n_cells)))


def in_order(source: Source, start: int, stop: int) -> Rows:
    """Cells `start` to `stop`; without copying counts that are in memory."""
    index = np.arange(start, stop)
    counts = source.rows(index)
    return Rows(counts.data, counts.indices, counts.indptr, source.n_genes, index, np.zeros_like(index))


def alike(lengths: Int[np.ndarray, " cell"], budget: int, done: int = 0) -> list[Int[np.ndarray, " cell"]]:
    """Groups of cells of similar length, longest first, with at most `budget` tokens after padding, or one cell.

    done: number of cells to skip at the start.
    """
    order, groups = np.argsort(-lengths, kind="stable")[done:], []
    while len(order):
        n = max(1, budget // max(int(lengths[order[0]]), 1))
        groups.append(order[:n])
        order = order[n:]
    return groups


def warn_if_same(vectors: np.ndarray, name: str) -> None:
    """Warn if the embeddings of several cells are nearly equal."""
    if len(vectors) >= FEW_CELLS and spread(vectors) < SAME:
        message = f"{name} gives all {len(vectors)} cells nearly the same vector (they differ by {spread(vectors):.1%})"
        warnings.warn(f"{message}; try pooling='mean', or train it longer", ScduetWarning, stacklevel=3)
