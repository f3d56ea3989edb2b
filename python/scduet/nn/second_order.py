"""Gradients of gradients, as a gradient penalty needs them: compiled functions refuse, `uncompiled` layers can."""

from __future__ import annotations

from scduet._torch import torch

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from torch import Tensor
from torch.autograd import Function

_COMPILED = ContextVar("compiled", default=os.environ.get("SCDUET_KERNELS", "1") != "0")


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, layers run in plain torch: slower on a CPU, but they can be differentiated twice.

    SCDUET_KERNELS=0 in the environment does the same throughout.
    """
    before = _COMPILED.set(False)
    try:
        yield
    finally:
        _COMPILED.reset(before)


def layers_are_compiled() -> bool:
    return _COMPILED.get()


def once_differentiable(backward: Callable[..., tuple]) -> Callable[..., tuple]:
    """The `backward` of a Function whose gradients have no graph: to differentiate these is an error.

    torch's own decorator lets them pass for constants where what comes from above needs no gradient.
    """

    @wraps(backward)
    def once(ctx: Any, *slopes: Tensor) -> tuple:
        with torch.no_grad():
            found = backward(ctx, *slopes)
        if not torch.is_grad_enabled():
            return found
        given = [value for value in found if isinstance(value, Tensor)]
        ends = iter(_End.apply(torch.zeros((), requires_grad=True), *given))  # pyright: ignore[reportArgumentType]
        return tuple(next(ends) if isinstance(value, Tensor) else value for value in found)

    return once


class _End(Function):
    """The values as they are; differentiating them is an error."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        remedy = "put layers inside `with uncompiled():` of scduet.nn.second_order"
        raise RuntimeError(f"a compiled function cannot be differentiated twice; {remedy}")
