"""Graph-DiffVAE: a variational autoencoder of a graph of cells (Bica et al. 2020).

    x       = 50 principal components of log(1 + 10,000 * share of the cell), scaled to standard deviation 1 overall
    A       = edges from each cell to the two whose logs correlate most with its own;   S = D^-1/2 (A + I) D^-1/2
    z       ~ Normal(S H W, exp(S H V)),  H = relu(S x U)           50 dimensions, a graph convolution
    z'      = (z + S relu(S [x, z] P) Q) / 2
    A_ij    ~ Bernoulli(sigmoid(z'_i z'_j))
    loss    = n² / (2 (n² - edges)) * sum over j of -log p(A_ij) + KL(q(z) || Normal(0, I)), a mean over cells;
              edges together weigh as much as all other pairs, and each cell has an edge to itself

A share of the edges is held out, at which, and at as many pairs without an edge, the model is judged: `held_out_auc`.

Source: Sci Rep 10:9790, and its program. There raw A takes the place of S in training, a categorical cross entropy that
of the Bernoulli one, the genes that of the components, and the model is judged at the edges that it was shown.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.data.graphs import most_correlated, without_edge
from scduet.data.moments import relative
from scduet.data.sources import Cells
from scduet.errors import OptionError
from scduet.nn.graphs import Propagation
from scduet.nn.layers import kl_to_normal, rsample
from scduet.options import check_network
from scduet.shapes import CellCode, State

MOST_CELLS = 10_000  # whose pairs are all looked at
N_COMPONENTS, N_NEIGHBORS = 50, 2
TARGET = 1e4  # total that cells are scaled to


@dataclass(frozen=True)
class Config:
    n_hidden: int = 512
    """Hidden units of the encoder and of the decoder."""
    n_latent: int = 50
    """Dimensions of the latent space."""
    held_out_edges: float = 0.1
    """Share of the edges that the model does not see and is judged at."""

    def __post_init__(self) -> None:
        check_network(self)
        if not 0 <= self.held_out_edges < 1:
            raise OptionError(f"held_out_edges={self.held_out_edges!r}", "it is from 0 up to, not including, 1")


def graph_of_cells(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """Features (cell, component) and edges (2, edge), each once."""
    from sklearn.decomposition import PCA

    n = len(cells)
    if not 3 < n <= MOST_CELLS:
        raise OptionError(f"Graph-DiffVAE looks at all pairs of {n} cells", f"give 4 to {MOST_CELLS} cells")
    logs = relative(cells, np.arange(n), np.maximum(cells.total, 1) / TARGET).log1p()
    scores = PCA(min(N_COMPONENTS, n, reference.n_genes), random_state=0).fit_transform(logs.toarray())
    edges = most_correlated(logs, N_NEIGHBORS)
    return {"x": (scores / scores.std()).astype(np.float32), "edges": edges.astype(np.float32)}


def recipe(n_cells: int, max_epochs: int | None) -> dict[str, object]:
    """All cells are one minibatch, as published; ten times the published rate."""
    return {"lr": 1e-3, "batch_size": n_cells, "max_epochs": max_epochs or 200, "weight_decay": 0.0, "adam_eps": 1e-8}


class GraphDiffVAE(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    per_cell = True
    measure = staticmethod(graph_of_cells)
    recipes = {"auto": recipe}

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config = reference, config
        n_cells, n = reference.arrays["x"].shape
        edges, draw = reference.arrays["edges"].astype(np.int64), np.random.default_rng(0)
        hidden = draw.permutation(edges.shape[1]) < round(config.held_out_edges * edges.shape[1])
        self.spread = Propagation(torch.from_numpy(edges[:, ~hidden]), n_cells)
        absent = without_edge(edges, n_cells, int(hidden.sum()), draw)
        for name, values in {"x": reference.arrays["x"], "held_out": edges[:, hidden], "absent": absent}.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)), persistent=False)
        self.encoder = nn.Linear(n, config.n_hidden)
        self.mean, self.log_variance = (nn.Linear(config.n_hidden, config.n_latent) for _ in range(2))
        self.decoder = nn.Linear(n + config.n_latent, config.n_hidden)
        self.refine = nn.Linear(config.n_hidden, config.n_latent)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        n, rows = len(self.x), cells.index  # type: ignore[arg-type]
        mean, variance = self._posterior()
        z = self._refined(rsample(mean, variance))
        target = self._adjacency(rows)
        n_edges = self.spread.ends.shape[1] - n  # type: ignore[union-attr]  both ways
        weight = torch.where(target > 0, (n * n - n_edges) / n_edges, 1.0)
        error = F.binary_cross_entropy_with_logits(z[rows] @ z.T, target, weight, reduction="sum") / len(rows)
        error = error * n * n / (2 * (n * n - n_edges))
        kl = kl_to_normal(mean, variance)[rows].mean()
        terms = {"reconstruction": error, "kl": kl}
        if self.held_out.shape[1]:  # type: ignore[union-attr]
            terms["held_out_auc"] = self.held_out_auc()
        return Loss(error + step.kl_weight * kl, terms, len(cells))

    def embed(self, cells: CellBatch) -> State:
        """Mean of q(z) of each cell."""
        return self._posterior()[0][cells.index]

    @torch.no_grad()
    def held_out_auc(self) -> Float[Tensor, ""]:
        """Probability that an edge that was held out has a higher score than a pair of cells without an edge."""
        return auc(*(self.score(pairs) for pairs in (self.held_out, self.absent)))  # type: ignore[arg-type]

    def score(self, pairs: Int[Tensor, "2 pair"]) -> Float[Tensor, " pair"]:
        """Logit of an edge between the cells of each pair."""
        z = self._refined(self._posterior()[0])
        return (z[pairs[0]] * z[pairs[1]]).sum(1)

    def _posterior(self) -> tuple[Float[Tensor, "all latent"], Float[Tensor, "all latent"]]:
        hidden = self.spread(F.relu(self.encoder(self.spread(self.x))))
        return self.mean(hidden), self.log_variance(hidden).clamp(-15, 15).exp()

    def _refined(self, z: Float[Tensor, "all latent"]) -> Float[Tensor, "all latent"]:
        hidden = F.relu(self.decoder(self.spread(torch.cat([self.x, z], 1))))  # type: ignore[list-item]
        return (z + self.refine(self.spread(hidden))) / 2

    def _adjacency(self, rows: CellCode) -> Float[Tensor, "cell all"]:
        """Edges of some cells, and of each to itself."""
        to, by = self.spread.ends  # type: ignore[misc]
        place = torch.full((len(self.x),), -1, device=rows.device)  # type: ignore[arg-type]
        place[rows] = torch.arange(len(rows), device=rows.device)
        own, found = place[to] >= 0, torch.zeros(len(rows), len(self.x), device=rows.device)  # type: ignore[arg-type, index]
        found[place[to[own]], by[own]] = 1  # type: ignore[index]
        return found


def auc(positive: Float[Tensor, " edge"], negative: Float[Tensor, " pair"]) -> Float[Tensor, ""]:
    """Probability that a positive score is higher than a negative one; ties count half."""
    more = (positive[:, None] > negative).float().mean()
    return more + (positive[:, None] == negative).float().mean() / 2
