"""Compiled passes over all stored entries of a matrix in memory, shared out to torch's threads."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from scduet._numba import compiled
from scduet.nn.cpu_math import REORDERED, widest

ENOUGH = 1 << 18  # entries that are worth a thread of their own

Found = TypeVar("Found")


def are_counts(values: np.ndarray) -> bool:
    """Whether all of these floats are finite whole numbers from 0 up."""
    return all(np.array(_in_parts(lambda start, end: _oddity(values[start:end]), len(values), len(values))) == 0)


def row_sums(values: np.ndarray, pointer: np.ndarray) -> np.ndarray:
    """Sum of the values of each row of a CSR matrix; float32 for float32, else float64."""
    out = np.empty(len(pointer) - 1, np.result_type(values, np.float32))
    _in_parts(lambda start, end: _sums(values, pointer[start : end + 1], out[start:end]), len(out), len(values))
    return out


def _in_parts(function: Callable[[int, int], Found], n: int, entries: int) -> list[Found]:
    """`function` of where each part of `n` begins and ends."""
    parts = min(torch.get_num_threads(), 1 + entries // ENOUGH)
    edges = [part * n // parts for part in range(parts + 1)]
    if parts == 1:
        return [function(0, n)]
    with ThreadPoolExecutor(parts, "scduet-pass") as pool:
        return list(pool.map(function, edges[:-1], edges[1:]))


@compiled(fastmath=REORDERED)
def _oddity(values):
    """Zero where all values are counts; NaN where one is not finite."""
    widest()
    found = values.dtype.type(0)
    for k in range(len(values)):
        found += abs(values[k] - np.floor(abs(values[k])))
    return found


@compiled(fastmath=REORDERED)
def _sums(values, pointer, out):
    widest()
    for row in range(len(out)):
        total = out.dtype.type(0)
        for k in range(pointer[row], pointer[row + 1]):
            total += values[k]
        out[row] = total
