"""log p(counts) of a cell as training needs it: from the decoder's logits, sparse-aware, with analytic gradients.

Nearly all counts are zero, and log p(0) needs no `lgamma`. So each likelihood is a dense part that takes every entry
for a zero, plus a sparse part: what the stored counts add to that. The slopes are worked out in the same passes, so
autograd keeps one gradient per input in place of a dozen dense intermediates. Equal to the textbook forms of
`likelihoods` (tested), and worked out in float32 or better also under autocast.

With the mean m = library · link(logits), the dispersion r and a = m / r:
    -log NB(0)   = r log(1 + a)         its slope by log m is r a / (1 + a)
    -log ZINB(0) = log(d / π)           d = sigmoid(logit π - log NB(0)): how likely this zero is a dropout
"""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from scduet.contract import SparseRows
from scduet.nn.likelihoods import EPS
from scduet.nn.rising_factorial import RisingFactorial, log_rising_factorial

Link = Literal["softmax", "softplus"]
CHUNK = 2**18  # entries worked on at a time: 1 MB a buffer, so that the passes over it stay in a core's cache


def negative_binomial(
    x: SparseRows,
    logits: Float[Tensor, "cell gene"],
    log_library: Float[Tensor, "cell 1"],
    log_dispersion: Float[Tensor, "*#cell gene"],
    link: Link = "softmax",
) -> Float[Tensor, " cell"]:
    """log NB(x | library · link(logits), dispersion), summed over genes."""
    return _outside_autocast(_NegativeBinomial, x, link, logits, log_library, log_dispersion, None)


def zero_inflated_negative_binomial(
    x: SparseRows,
    logits: Float[Tensor, "cell gene"],
    log_library: Float[Tensor, "cell 1"],
    log_dispersion: Float[Tensor, "*#cell gene"],
    dropout_logits: Float[Tensor, "cell gene"],
    link: Link = "softmax",
) -> Float[Tensor, " cell"]:
    """log ZINB(x | library · link(logits), dispersion, sigmoid(dropout_logits)), summed over genes."""
    return _outside_autocast(_NegativeBinomial, x, link, logits, log_library, log_dispersion, dropout_logits)


def poisson(
    x: SparseRows, logits: Float[Tensor, "cell gene"], log_library: Float[Tensor, "cell 1"], link: Link = "softmax"
) -> Float[Tensor, " cell"]:
    """log Poisson(x | library · link(logits)), summed over genes."""
    return _outside_autocast(_Poisson, x, link, logits, log_library)


@dataclass(frozen=True)
class _Slopes:
    """Slopes of the cost -log p, entry by entry; that by the log-library is the one by the log-mean, summed."""

    logits: Float[Tensor, "cell gene"]
    log_library: Float[Tensor, "cell 1"]
    log_dispersion: Float[Tensor, "cell gene"]
    dropout: Float[Tensor, "cell gene"] | None

    @classmethod
    def like(cls, logits: Tensor, log_library: Tensor, dropout: Tensor | None) -> _Slopes:
        empty = torch.empty_like
        return cls(empty(logits), empty(log_library), empty(logits), None if dropout is None else empty(dropout))

    def of(self, rows: slice) -> _Slopes:
        return _Slopes(self.logits[rows], self.log_library[rows], self.log_dispersion[rows], _of(self.dropout, rows))


@dataclass(frozen=True)
class _Mean:
    """Mean of the counts as shape · scale; for the softmax, shape / norm are the expected shares of the genes."""

    shape: Float[Tensor, "cell gene"]
    scale: Float[Tensor, "cell 1"]
    norm: Float[Tensor, "cell 1"] | None

    @classmethod
    def of(cls, logits: Tensor, log_library: Tensor, link: Link) -> _Mean:
        if link == "softplus":
            return cls(F.softplus(logits), log_library.exp(), None)
        shape = (logits - logits.amax(1, keepdim=True)).exp_()
        norm = shape.sum(1, keepdim=True)
        return cls(shape, log_library.exp() / norm, norm)

    def log_at(self, x: SparseRows, logits: Tensor) -> Float[Tensor, " entry"]:
        """Logarithm of the mean at the stored counts, also where the mean underflows."""
        scale = self.scale.log().squeeze(1).take(x.row)
        if self.norm is None:
            return self.shape.take(x.position).clamp_(min=torch.finfo(scale.dtype).tiny).log_() + scale
        return (logits - logits.amax(1, keepdim=True)).take(x.position) + scale


