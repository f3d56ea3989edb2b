"""scGPT's heads that predict values from the state of a gene in a cell, or from a cell and a gene embedding."""

from __future__ import annotations

import scduet._torch  # noqa: F401

from jaxtyping import Float
from torch import Tensor, nn

from scduet.transformers.encoder.trunk import Packing


def value_head(width: int, n_in: int | None = None) -> nn.Sequential:
    """Linear, LeakyReLU, Linear, LeakyReLU, Linear: a number from the state of a gene."""
    inner = [nn.Linear(n_in or width, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU()]
    return nn.Sequential(*inner, nn.Linear(width, 1))


class CellValueHead(nn.Module):
    """value(gene, cell) = (W sigmoid(Q gene + b)) . cell: predictions from the cell embedding, which it trains.

    With `zeros`, a second W predicts the logit of being nonzero.
    """

    def __init__(self, width: int, n_in: int | None = None, zeros: bool = False):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.mix = nn.Linear(width, n_in or width, bias=False)
        nn.init.zeros_(self.mix.weight)  # a long sum, which would start far off
        self.zero = nn.Linear(width, n_in or width, bias=False) if zeros else None

    def forward(
        self, gene: Float[Tensor, "token width"], cell: Float[Tensor, "cell in"], packing: Packing
    ) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"] | None]:
        """The value of each token, and the logit of being nonzero."""
        query, whose = self.query(gene).sigmoid(), cell[packing.cell]
        value = (self.mix(query) * whose).sum(-1)
        return value, None if self.zero is None else (self.zero(query) * whose).sum(-1)


class AffineValueHead(nn.Module):
    """value(gene) = coefficient(state) * x + offset(state): scGPT's head for perturbed cells, x the value shown.

    The coefficient starts near 1, so that training starts from "no change".
    """

    def __init__(self, width: int):
        super().__init__()
        self.coefficient, self.offset = value_head(width), value_head(width)
        nn.init.ones_(self.coefficient[-1].bias)  # pyright: ignore[reportArgumentType]

    def forward(self, state: Float[Tensor, "token width"], x: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
        return self.coefficient(state)[:, 0] * x + self.offset(state)[:, 0]
