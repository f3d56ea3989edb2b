"""Generic layers; categorical covariates are embedding tables instead of one-hot products."""

from __future__ import annotations

from scduet._torch import torch

import math
from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import SparseRows
from scduet.nn.kernels import jit
from scduet.nn.kernels.gaussians import VARIANCE_FLOOR
from scduet.nn.kernels.jit import KERNELS
from scduet.nn.kernels.sparse import SparseLinear, padded, product, write_rows
from scduet.nn.kernels.units import can_compile, normalized_units

Activation = Literal["relu", "leaky_relu"]
Codes = Sequence[Int[Tensor, " cell"]]  # one vector of level codes per categorical covariate


class CovariateLinear(nn.Module):
    """A linear layer of `x` and categorical covariates, each an embedding table (level, out).

    Equal to one `nn.Linear` over `[x, one_hot(code), ...]`, and initialized like it. A covariate of one level has no
    table: it says nothing. A table is a parameter of its own, so that new levels are new rows.

    sparse: `x` is sparse rows in training too. The weight is then stored by columns, and on a CPU a stored entry costs
    `n_out` multiplications, forward and back, whatever `n_in` is.
    """

    def __init__(self, n_in: int, n_out: int, levels: Sequence[int] = (), bias: bool = True, sparse: bool = False):
        super().__init__()
        tables = {str(i): n for i, n in enumerate(levels) if n > 1}
        bound = 1 / math.sqrt(n_in + sum(tables.values()))
        weight = torch.empty(n_out, n_in).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight.t().contiguous().t() if sparse else weight)
        self.covariate = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(n, n_out).uniform_(-bound, bound)) for name, n in tables.items()}
        )
        self.bias = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound)) if bias else None
        self._turned: tuple[tuple[int, int, int], Tensor, Tensor] | None = None  # state, weight, its transpose

    def forward(self, x: Float[Tensor, "cell in"] | SparseRows, codes: Codes = ()) -> Float[Tensor, "cell out"]:
        out = F.linear(x, self.weight, self.bias) if isinstance(x, Tensor) else self._of_rows(x)
        for name, table in self.covariate.items():
            out = out + F.embedding(codes[int(name)], table)
        return out

    def train(self, mode: bool = True) -> CovariateLinear:
        self._turned = None
        return super().train(mode)

    def _of_rows(self, x: SparseRows) -> Float[Tensor, "cell out"]:
        """On a CPU each stored entry adds a row of the turned weight, with gradients if that is how it is stored.

        Else x is written out.
        """
        looking = not (torch.is_grad_enabled() or self.training or self.weight.is_inference())
        compiled = jit.usable(self.weight, x.data) and not x.data.requires_grad
        if compiled and not looking and self.bias is not None and self.weight.t().is_contiguous():
            return SparseLinear.apply(x, self.weight, self.bias)  # pyright: ignore[reportReturnType]
        if not (compiled and looking):
            return F.linear(to_dense(x, x.data), self.weight, self.bias)
        state = (id(self.weight), self.weight._version, self.weight.data_ptr())
        if self._turned is None or self._turned[0] != state:
            self._turned = (state, self.weight, padded(self.weight.t()))  # holding the weight keeps its id unique
        return product(x, self._turned[2], self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias)


class MLP(nn.Module):
    """`n_layers` of Linear, BatchNorm, LayerNorm, ReLU (or LeakyReLU), Dropout, each norm by option.

    Covariates enter the first layer, and the others too when `inject`. A minibatch of one cell is normalized with the
    running statistics, as in evaluation, for it has no variance of its own. Compiled layers (on a CPU, in training)
    cannot be differentiated twice: put a gradient penalty inside `with uncompiled():` of `second_order`.
    sparse: the input is sparse rows, in training too; see `CovariateLinear`.
    """

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        n_layers: int,
        levels: Sequence[int] = (),
        inject: bool = True,
        dropout: float = 0.0,
        batch_norm: bool = True,
        layer_norm: bool = False,
        activation: Activation = "relu",
        sparse: bool = False,
    ):
        super().__init__()
        self.linear = nn.ModuleList(
            CovariateLinear(
                n_hidden if i else n_in, n_hidden, levels if inject or i == 0 else (), sparse=sparse and not i
            )
            for i in range(n_layers)
        )
        self.norm = nn.ModuleList(
            nn.BatchNorm1d(n_hidden, momentum=0.01, eps=0.001) for _ in range(n_layers if batch_norm else 0)
        )
        self.layer_norm = layer_norm
        self.dropout = dropout
        self.activation: Activation = activation

    def forward(self, x: Float[Tensor, "cell in"] | SparseRows, codes: Codes = ()) -> Float[Tensor, "cell hidden"]:
        return self.layers(x, codes)[-1]

    def layers(self, x: Float[Tensor, "cell in"] | SparseRows, codes: Codes = ()) -> list[Float[Tensor, "cell hidden"]]:
        """Hidden units of each layer."""
        found: list[Any] = []
        for i, linear in enumerate(self.linear):
            found.append(self.units(i, linear(found[-1] if found else x, codes)))
        return found

    def units(
        self, i: int, x: Float[Tensor, "*#level cell hidden"], shift: Float[Tensor, "level hidden"] | None = None
    ) -> Float[Tensor, "row hidden"]:
        """Hidden units of layer `i`, given the output of its linear layer.

        shift: what each level of a covariate adds to x; the rows are then all cells with the first level, and so on.
        """
        n_levels, n_cells = (1 if shift is None else len(shift)), x.shape[-2]
        norm: Any = self.norm[i] if self.norm else None
        plain = not self.layer_norm and self.activation == "relu"
        if norm is not None and plain and n_levels * n_cells > 1 and can_compile(x, norm):
            return normalized_units(x, shift, norm, self.dropout)
        if shift is not None:
            x = (x + shift[:, None]).flatten(0, 1)
        if norm is not None:
            x = normalized(x, norm)
        if self.layer_norm:
            x = F.layer_norm(x, x.shape[-1:])
        return F.dropout(F.relu(x) if self.activation == "relu" else F.leaky_relu(x), self.dropout, self.training)


