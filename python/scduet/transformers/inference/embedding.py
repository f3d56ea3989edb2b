"""From cells to vectors: tokens in windows of cells, minibatches of like lengths, results in the order of the cells."""

from __future__ import annotations

from scduet._torch import torch

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from scduet.contract import TokenBatch
from scduet.data.loader import Rows
from scduet.data.sources import Source
from scduet.errors import DeviceError, OptionError, ScduetWarning
from scduet.transformers.tokenizers.tokens import Tokenizer, Tokens

WINDOW = 4_096  # cells tokenised together: bounds memory, and is enough to find cells of like lengths
TOKENS_AT_ONCE = {"cpu": 8_192, "cuda": 131_072}
SAME = 0.01  # spread below which cells are as good as the same: a <cls> that attends to nothing yet has less
DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}
Precision = Literal["32", "bf16", "16"]
Progress = Callable[[int, int, float], None]  # cells done, all cells, seconds left


@dataclass(frozen=True)
class Resources:
    """What a computation may use."""

    device: torch.device
    precision: Precision = "32"
    tokens_at_once: int | None = None  # tokens of a minibatch; None decides by the device
    progress: Progress | None = None

    def __post_init__(self):
        if self.precision not in ("32", *DTYPES):
            raise OptionError(f"option 'precision' cannot be {self.precision!r}", "it is '32', 'bf16' or '16'")
        if self.tokens_at_once is not None and self.tokens_at_once < 1:
            raise OptionError(f"option 'tokens_at_once' cannot be {self.tokens_at_once}", "it is at least 1")

    def autocast(self):
        dtype = DTYPES.get(self.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)


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
    """How far cells are from their mean (root mean square), as a share of the mean's length; 0 if all are the same."""
    mean = vectors.mean(0, dtype=np.float64)
    return float(np.sqrt(np.square(vectors - mean).sum(1).mean()) / max(np.linalg.norm(mean), 1e-30))


def batches(
    function: Callable[[TokenBatch], Tensor], tokenizer: Tokenizer, source: Source, pad: int, resources: Resources
) -> Iterator[tuple[Int[np.ndarray, " cell"], Tensor]]:
    """Rows of some cells and what `function` makes of them, until all cells are done."""
    done, started = 0, time.monotonic()
    with torch.inference_mode(), resources.autocast():
        for tokens in windows(tokenizer, source):
            for cells, result in of_tokens(function, tokens, pad, resources):
                done += len(cells)
                yield tokens.index[cells], result
                if resources.progress is not None:
                    left = (time.monotonic() - started) / done * (source.n_cells - done)
                    resources.progress(done, source.n_cells, left)


def of_tokens(
    function: Callable[[TokenBatch], Tensor], tokens: Tokens, pad: int, resources: Resources
) -> Iterator[tuple[Int[np.ndarray, " cell"], Tensor]]:
    """Places of some cells among `tokens` and what `function` makes of them, until all are done."""
    pending = alike(tokens.lengths, resources.tokens_at_once or TOKENS_AT_ONCE.get(resources.device.type, 8_192))
    while pending:
        cells = pending.pop()
        result = _attempt(function, tokens.batch(cells, pad).to(resources.device), resources)
        if result is None:
            half = len(cells) // 2
            pending += [cells[half:], cells[:half]]
            continue
        yield cells, result


def windows(tokenizer: Tokenizer, source: Source) -> Iterator[Tokens]:
    """The tokens of all cells, some thousand cells at a time."""
    for start in range(0, source.n_cells, WINDOW):
        yield tokenizer.tokens(in_order(source, start, min(start + WINDOW, source.n_cells)))


def in_order(source: Source, start: int, stop: int) -> Rows:
    """Cells `start` to `stop`; without a copy of their counts where they lie in memory."""
    index = np.arange(start, stop)
    counts = source.rows(index)
    return Rows(counts.data, counts.indices, counts.indptr, source.n_genes, index, np.zeros_like(index))


def alike(lengths: Int[np.ndarray, " cell"], budget: int) -> list[Int[np.ndarray, " cell"]]:
    """Groups of cells of like lengths, with at most `budget` tokens when padded, or one cell. The longest come last."""
    order = np.argsort(lengths, kind="stable")
    groups, start = [], 0
    for i in range(1, len(order) + 1):
        if i == len(order) or (i + 1 - start) * lengths[order[i]] > budget:
            groups.append(order[start:i])
            start = i
    return groups


def _attempt(function: Callable[[TokenBatch], Tensor], batch: TokenBatch, resources: Resources) -> Tensor | None:
    """The result, or None (after a warning) when the memory of the device was too small for several cells."""
    try:
        return function(batch)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        if len(batch) == 1:
            message = (
                f"a single cell of {batch.gene.shape[1]} tokens does not fit into the memory of {resources.device}"
            )
            raise DeviceError(message, "lower max_length, or use precision='bf16' or another device") from error
    if resources.device.type == "cuda":
        torch.cuda.empty_cache()
    message = f"{len(batch)} cells at once are too many for the memory of {resources.device}: going on with half"
    warnings.warn(message, ScduetWarning, stacklevel=2)
    return None


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
