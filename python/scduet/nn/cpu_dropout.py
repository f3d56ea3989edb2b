"""Which units dropout keeps, from a hash on a CPU: torch's own draws there take as long as a small layer."""

from __future__ import annotations

from scduet._torch import torch

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from scduet._numba import compiled

BITS = 32  # random bits of a unit
u32 = np.uint32
FIRST, SECOND = u32(0x7FEB352D), u32(0x846CA68B)  # factors of the hash "lowbias32" (Wellons 2018)
GOLDEN = u32(0x9E3779B9)  # which spreads neighbours over all numbers


def dropout(x: Float[Tensor, "*shape"], rate: float) -> Float[Tensor, "*shape"]:
    """`F.dropout` in training; on a CPU with other draws, which torch's random state determines too."""
    if not rate or x.device.type != "cpu":
        return F.dropout(x, rate) if rate else x
    mask = torch.empty_like(x, dtype=torch.float32, memory_format=torch.contiguous_format)
    _write_mask(mask.view(-1).numpy(), *hashed(rate), np.float32(1 / (1 - rate)))
    return x * mask.to(x.dtype)


def hashed(rate: float) -> tuple[np.uint32, np.uint32]:
    """A seed for `hash_of`, and the number from which on a unit is kept."""
    seed = int(torch.empty((), dtype=torch.int64).random_(2**BITS)) if rate else 0
    return u32(seed), u32(round(rate * 2**BITS))


@compiled(inline="always")
def hash_of(place, seed):
    """A random-looking number of 32 bits for each place."""
    x = u32(u32(place) * GOLDEN) ^ seed
    x = u32(u32(x ^ (x >> u32(16))) * FIRST)
    x = u32(u32(x ^ (x >> u32(15))) * SECOND)
    return u32(x ^ (x >> u32(16)))


@compiled()
def _write_mask(mask, seed, least, kept):
    for place in range(len(mask)):
        mask[place] = kept if hash_of(place, seed) >= least else np.float32(0)