class GaussianEncoder(nn.Module):
    """q(z | x): a diagonal Gaussian whose mean and variance are two heads of one MLP.

    floor: of the variance. softplus: the variance is the softplus of its head, not the exponential.
    """

    def __init__(self, body: MLP, n_hidden: int, n_latent: int, floor: float = VARIANCE_FLOOR, softplus: bool = False):
        super().__init__()
        self.body = body
        self.floor = floor
        self.softplus = softplus
        self.mean = nn.Linear(n_hidden, n_latent)
        self.log_variance = nn.Linear(n_hidden, n_latent)

    def forward(
        self, x: Float[Tensor, "cell in"] | SparseRows, codes: Codes = ()
    ) -> tuple[Float[Tensor, "cell latent"], Float[Tensor, "cell latent"]]:
        """Mean and variance."""
        hidden = self.body(x, codes)
        raw = self.log_variance(hidden)
        return self.mean(hidden), (F.softplus(raw) if self.softplus else raw.exp()) + self.floor


def to_dense(x: SparseRows, values: Float[Tensor, " entry"]) -> Float[Tensor, "row column"]:
    """`x.dense(values)` without gradients; on a CPU in one compiled pass."""
    if not KERNELS.get() or values.device.type != "cpu" or values.dtype != torch.float32:
        return x.dense(values)
    out = torch.empty(x.shape)
    write_rows(*(array.numpy() for array in (values, x.indices, x.indptr, out)))
    return out


def rows_beside(x: SparseRows, more: Float[Tensor, "row more"]) -> SparseRows:
    """The rows of `x` with the columns of `more`, all stored, after their own."""
    (n, columns), wide = x.shape, more.shape[1]
    row, place = x.row, torch.arange(len(x.data), device=x.data.device)
    count = len(x.data) + more.numel()
    values, column = x.data.new_empty(count), x.indices.new_empty(count)
    values[place + row * wide], column[place + row * wide] = x.data, x.indices
    indptr = x.indptr + wide * torch.arange(n + 1, device=x.indptr.device)
    last = torch.arange(wide, device=x.indptr.device) - wide + indptr[1:, None]
    values[last], column[last] = more, columns + torch.arange(wide, device=x.indices.device)
    return SparseRows(values, column, indptr, (n, columns + wide))


def rsample(mean: Float[Tensor, "*shape"], variance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Reparameterized sample from Normal(mean, variance)."""
    return mean + variance.sqrt() * torch.randn_like(mean)


def kl_to_normal(
    mean: Float[Tensor, "*cell latent"],
    variance: Float[Tensor, "*cell latent"],
    prior: tuple[Float[Tensor, "*#cell #latent"], Float[Tensor, "*#cell #latent"]] | None = None,
) -> Float[Tensor, "*cell"]:
    """KL divergence of Normal(mean, variance) from a normal prior, by default the standard normal."""
    if prior is None:
        return 0.5 * (variance + mean * mean - 1 - variance.log()).sum(-1)
    ratio = variance / prior[1]
    return 0.5 * (ratio + (mean - prior[0]) ** 2 / prior[1] - 1 - ratio.log()).sum(-1)


def normalized(x: Float[Tensor, "cell hidden"], norm: Any) -> Float[Tensor, "cell hidden"]:
    """Batch norm that takes a minibatch of one cell in training, with the running statistics."""
    if len(x) > 1 or not norm.training:
        return norm(x)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
