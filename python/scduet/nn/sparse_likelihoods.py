"""log p(counts) of each cell for training: from the decoder's logits, sparse, with analytic gradients.

Nearly all counts are zero, and log p(0) needs no `lgamma`. Each likelihood is therefore a dense part that treats every
entry as zero plus a sparse correction for the stored counts. Gradients are computed in the same passes, so autograd
keeps one gradient per input instead of a dozen dense intermediates. Equal to the textbook forms in `likelihoods`
(tested), and computed in float32 or better even under autocast.

On a CPU most NB and ZINB go through `kernels.likelihoods`, Poisson through `kernels.accessibility`: one compiled pass.
With the mean m = library · link(logits), the dispersion r and a = m / r:
    -log NB(0)   = r log(1 + a)         its gradient w.r.t. log m is r a / (1 + a)
    -log ZINB(0) = log(d / π)           d = sigmoid(logit π - log NB(0)): probability that this zero is a dropout
"""

from __future__ import annotations

from scduet._torch import torch

from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from scduet.contract import SparseRows
from scduet.nn.heads import Logits, Matrix, head_backward, parts_of
from scduet.nn.kernels import accessibility, jit
from scduet.nn.kernels import likelihoods as kernels
from scduet.nn.likelihoods import EPS
from scduet.nn.memory import keep_freed_blocks
from scduet.nn.second_order import once_differentiable

keep_freed_blocks()
Link = Literal["softmax", "softplus", "exp"]  # the last within LIMITS, as in DCA
LIMITS = (1e-5, 1e6)


def negative_binomial(
    x: SparseRows,
    logits: Logits,
    log_library: Float[Tensor, "cell 1"],
    log_dispersion: Float[Tensor, "*#cell gene"],
    link: Link = "softmax",
) -> Float[Tensor, " cell"]:
    """log NB(x | library · link(logits), dispersion), summed over genes."""
    return _outside_autocast(
        _NegativeBinomial, x, link, log_library, log_dispersion, *parts_of(logits), None, None, None
    )


def zero_inflated_negative_binomial(
    x: SparseRows,
    logits: Logits,
    log_library: Float[Tensor, "cell 1"],
    log_dispersion: Float[Tensor, "*#cell gene"],
    dropout_logits: Logits,
    link: Link = "softmax",
) -> Float[Tensor, " cell"]:
    """log ZINB(x | library · link(logits), dispersion, sigmoid(dropout_logits)), summed over genes."""
    inputs = (log_library, log_dispersion, *parts_of(logits), *parts_of(dropout_logits))
    return _outside_autocast(_NegativeBinomial, x, link, *inputs)


def poisson(
    x: SparseRows, logits: Logits, log_library: Float[Tensor, "cell 1"], link: Link = "softmax"
) -> Float[Tensor, " cell"]:
    """log Poisson(x | library · link(logits)), summed over genes."""
    return _outside_autocast(_Poisson, x, link, log_library, *parts_of(logits))


class _NegativeBinomial(Function):
    """NB, or ZINB if dropout logits are given. Computes the cost -log p, which saves negations."""

    @staticmethod
    def forward(ctx: Any, x: SparseRows, link: Link, log_library: Tensor, log_r: Tensor, *parts: Any) -> Tensor:
        r = log_r.exp()
        compiled = jit.usable(r) and link != "softplus"
        logits = Matrix.of(*parts[:3], add_bias=not compiled)
        dropout = None if parts[3] is None else Matrix.of(*parts[3:], add_bias=not compiled)
        grad_library, grad_r = torch.empty_like(log_library), torch.empty_like(logits.value)
        grads = _Grads(logits.grads, grad_library, grad_r, dropout and dropout.grads)
        if compiled:
            limits = LIMITS if link == "exp" else None
            cost = kernels.negative_binomial(x, logits, log_library, r, dropout, grad_library, grad_r, limits)
        else:
            cost = _nb_cost(x, link, logits.value, log_library, r, dropout and dropout.value, grads)
        ctx.save_for_backward(*parts, *grads)
        ctx.shared = log_r.dim() == 1
        return cost.neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        *parts, grad_logits, grad_library, grad_r, grad_dropout = ctx.saved_tensors
        weight = -upstream[0]
        each = weight[:, None]
        grad_r = grad_r.t().mv(weight) if ctx.shared else grad_r * each
        heads = (*head_backward(grad_logits, each, *parts[:3]), *head_backward(grad_dropout, each, *parts[3:]))
        return None, None, grad_library * each, grad_r, *heads


