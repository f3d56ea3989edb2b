"""Clusters of states that sharpen themselves: deep embedded clustering (DEC, Xie et al. 2016).

    q_k ∝ 1 / (1 + |z - c_k|²)      membership of the state z in the cluster around c_k
    p_k ∝ q_k² / f_k                the target of q; f_k: share of the cluster in all cells, a running mean

At first each center follows the mean state of a cluster of k-means on linear axes of what the cells show.
Source: ICML 2016, arXiv 1511.06335.
"""

from __future__ import annotations

from scduet._torch import torch

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.shapes import State

RATE = 0.1  # of running means


class EmbeddedClusters(nn.Module):
    def __init__(self, n_clusters: int, n_latent: int, n_values: int, n_axes: int):
        super().__init__()
        self.register_buffer("axes", torch.zeros(n_values, n_axes))
        self.register_buffer("seeds", torch.zeros(n_clusters, n_axes))  # centers of k-means
        self.shift = nn.Parameter(torch.zeros(n_clusters, n_latent))  # of the centers, from where they start
        self.register_buffer("start", torch.zeros(n_clusters, n_latent))
        self.register_buffer("frequency", torch.full((n_clusters,), 1 / n_clusters))

    def forward(self, z: State) -> Float[Tensor, "cell cluster"]:
        """The membership q."""
        alike = 1 / (1 + torch.cdist(z, self.start + self.shift).square())  # type: ignore[operator]
        return alike / alike.sum(1, keepdim=True)

    def error(self, q: Float[Tensor, "cell cluster"]) -> Float[Tensor, ""]:
        """KL(p || q), a mean over cells; in training the shares are brought up to date first."""
        with torch.no_grad():
            if self.training:
                self.frequency.lerp_(q.mean(0), RATE)  # type: ignore[operator]
            p = q.square() / self.frequency  # type: ignore[operator]
            p = p / p.sum(1, keepdim=True)
        return (p * (p / q).log()).sum(1).mean()

    def place(self, axes: Float[np.ndarray, "value axis"], seeds: Float[np.ndarray, "cluster axis"]) -> None:
        """Take the axes, and the centers of k-means on them."""
        for buffer, values in ((self.axes, axes), (self.seeds, seeds)):
            buffer.copy_(torch.from_numpy(values))  # type: ignore[operator]

    @torch.no_grad()
    def follow(self, z: State, x: Float[Tensor, "cell value"], first: bool) -> None:
        """Move the start of each center towards the mean state of its cells in k-means; `first`: there at once."""
        nearest = torch.cdist(x @ self.axes, self.seeds).argmin(1)  # type: ignore[operator, arg-type]
        member = F.one_hot(nearest, len(self.shift)).to(z.dtype)
        there = member.sum(0) > 0
        means = (member.T @ z)[there] / member.sum(0)[there, None]
        self.start[there] = self.start[there].lerp(means, 1.0 if first else RATE)  # type: ignore[index, operator]
