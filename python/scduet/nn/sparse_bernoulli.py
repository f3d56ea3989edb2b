"""log p of which peaks of a cell are open, sparse-aware: p is the product of three sigmoids (Ashuach et al. 2022).

Nearly all peaks are closed. So the likelihood is that of a cell whose peaks are all closed, plus what the open ones add
to it. In logarithms nothing is lost where p is close to 0 or 1. On a CPU the work is done by `kernels.accessibility`.
"""

from __future__ import annotations

from scduet._torch import torch

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from scduet.contract import SparseRows
from scduet.nn.heads import Logits, parts_of
from scduet.nn.kernels import accessibility as kernels
from scduet.nn.kernels import jit
from scduet.nn.second_order import once_differentiable


def bernoulli(
    x: SparseRows,
    logits: Logits,
    depth_logit: Float[Tensor, "cell 1"] | None = None,
    factor_logit: Float[Tensor, " peak"] | None = None,
) -> Float[Tensor, " cell"]:
    """log p of the open peaks, those with any count, and of the closed ones, summed over peaks.

    A peak is open with the probability sigmoid(logits) · sigmoid(depth_logit) · sigmoid(factor_logit); None for 1.
    """
    with torch.autocast(x.data.device.type, enabled=False):
        given = (*parts_of(logits), depth_logit, factor_logit)
        hidden, weight, bias, depth, factor = (_widened(part) for part in given)
        if jit.usable(x.data, *(part for part in (hidden, weight, bias, depth, factor) if part is not None)):
            return _Bernoulli.apply(x, depth, factor, hidden, weight, bias)  # pyright: ignore[reportReturnType]
        whole = hidden if weight is None else F.linear(hidden, weight, bias)  # type: ignore[arg-type]
        return _plain(x, whole, depth, factor)  # type: ignore[arg-type]


def _plain(x: SparseRows, logits: Tensor, depth_logit: Tensor | None, factor_logit: Tensor | None) -> Tensor:
    """With u = 1 - d and v = 1 - f: 1 - p = (u + d v + e^-a) / (1 + e^-a)."""
    zero = logits.new_zeros(())
    log_d, log_u = (zero, zero - torch.inf) if depth_logit is None else _both_logs(depth_logit)
    log_f, log_v = (zero, zero - torch.inf) if factor_logit is None else _both_logs(factor_logit)
    log_missed = torch.logaddexp(log_u, log_d + log_v)
    rest = torch.logaddexp(log_missed, -logits) if factor_logit is not None or depth_logit is not None else -logits
    closed = (rest - F.softplus(-logits)).sum(1)
    log_odds = (log_d + log_f - rest).expand_as(logits).reshape(-1).index_select(0, x.flat_index)
    opened = torch.where(x.data != 0, log_odds, 0.0)
    return closed.index_add(0, x.row, opened)


def _widened(part: Tensor | None) -> Tensor | None:
    return part.float() if part is not None and part.dtype in (torch.float16, torch.bfloat16) else part


def _both_logs(logit: Tensor) -> tuple[Tensor, Tensor]:
    """log sigmoid, and log of one minus it."""
    return F.logsigmoid(logit), F.logsigmoid(-logit)


class _Bernoulli(Function):
    @staticmethod
    def forward(ctx: Any, x: SparseRows, depth_logit: Any, factor_logit: Any, *parts: Any) -> Tensor:
        hidden, weight, bias = parts
        logits = hidden.contiguous() if weight is None else hidden @ weight.t()
        cells = _sides(depth_logit, len(x), torch.ones(len(x)))
        peaks = _sides(factor_logit, x.shape[1], torch.zeros(x.shape[1]) if bias is None else bias)
        ctx.x, ctx.given = x, (depth_logit is not None, factor_logit is not None)
        ctx.save_for_backward(logits, cells, peaks, *parts)
        return kernels.bernoulli(x, logits, cells, peaks).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, cells, peaks, hidden, weight, _ = ctx.saved_tensors
        cells = torch.cat([cells[:3], -upstream[0][None]])
        grads, of_cells, of_factors, of_bias = kernels.bernoulli_backward(ctx.x, logits, cells, peaks)
        depth = (of_cells * cells[1])[:, None] if ctx.given[0] else None
        factor = of_factors * peaks[1] if ctx.given[1] else None
        if weight is None:
            return None, depth, factor, grads, None, None
        return None, depth, factor, grads @ weight, grads.t() @ hidden, of_bias


def _sides(logit: Tensor | None, n: int, last: Tensor) -> Float[Tensor, "4 n"]:
    """sigmoid, one minus it, log of it; and a fourth row."""
    if logit is None:
        return torch.stack([torch.ones(n), torch.zeros(n), torch.zeros(n), last])
    logit = logit.reshape(-1)
    return torch.stack([logit.sigmoid(), (-logit).sigmoid(), F.logsigmoid(logit), last])
