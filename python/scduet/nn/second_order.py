"""Gradients of gradients, as a gradient penalty needs them: compiled functions refuse, `uncompiled` layers can."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor
from torch.autograd import Function

from scduet.nn.kernels.jit import KERNELS


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, layers run in plain torch: slower on a CPU, but they can be differentiated twice.

    SCDUET_KERNELS=0 in the environment does the same throughout.
    """
    before = KERNELS.set(False)
    try:
        yield
    finally:
        KERNELS.reset(before)


def once_differentiable(backward: Callable[..., tuple]) -> Callable[..., tuple]:
    """The `backward` of a Function whose gradients have no graph: to differentiate these is an error.

    torch's own decorator lets them pass for constants where what comes from above needs no gradient.
    """

    @wraps(backward)
    def once(ctx: Any, *grads: Tensor) -> tuple:
        with torch.no_grad():
            found = backward(ctx, *grads)
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
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        remedy = "put layers inside `with uncompiled():` of scduet.nn.second_order"
        raise RuntimeError(f"a compiled function cannot be differentiated twice; {remedy}")
