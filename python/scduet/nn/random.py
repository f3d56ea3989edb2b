"""Torch's random numbers, of which a process has one stream: whoever seeds it has it alone meanwhile."""

from __future__ import annotations

from scduet._torch import torch

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from scduet.options import seed_of

_turn = threading.RLock()


@contextmanager
def own_random_numbers(seed: int | None = None) -> Iterator[None]:
    """Inside, torch draws from `seed` (None: as before), and goes on where it was afterwards.

    Other threads that want the same wait, so that each gets the numbers it would get alone.
    """
    with _turn, torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed_of(seed))
        yield


def _renew() -> None:
    """A forked process has one thread, which waits for no other one."""
    global _turn
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
