"""Compilation of loops over numbers, kept on disk between processes where there is a place to keep it."""

from __future__ import annotations

from scduet._torch import torch

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numba
from numba.core import event, types
from numba.extending import intrinsic
from torch import Tensor

_not_kept: list[str] = []  # loops for whose compiled code no folder could be written


def compiled(signature: str | None = None, **options) -> Callable[[Callable], Callable]:
    """`numba.njit` that releases the GIL, divides as numpy does, and caches where the disk lets it.

    With a signature it is made ready at once, and numba with it; else at its first call.
    """

    def decorated(function: Callable) -> Callable:
        always = {"nogil": True, "error_model": "numpy", **options}
        try:
            return numba.njit(signature, cache=True, **always)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache can be written
            _not_kept.append(function.__name__)
            return numba.njit(signature, **always)(function)

    return decorated


@contextmanager
def compilation_announced(tell: Callable[[str], object]) -> Iterator[None]:
    """Inside, `tell` is called once if a loop of ours has to be compiled, with a sentence for the user.

    Loops are compiled at their first call, unless an earlier process kept them: together that takes half a minute.
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
            self.tell(f"compiling loops for this machine, which takes about half a minute; {_once()}")

    def on_end(self, event) -> None:
        pass


def _once() -> str:
    if _not_kept:
        return "no folder can be written that keeps them for the next session (set NUMBA_CACHE_DIR to one)"
    return "later sessions start at once"


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
    """The float32 numbers at an address, which a tensor tells sooner than it turns into an array."""
    return numba.carray(_float_pointer(address), shape)  # type: ignore[call-arg]


@compiled(inline="always")
def integers(address, shape):
    """The int64 numbers at an address."""
    return numba.carray(_integer_pointer(address), shape)  # type: ignore[call-arg]


def address(tensor: Tensor, kind: torch.dtype = torch.float32) -> int:
    """Where the numbers of a tensor are, for `floats` and `integers`. The tensor must outlive the call it is for."""
    if tensor.dtype != kind or not tensor.is_contiguous():
        raise TypeError(f"compiled loops want {kind} side by side, not {tensor.dtype} with strides {tensor.stride()}")
    return tensor.data_ptr()


@contextmanager
def threads_for(work: int, enough: int) -> Iterator[int]:
    """How many of torch's threads share `work`, of which `enough` is worth a thread of its own."""
    allowed = torch.get_num_threads()
    yield min(allowed, 1 + work // enough) if _may_share_out() else 1
    if torch.get_num_threads() != allowed:  # numba's OpenMP made it its own number at its first loop
        torch.set_num_threads(allowed)


@cache
def _may_share_out() -> bool:
    """Whether numba has OpenMP, hence torch's threads; its own would compete with them, and cannot be called twice."""
    try:
        from numba.np.ufunc import omppool  # type: ignore[attr-defined] # noqa: F401
    except ImportError:
        return False
    return numba.config.THREADING_LAYER in ("default", "omp", "threadsafe", "safe")  # type: ignore[attr-defined]
