"""R's vectors where they lie: reticulate runs R and Python in one process, so an array can look at R's memory.

R tells the address of a vector (`rlang::obj_address()`), R's own C functions tell where its numbers begin. Nothing is
copied on the way. R holds the vector while it waits for the answer, so what is seen must not be kept beyond the call.
"""

from __future__ import annotations

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

PARTS, LARGE = 2, 1 << 20  # parts that are written at once, of so many numbers or more
BEGINNINGS = {"float64": "REAL", "int32": "INTEGER", "uint8": "RAW"}  # functions of R's C interface


def view(address: str, kind: str, size: float) -> np.ndarray:
    """The `size` numbers of the R vector at `address`, which must be of the type that `kind` names."""
    wire = np.dtype(kind)
    begin = _beginning(kind)(int(address, 16))
    memory = (ctypes.c_char * (int(size) * wire.itemsize)).from_address(begin)
    return np.frombuffer(memory, wire)  # type: ignore[arg-type]


def write(array: np.ndarray, kind: str, address: str) -> None:
    """Write `array` into the R vector at `address`: as long, and new, since R does not notice that it changes."""
    seen = view(address, kind, len(array))
    if len(array) < LARGE:
        seen[:] = array
        return
    edges = np.linspace(0, len(array), PARTS + 1).astype(int)
    with ThreadPoolExecutor(PARTS) as pool:  # numpy lets others run while it copies
        list(pool.map(lambda a, b: np.copyto(seen[a:b], array[a:b], casting="unsafe"), edges[:-1], edges[1:]))


def reads(address: str, numbers: list[float]) -> bool:
    """Whether the R vector of doubles at `address` is seen to hold `numbers`."""
    return view(address, "float64", len(numbers)).tolist() == numbers


@cache
def _beginning(kind: str):
    function = getattr(ctypes.PyDLL("R.dll" if sys.platform == "win32" else None), BEGINNINGS[kind])
    function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
    return function
