"""Convolutions over a fixed graph of cells."""

from __future__ import annotations

from scduet._torch import torch

from jaxtyping import Float, Int
from torch import Tensor, nn


class Propagation(nn.Module):
    """Multiplies the values of all nodes by D^-1/2 (A + I) D^-1/2, A the symmetric edges and D the degrees of A + I.

    edges: both ends of each edge, once, without loops. Not a parameter, and not saved.
    """

    def __init__(self, edges: Int[Tensor, "2 edge"], n_nodes: int):
        super().__init__()
        loops = torch.arange(n_nodes).expand(2, -1)
        both = torch.cat([edges, edges.flip(0), loops], 1)
        root = torch.bincount(both[0], minlength=n_nodes).to(torch.float32).rsqrt()
        self.register_buffer("ends", both, persistent=False)
        self.register_buffer("weight", root[both[0]] * root[both[1]], persistent=False)

    def forward(self, values: Float[Tensor, "node column"]) -> Float[Tensor, "node column"]:
        to, by = self.ends  # type: ignore[misc]
        return torch.zeros_like(values).index_add(0, to, self.weight[:, None] * values[by])  # type: ignore[index]
