"""Several modalities of a cell as one posterior: an expert for each, their mixture, and what draws them together."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from scduet.contract import CellBatch
from scduet.errors import DataError
from scduet.nn.layers import kl_to_normal
from scduet.shapes import State

Posterior = tuple[State, State]  # mean and variance


@dataclass(frozen=True)
class Part:
    """The cells of a minibatch in which a modality was measured, with its matrix in place of the main one."""

    cells: CellBatch
    known: Bool[Tensor, " cell"]  # of the minibatch: was it measured?
    rows: Int[Tensor, " part"] | None  # of the minibatch; None for all

    @classmethod
    def of(cls, cells: CellBatch, matrix: Any) -> Part:
        """Measured is a cell with any count. If there is none, the first one stands in: each weight has a gradient."""
        known = (matrix.sum(1) if isinstance(matrix, Tensor) else matrix.sum()) > 0
        if bool(known.all()):
            return cls(replace(cells, x=matrix), known, None)
        rows = known.nonzero()[:, 0]
        rows = known.new_zeros(1, dtype=torch.long) if len(rows) == 0 else rows
        x = matrix[rows] if isinstance(matrix, Tensor) else matrix.take(rows)
        label = None if cells.label is None else cells.label[rows]
        taken = CellBatch(x, cells.index[rows], cells.batch[rows], label, cells.covariates.take(rows))
        return cls(taken, known, rows)

    def take(self, values: Float[Tensor, "cell column"]) -> Float[Tensor, "part column"]:
        return values if self.rows is None else values[self.rows]

    def spread(self, values: Float[Tensor, " part *column"]) -> Float[Tensor, " cell *column"]:
        """The values of these cells among all of the minibatch; 0 for the others."""
        if self.rows is None:
            return values
        known = self.known.view(-1, *(1,) * (values.ndim - 1))
        return values.new_zeros(len(self.known), *values.shape[1:]).index_copy(0, self.rows, values) * known


class Mixture(nn.Module):
    """The Normal with the mean and variance of the mixture of the experts that a cell has; the prior if it has none.

    n_cells: weights for each of so many cells; None for the same in all. learned: or all alike. as_in_scvi_tools: with
    its variance, sum(sqrt(share) variance), which is no mixture's: of two equal experts it is 1.4 times theirs.
    """

    def __init__(self, n_experts: int, n_cells: int | None, learned: bool, as_in_scvi_tools: bool):
        super().__init__()
        self.as_in_scvi_tools = as_in_scvi_tools
        log_weight = torch.ones(*(() if n_cells is None else (n_cells,)), n_experts)
        if learned:
            self.log_weight = nn.Parameter(log_weight)
        else:
            self.register_buffer("log_weight", log_weight)

    def forward(self, experts: Mapping[str, Posterior], parts: Mapping[str, Part], cells: CellBatch) -> Posterior:
        share = self._shares(torch.stack([parts[name].known for name in experts], 1), cells).unbind(1)
        means, variances = zip(*experts.values(), strict=True)
        mean = sum(s[:, None] * m for s, m in zip(share, means, strict=True))
        if self.as_in_scvi_tools:
            variance = sum(_root(s)[:, None] * v for s, v in zip(share, variances, strict=True))
        else:
            each = zip(share, means, variances, strict=True)
            variance = sum(s[:, None] * (v + (m - mean).square()) for s, m, v in each)
        return mean, variance + (sum(share) == 0)[:, None]  # pyright: ignore[reportReturnType, reportIndexIssue]

    def _shares(self, known: Bool[Tensor, "cell expert"], cells: CellBatch) -> Float[Tensor, "cell expert"]:
        """They sum to 1 over the experts that a cell has."""
        log_weight = self.log_weight
        if log_weight.ndim == 2:
            if int(cells.index.max()) >= len(log_weight):
                message = f"the model has weights of the {len(log_weight)} cells that it was trained on, and no others"
                raise DataError(message, "pass these cells, in their order")
            log_weight = log_weight[cells.index]
        share = log_weight[..., : known.shape[1]].exp() * known
        total = share.sum(1, keepdim=True)
        return share / total.where(total > 0, 1.0)


def pair_penalty(
    kind: str, experts: Mapping[str, Posterior], parts: Mapping[str, Part], as_theirs: bool
) -> Float[Tensor, " cell"]:
    """How far the experts of a cell are from each other, summed over pairs of modalities that it has.

    "Jeffreys": KL divergence, both ways. "MMD": Euclidean distance of the means. as_theirs: as in scvi-tools, which for
    the first takes the root of a standard deviation as the standard deviation, and gives each cell the sum of the
    distances of all cells of the minibatch.
    """
    pairs = []
    for (a, first), (b, second) in combinations(experts.items(), 2):
        both = parts[a].known & parts[b].known
        if kind == "MMD":
            found = torch.linalg.norm(first[0] - second[0], dim=1).where(both, 0.0)
            pairs.append(found.sum().expand(len(both)) if as_theirs else found)
            continue
        if as_theirs:
            first, second = (first[0], first[1].sqrt()), (second[0], second[1].sqrt())
        pairs.append((kl_to_normal(*first, second) + kl_to_normal(*second, first)).where(both, 0.0))
    return torch.stack(pairs).sum(0)


def _root(share: Float[Tensor, " cell"]) -> Float[Tensor, " cell"]:
    """Square root, with a gradient of 0 at 0."""
    return share.where(share > 0, 1.0).sqrt() * (share > 0)
