"""Compile kernels with numba and pass them tensors by address.

The machine code is cached on disk if possible. If the environment variable `SCDUET_KERNELS=0` is set when scduet is
imported, no kernels are used: slower, with results equal up to rounding.
"""

from __future__ import annotations

from scduet._torch import torch

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import numba
from numba.core import event, types
from numba.extending import intrinsic
from torch import Tensor

KERNELS = ContextVar("kernels", default=os.environ.get("SCDUET_KERNELS", "1") != "0")  # see `second_order.uncompiled`
_not_kept: list[str] = []  # kernels whose compiled code could not be cached


def usable(*tensors: Tensor) -> bool:
    """Whether kernels can be used: they are enabled, and all tensors are float32 on a CPU."""
    return KERNELS.get() and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def compiled(signature: str | None = None, **options) -> Callable[[Callable], Callable]:
    """`numba.njit` that releases the GIL, follows numpy on division by zero, and caches on disk where it can.

    What a kernel calls is inlined: as functions of their own there would be several copies, optimized differently, and
    sums would round one way in the session that compiles and another in those that read the cache.

    With a signature, the function is compiled (or read from the cache) immediately, otherwise at its first call.
    """

    def decorated(function: Callable) -> Callable:
        always = {"nogil": True, "error_model": "numpy", "forceinline": True, **options}
        try:
            return numba.njit(signature, cache=True, **always)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache is writable
            _not_kept.append(function.__name__)
            return numba.njit(signature, **always)(function)

    return decorated


@contextmanager
def compilation_announced(tell: Callable[[str], object]) -> Iterator[None]:
    """Call `tell` with a message for the user, at most once, if a kernel has to be compiled in this context.

    Kernels are compiled at their first call unless they are cached, which takes half a minute in total.
    """
    with event.install_listener("numba:compile", _FirstCompilation(tell)):
        yield


class _FirstCompilation(event.Listener):
    def __init__(self, tell: Callable[[str], object]):
        self.tell, self.told = tell, False

    def on_start(self, event) -> None:
        ours = event.data["dispatcher"].py_func.__module__.startswith("scduet.")
        here = threading.current_thread() is threading.main_thread()  # R can be told from there alone
        if ours and here and not self.told:
            self.told = True
            self.tell(f"compiling kernels for this machine, which takes about half a minute; {_once()}")

    def on_end(self, event) -> None:
        pass


def _once() -> str:
    if _not_kept:
        return "they cannot be cached for the next session (set NUMBA_CACHE_DIR to a writable folder)"
    return "later sessions use the cache"


@intrinsic
def _float_pointer(_, address):
    kind = types.CPointer(types.float32)
    return kind(address), lambda context, builder, sig, args: builder.inttoptr(args[0], context.get_value_type(kind))


@intrinsic
def _integer_pointer(_, address):
    kind = types.CPointer(types.int64)
    return kind(address), lambda context, builder, sig, args: builder.inttoptr(args[0], context.get_value_type(kind))


@compiled(inline="always")
def floats(address, shape):
    """A float32 array at an address. Passing the address of a tensor is faster than converting it to an array."""
    return numba.carray(_float_pointer(address), shape)  # type: ignore[call-arg]


@compiled(inline="always")
def integers(address, shape):
    """An int64 array at an address."""
    return numba.carray(_integer_pointer(address), shape)  # type: ignore[call-arg]


def address(tensor: Tensor, kind: torch.dtype = torch.float32) -> int:
    """Address of a contiguous tensor, for `floats` and `integers`. The tensor must outlive the call it is passed to."""
    if tensor.dtype != kind or not tensor.is_contiguous():
        raise TypeError(f"kernels take contiguous {kind}, not {tensor.dtype} with strides {tensor.stride()}")
    return tensor.data_ptr()


@contextmanager
def threads_for(work: int, enough: int) -> Iterator[int]:
    """Number of torch threads to split `work` over; `enough` is the minimum work per thread."""
    allowed = torch.get_num_threads()
    yield min(allowed, 1 + work // enough) if _has_openmp() else 1
    if torch.get_num_threads() != allowed:  # numba's OpenMP sets its own number of threads at its first loop
        torch.set_num_threads(allowed)


@cache
def _has_openmp() -> bool:
    """Whether numba has OpenMP and shares torch's threads; its own pool competes with them and is not reentrant."""
    try:
        from numba.np.ufunc import omppool  # type: ignore[attr-defined] # noqa: F401
    except ImportError:
        return False
    return numba.config.THREADING_LAYER in ("default", "omp", "threadsafe", "safe")  # type: ignore[attr-defined]
