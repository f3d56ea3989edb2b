"""Second-order gradients, e.g. for gradient penalties: only `uncompiled` layers support them."""

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
    """Run layers in plain torch inside this context: slower on a CPU, but twice differentiable.

    The environment variable SCDUET_KERNELS=0 does the same globally.
    """
    before = KERNELS.set(False)
    try:
        yield
    finally:
        KERNELS.reset(before)


def once_differentiable(backward: Callable[..., tuple]) -> Callable[..., tuple]:
    """Decorate the `backward` of a Function whose gradients have no graph, so that differentiating them is an error.

    torch's own decorator treats them as constants if the incoming gradients need no gradient.
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
    """Identity; differentiating it is an error."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        remedy = "put layers inside `with uncompiled():` of scduet.nn.second_order"
        raise RuntimeError(f"a compiled function cannot be differentiated twice; {remedy}")
