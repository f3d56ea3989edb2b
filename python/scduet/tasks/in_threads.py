"""Work shared out over as many threads as torch may use."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_threads(function: Callable[[Job], Result], jobs: Iterable[Job]) -> list[Result]:
    """What the function gives for each job, in their order. It should be numpy's or compiled: these release the GIL.

    The caller works too, so that a thread less has to be started.
    """
    todo, results = enumerate(list(jobs)), {}

    def work() -> None:
        for place, job in todo:
            results[place] = function(job)

    with ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), "scduet-share") as pool:
        others = [pool.submit(work) for _ in range(torch.get_num_threads() - 1)]
        work()
    for other in others:
        other.result()
    return [results[place] for place in sorted(results)]