class _NegativeBinomial(Function):
    """NB, or ZINB where dropout logits are given."""

    @staticmethod
    def forward(
        ctx: Any, x: SparseRows, link: Link, logits: Tensor, log_library: Tensor, log_r: Tensor, dropout: Tensor | None
    ) -> Tensor:
        r, shared = log_r.exp(), log_r.dim() == 1
        factorial = RisingFactorial.of(r) if shared and r.device.type == "cpu" else None
        slopes = _Slopes.like(logits, log_library, dropout)
        cost = torch.empty_like(log_library[:, 0])
        for rows, part in _chunks(x):
            some = (logits[rows], log_library[rows], r if shared else r[rows], _of(dropout, rows))
            cost[rows] = _nb_cost(part, link, *some, factorial, slopes.of(rows))
        ctx.save_for_backward(slopes.logits, slopes.log_library, slopes.log_dispersion, slopes.dropout)
        ctx.shared = shared
        return cost.neg_()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        by_logits, by_library, by_r, by_dropout = ctx.saved_tensors
        weight = -upstream[0]
        each = weight[:, None]
        by_r = by_r.T.mv(weight) if ctx.shared else by_r * each
        return None, None, by_logits * each, by_library * each, by_r, None if by_dropout is None else by_dropout * each


class _Poisson(Function):
    @staticmethod
    def forward(ctx: Any, x: SparseRows, link: Link, logits: Tensor, log_library: Tensor) -> Tensor:
        mean = _Mean.of(logits, log_library, link)
        by_mean = mean.shape * mean.scale
        log_mean = torch.where(x.values > 0, mean.log_at(x, logits), 0.0)  # a zero may be stored in an empty cell
        log_p = x.values * log_mean - torch.lgamma(x.values + 1)
        ll = (-by_mean.sum(1)).index_add_(0, x.row, log_p)
        by_mean.view(-1).scatter_add_(0, x.position, -x.values)
        by_library = by_mean.sum(1, keepdim=True)
        by_logits = _by_logits(by_mean, by_library, logits, mean, torch.empty_like(logits))
        ctx.save_for_backward(by_logits, by_library)
        return ll

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        by_logits, by_library = ctx.saved_tensors
        each = -upstream[0][:, None]
        return None, None, by_logits * each, by_library * each


def _nb_cost(
    x: SparseRows,
    link: Link,
    logits: Tensor,
    log_library: Tensor,
    r: Tensor,
    dropout: Tensor | None,
    factorial: RisingFactorial | None,
    slopes: _Slopes,
) -> Float[Tensor, " cell"]:
    """-log p of some cells, with its slopes written into `slopes`."""
    mean = _Mean.of(logits, log_library, link)
    ratio = torch.div(mean.shape, r + EPS).mul_(mean.scale)
    sparse = _nb_entries(x, ratio, r, dropout, factorial)  # before `ratio` is overwritten
    cost, by_mean = _nb_zeros(ratio, r, dropout, slopes)
    cost.index_add_(0, x.row, sparse[0])
    for dense, entries in zip((by_mean, slopes.log_dispersion, slopes.dropout), sparse[1:], strict=True):
        if dense is not None:
            dense.view(-1).scatter_add_(0, x.position, entries)
    torch.sum(by_mean, 1, keepdim=True, out=slopes.log_library)
    _by_logits(by_mean, slopes.log_library, logits, mean, slopes.logits)
    return cost