class _Poisson(Function):
    @staticmethod
    def forward(ctx: Any, x: SparseRows, link: Link, log_library: Tensor, *parts: Any) -> Tensor:
        if jit.usable(log_library) and link == "softmax":
            logits, grad_library = Matrix.of(*parts, add_bias=False), torch.empty_like(log_library)
            cost = accessibility.poisson(x, logits, log_library, grad_library)
            ctx.save_for_backward(*parts, logits.grads, grad_library)
            return cost.neg_()
        logits = Matrix.of(*parts)
        mean = _Mean.of(logits.value, log_library, link)
        grad_mean = mean.shape * mean.scale
        log_mean = torch.where(x.data > 0, mean.log_at(x, logits.value), 0.0)  # a zero may be stored in an empty cell
        ll = _row_sums(x, x.data * log_mean - torch.lgamma(x.data + 1)).sub_(grad_mean.sum(1))
        grad_mean.view(-1).scatter_add_(0, x.flat_index, -x.data)
        grad_library = grad_mean.sum(1, keepdim=True)
        grad_logits = _logits_backward(grad_mean, grad_library, logits.value, mean, torch.empty_like(grad_mean), link)
        ctx.save_for_backward(*parts, grad_logits, grad_library)
        return ll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        *parts, grad_logits, grad_library = ctx.saved_tensors
        each = -upstream[0][:, None]
        return None, None, grad_library * each, *head_backward(grad_logits, each, *parts)


def _nb_cost(
    x: SparseRows,
    link: Link,
    logits: Tensor,
    log_library: Tensor,
    r: Tensor,
    dropout: Tensor | None,
    grads: _Grads,
) -> Float[Tensor, " cell"]:
    """-log p of some cells; writes its gradients to `grads`, which may share memory with the logits."""
    mean = _Mean.of(logits, log_library, link, grads.logits)
    ratio = (mean.shape * (1 / (r + EPS))).mul_(mean.scale)
    at = ratio.view(-1).index_select(0, x.flat_index)  # before `ratio` is overwritten
    cost, grad_mean, inflated = _nb_zeros(x, ratio, r, dropout, grads)
    entries, grad_mean_entries, grad_r_entries = _nb_entries(x, at, r)
    cost.sub_(_row_sums(x, entries if inflated is None else entries - inflated))
    grad_mean.view(-1).scatter_add_(0, x.flat_index, grad_mean_entries)
    grads.log_dispersion.view(-1).scatter_add_(0, x.flat_index, grad_r_entries)
    torch.sum(grad_mean, 1, keepdim=True, out=grads.log_library)
    _logits_backward(grad_mean, grads.log_library, logits, mean, grads.logits, link)
    return cost


def _nb_zeros(
    x: SparseRows, ratio: Tensor, r: Tensor, dropout: Tensor | None, grads: _Grads
) -> tuple[Tensor, Tensor, Tensor | None]:
    """-log p as if every count were zero, summed over genes, and its gradient w.r.t. the log-mean; overwrites `ratio`.

    With dropout, also returns the cost that positive counts add because they are not dropouts.
    """
    total = ratio + 1
    grad_r = torch.log(total, out=grads.log_dispersion).mul_(r)  # -log NB(0)
    grad_mean = ratio.div_(total).mul_(r)
    if dropout is None or grads.dropout is None:
        cost = grad_r.sum(1)
        grad_r.sub_(grad_mean)
        return cost, grad_mean, None
    logit = torch.add(grad_r, dropout, out=total)
    at, zero = logit.view(-1).index_select(0, x.flat_index), x.data == 0  # a zero may be stored too
    cost, dropped = _zero_cost(logit, grad_r, dropout, grads.dropout)
    dropped.put_(x.flat_index, at.sigmoid() * zero)
    grads.dropout.sub_(dropped)
    kept = torch.sub(dropped.new_ones(()), dropped, out=dropped)
    grad_r.sub_(grad_mean).mul_(kept)
    grad_mean.mul_(kept)
    return cost, grad_mean, F.softplus(at).masked_fill_(zero, 0)


