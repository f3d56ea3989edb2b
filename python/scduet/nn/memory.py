"""Keeps the allocator from handing memory back to the system in every training step."""

from __future__ import annotations

from scduet._torch import torch


def keep_freed_blocks() -> None:
    """Let blocks of up to 31 MB be used again once freed, on Linux; up to 62 MB may then stay with the process.

    glibc at first returns every freed block above 128 kB to the system, and a training step on a CPU then spends up to
    a third of its time on page faults. Whenever it frees such a block of up to 32 MB, it raises that limit to the
    block's size (mallopt(3), M_MMAP_THRESHOLD). So one block is asked for and freed, untouched; other allocators lose
    nothing by it.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)