def _nb_zeros(ratio: Tensor, r: Tensor, dropout: Tensor | None, slopes: _Slopes) -> tuple[Tensor, Tensor]:
    """-log p as if every count were zero, summed over genes, and its slope by the log-mean; overwrites `ratio`."""
    total = ratio + 1
    by_r = torch.log(total, out=slopes.log_dispersion).mul_(r)  # -log NB(0)
    by_mean = ratio.div_(total).mul_(r)
    if dropout is None:
        cost = by_r.sum(1)
        by_r.addcmul_(by_mean, r / (r + EPS), value=-1)
        return cost, by_mean
    dropped = torch.add(by_r, dropout, out=total).sigmoid_()
    prior = torch.sigmoid(dropout, out=slopes.dropout)
    cost = _log_ratio(dropped, prior, by_r, dropout).sum(1)
    by_r.addcmul_(by_mean, r / (r + EPS), value=-1)
    prior.sub_(dropped)
    by_r.addcmul_(by_r, dropped, value=-1)
    by_mean.addcmul_(by_mean, dropped, value=-1)
    return cost, by_mean


def _log_ratio(dropped: Tensor, prior: Tensor, nb_cost: Tensor, dropout: Tensor) -> Tensor:
    """log(dropped / prior); where the quotient would underflow, from its logits."""
    if dropout.device.type == "cpu" and dropout.amin() > -80:  # elsewhere this question would stall the device
        return (dropped / prior).log_()
    return F.softplus(-dropout) - F.softplus(-dropout - nb_cost)


def _nb_entries(
    x: SparseRows, ratio: Tensor, r: Tensor, dropout: Tensor | None, factorial: RisingFactorial | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What the stored counts change in the cost and its slopes by log-mean, log-dispersion and dropout logits."""
    count, a, r = x.values, ratio.take(x.position), r.take(x.column if r.dim() == 1 else x.position)
    guard = EPS / (r + EPS)
    total = a + 1
    share = a / total
    log, slope = factorial.at(count, x.column) if factorial else log_rising_factorial(count, r)
    cost = -(count * ((a + guard) / total).log_() + log)
    by_mean = count * (guard - 1) * share / (a + guard)
    by_r = r * (count / (total * (r + EPS)) - slope)
    if dropout is None:
        return cost, by_mean, by_r, None
    nb_zero = r * total.log_()
    logit = nb_zero + dropout.take(x.position)
    present = (count > 0).to(count.dtype)  # a zero may be stored too
    dropped = present * logit.sigmoid()
    cost += present * F.softplus(logit)
    by_mean += dropped * r * share
    by_r += dropped * (nb_zero - r * share * (1 - guard))
    return cost, by_mean, by_r, dropped


def _by_logits(by_mean: Tensor, by_library: Tensor, logits: Tensor, mean: _Mean, out: Tensor) -> Tensor:
    """Slope by the logits, from that by the log-mean and its sum over genes."""
    if mean.norm is None:
        slope = torch.sigmoid(logits, out=out)  # of softplus
        return slope.div_(mean.shape.clamp_(min=torch.finfo(out.dtype).tiny)).mul_(by_mean)
    return torch.addcmul(by_mean, mean.shape, by_library / mean.norm, value=-1, out=out)


def _chunks(x: SparseRows) -> Iterator[tuple[slice, SparseRows]]:
    """The cells, a few at a time on a CPU, whose cache is small; all at once elsewhere."""
    n, genes = x.shape
    size = max(CHUNK // genes, 1)
    if n <= size or x.values.device.type != "cpu":
        yield slice(0, n), x
        return
    starts = range(0, n, size)
    bounds = [*torch.searchsorted(x.row, torch.tensor(starts, dtype=x.row.dtype)).tolist(), len(x.values)]
    for start, first, last in zip(starts, bounds, bounds[1:], strict=False):
        entries, stop = slice(first, last), min(start + size, n)
        part = SparseRows(x.values[entries], x.row[entries] - start, x.column[entries], (stop - start, genes))
        yield slice(start, stop), part


def _of(t: Tensor | None, rows: slice) -> Tensor | None:
    return None if t is None else t[rows]


def _outside_autocast(
    function: type[Function], x: SparseRows, link: Link, *inputs: Tensor | None
) -> Float[Tensor, " cell"]:
    """The function at full precision: autocast off, half precision widened."""
    with torch.autocast(x.values.device.type, enabled=False):
        wide = [t.float() if t is not None and t.dtype in (torch.float16, torch.bfloat16) else t for t in inputs]
        return function.apply(x, link, *wide)  # pyright: ignore[reportReturnType]
