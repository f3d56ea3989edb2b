"""numpy's work shared out over as many threads as torch may use."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_threads(function: Callable[[Job], Result], jobs: Iterable[Job]) -> list[Result]:
    """What the function gives for each job, in their order. It should be numpy's or scipy's, which release the GIL."""
    with ThreadPoolExecutor(torch.get_num_threads(), "scduet-share") as pool:
        return list(pool.map(function, jobs))