def _zero_cost(logit: Tensor, nb_cost: Tensor, dropout: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """-log ZINB(0) summed over genes, and P(dropout) (in `logit`); writes sigmoid(dropout) to `prior`.

    Computed as log(dropped / prior), or from the logits where that may underflow.
    """
    robust = dropout.device.type != "cpu" or dropout.amin() < -80  # elsewhere this check would stall the device
    cost = (F.softplus(-dropout) - F.softplus(-logit)).sum(1) if robust else None
    dropped, prior = logit.sigmoid_(), torch.sigmoid(dropout, out=prior)
    return (dropped / prior).log_().sum(1) if cost is None else cost, dropped


def _nb_entries(x: SparseRows, a: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Contribution of the stored counts to log NB, and to the gradients w.r.t. log-mean and log-dispersion."""
    count = x.data
    r = r.index_select(0, x.indices) if r.dim() == 1 else r.view(-1).index_select(0, x.flat_index)
    guarded, total = r + EPS, a + 1
    upper = a + EPS / guarded
    log, grad = _log_rising_factorial(count, r)
    log_p = log.addcmul_(count, (upper / total).log_())
    per_total = count / total
    grad_mean = per_total * a * (EPS / guarded - 1) / upper
    return log_p, grad_mean, (per_total / guarded - grad).mul_(r)


def _log_rising_factorial(
    count: Float[Tensor, " entry"], r: Float[Tensor, " entry"]
) -> tuple[Float[Tensor, " entry"], Float[Tensor, " entry"]]:
    """log Γ(count + r) / (Γ(r) count!) and its derivative w.r.t. r."""
    kind = count.dtype
    if count.device.type != "mps":  # which has no float64; the differences of large numbers need it
        count, r = count.double(), r.double()
    total = count + r
    log = torch.lgamma(total) - torch.lgamma(r) - torch.lgamma(count + 1)
    return log.to(kind), (torch.digamma(total) - torch.digamma(r)).to(kind)


class _Grads(NamedTuple):
    """Elementwise gradients of the cost -log p; for the log-library, the sum of those w.r.t. the log-mean."""

    logits: Float[Tensor, "cell gene"]
    log_library: Float[Tensor, "cell 1"]
    log_dispersion: Float[Tensor, "cell gene"]
    dropout: Float[Tensor, "cell gene"] | None


class _Mean(NamedTuple):
    """Mean of the counts as shape · scale; for the softmax, shape / norm is the normalized expression."""

    shape: Float[Tensor, "cell gene"]
    scale: Float[Tensor, "cell 1"]
    norm: Float[Tensor, "cell 1"] | None

    @classmethod
    def of(cls, logits: Tensor, log_library: Tensor, link: Link, out: Tensor | None = None) -> _Mean:
        """`out`: memory for the shape of the softmax."""
        if link != "softmax":
            return cls(F.softplus(logits) if link == "softplus" else within_limits(logits), log_library.exp(), None)
        shape = torch.sub(logits, logits.amax(1, keepdim=True), out=out).exp_()
        norm = shape.sum(1, keepdim=True)
        return cls(shape, log_library.exp() / norm, norm)

    def log_at(self, x: SparseRows, logits: Tensor) -> Float[Tensor, " entry"]:
        """Log-mean at the stored counts, robust to underflow of the mean."""
        scale = self.scale.log().squeeze(1).take(x.row)
        if self.norm is None:
            return self.shape.take(x.flat_index).clamp_(min=torch.finfo(scale.dtype).tiny).log_() + scale
        return (logits - logits.amax(1, keepdim=True)).take(x.flat_index) + scale


def within_limits(logits: Tensor) -> Tensor:
    """The link "exp": the exponential, held within LIMITS."""
    return logits.exp().clamp_(*LIMITS)


def _logits_backward(
    grad_mean: Tensor, grad_library: Tensor, logits: Tensor, mean: _Mean, out: Tensor, link: Link
) -> Tensor:
    """Slope by the logits, from that by the log-mean and its sum over genes; overwrites the mean."""
    if link == "exp":
        return torch.mul(grad_mean, (mean.shape > LIMITS[0]) & (mean.shape < LIMITS[1]), out=out)
    if mean.norm is None:
        grad = torch.sigmoid(logits, out=out)  # of softplus
        return grad.div_(mean.shape.clamp_(min=torch.finfo(out.dtype).tiny)).mul_(grad_mean)
    return torch.sub(grad_mean, mean.shape.mul_(grad_library / mean.norm), out=out)


def _row_sums(x: SparseRows, values: Float[Tensor, " entry"]) -> Float[Tensor, " cell"]:
    if values.device.type != "cpu":
        return values.new_zeros(len(x)).index_add_(0, x.row, values)
    return torch.segment_reduce(values, "sum", offsets=x.indptr, initial=0)  # three times as fast there


def _outside_autocast(
    function: type[Function], x: SparseRows, link: Link, *inputs: Tensor | None
) -> Float[Tensor, " cell"]:
    """Run the function in full precision: autocast off, half precision cast up."""
    with torch.autocast(x.data.device.type, enabled=False):
        wide = [t.float() if t is not None and t.dtype in (torch.float16, torch.bfloat16) else t for t in inputs]
        return function.apply(x, link, *wide)  # pyright: ignore[reportReturnType]
