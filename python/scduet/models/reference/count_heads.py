"""Negative binomial counts from hidden units, with the constants of DCA: means through exp, dispersion by softplus."""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import SparseRows
from scduet.nn import sparse_likelihoods
from scduet.nn.distributions import NegativeBinomial
from scduet.nn.heads import head
from scduet.shapes import CellValue

DISPERSION = (1e-4, 1e4)  # between which it is held


class CountHeads(nn.Module):
    """x ~ NB(library / median * exp(Linear(h)), softplus(Linear(h))), h one layer of ReLU units of a state."""

    def __init__(self, n_state: int, n_hidden: int, n_genes: int, median: float):
        super().__init__()
        self.median = median
        self.units = nn.Sequential(nn.Linear(n_state, n_hidden), nn.ReLU())
        self.mean, self.dispersion = nn.Linear(n_hidden, n_genes), nn.Linear(n_hidden, n_genes)

    def log_likelihood(
        self, state: Float[Tensor, "cell state"], x: SparseRows, log_library: CellValue
    ) -> Float[Tensor, " cell"]:
        """log p(x | state), summed over genes."""
        hidden = self.units(state)
        log_size = log_library - math.log(self.median)
        return sparse_likelihoods.negative_binomial(
            x, head(self.mean, hidden), log_size, self._dispersion(hidden).log(), "exp"
        )

    def forward(self, state: Float[Tensor, "cell state"], log_library: CellValue) -> NegativeBinomial:
        """The distribution of the counts of cells with these libraries."""
        hidden = self.units(state)
        scale = sparse_likelihoods.within_limits(self.mean(hidden)) / self.median
        return NegativeBinomial(scale, log_library.exp() * scale, self._dispersion(hidden))

    def _dispersion(self, hidden: Float[Tensor, "cell hidden"]) -> Float[Tensor, "cell gene"]:
        return F.softplus(self.dispersion(hidden)).clamp(*DISPERSION)
