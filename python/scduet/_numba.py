"""Compilation of loops over numbers, kept on disk between processes where there is a place to keep it."""

from __future__ import annotations

from collections.abc import Callable

import numba


def compiled(**options) -> Callable[[Callable], Callable]:
    """`numba.njit` that releases the GIL, divides as numpy does, and caches where the disk lets it."""

    def decorated(function: Callable) -> Callable:
        always = {"nogil": True, "error_model": "numpy", **options}
        try:
            return numba.njit(cache=True, **always)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache can be written
            return numba.njit(**always)(function)

    return decorated
