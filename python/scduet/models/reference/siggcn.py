"""sigGCN: a classifier of cells with a convolution on a graph of genes (Wang, Bai and Nabavi 2021).

    x      = log(1 + counts) / largest value            of the most variable genes
    a      = 32 units of max-pooled ReLU of sum_k w_k T_k(L) x      T_k: Chebyshev polynomials, k < 5, of the graph's L
    b      = 32 units of an MLP of x
    p(y|x) = softmax(linear of [a, b])

Training minimizes the cross entropy of labeled cells + mean square of x - decoder(a), over all cells. L: the Laplacian
of the graph with self-loops, scaled to [-1, 1]. Genes are pooled by eights in order of variance, as published.

Source: BMC Bioinformatics 22:364. There genes are chosen and scaled on all cells, those of the test included; here on
labeled cells only. There SGD, and an L2 penalty in the loss; here Adam and its weight decay.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Input, Loss, Reference, Step
from scduet.data import schema
from scduet.data.locate import Place
from scduet.data.sources import Cells
from scduet.errors import OptionError
from scduet.nn.layers import to_dense

ORDER, FILTERS, POOL, N_HIDDEN = 5, 5, 8, 32  # of the convolution, and the units of either branch
N_NEIGHBORS = 10  # of each gene, by co-expression
MOST_CELLS = 20_000  # that genes are chosen on


@dataclass(frozen=True)
class Fields(schema.Fields):
    graph_key: Place | None = None
    """Graph of genes (gene x gene weights, 0 for no edge): a key of varp, a .csv or .tsv, or a DataFrame; None for
    co-expression."""


@dataclass(frozen=True)
class Config:
    n_input_genes: int = 1000
    """Genes with the highest variance, which are used."""
    permute_graph: bool = False
    """Deal the graph out anew among the genes: a control that should do worse if the graph tells anything."""

    def __post_init__(self) -> None:
        if self.n_input_genes < POOL:
            raise OptionError(f"n_input_genes={self.n_input_genes!r}", f"it is at least {POOL}")


def genes_and_graph(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """Of labeled cells: the variance and the largest value of log(1 + counts), and correlations where no graph is."""
    if cells.label is None or not (cells.label >= 0).any():
        raise OptionError("sigGCN learns from labels, and no cell has one", "pass labels_key=")
    labeled = np.flatnonzero(cells.label >= 0)
    rows = labeled[np.unique(np.linspace(0, len(labeled) - 1, min(MOST_CELLS, len(labeled))).astype(int))]
    x = cells.counts.rows(rows).log1p().astype(np.float64)
    mean = np.asarray(x.mean(0)).ravel()
    variance = np.asarray(x.multiply(x).mean(0)).ravel() - mean**2
    found = {"variance": variance.astype(np.float32), "largest": np.array([max(x.max(), 1e-6)], np.float32)}
    if "graph" not in reference.arrays:
        product = np.asarray((x.T @ x).todense()) / x.shape[0] - np.outer(mean, mean)
        scale = np.sqrt(np.maximum(variance, 1e-12))
        found["correlation"] = np.abs(product / np.outer(scale, scale)).astype(np.float32)
    return found


class SigGCN(nn.Module):
    Config, Fields = Config, Fields
    players = ("model",)
    expects: Expects = "counts"
    inputs = {"graph": Input("graph_key", axis="feature-feature", values="any", required=False)}
    measure = staticmethod(genes_and_graph)
    recipes = {"auto": {"lr": 1e-3, "batch_size": 64, "max_epochs": 30, "weight_decay": 1e-4, "adam_eps": 1e-8}}

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config, arrays = reference, config, reference.arrays
        genes = np.argsort(-arrays["variance"], kind="stable")[: config.n_input_genes]
        known = arrays["graph"] if "graph" in arrays else nearest(arrays["correlation"][np.ix_(genes, genes)])
        edges = known[np.ix_(genes, genes)] if "graph" in arrays else known
        if config.permute_graph:
            order = np.random.default_rng(0).permutation(len(genes))
            edges = edges[np.ix_(order, order)]
        self.register_buffer("genes", torch.from_numpy(genes))
        self.register_buffer("laplacian", torch.from_numpy(scaled_laplacian(edges)))
        self.filters = nn.Linear(ORDER, FILTERS)
        self.pooled = nn.Linear(FILTERS * max(len(genes) // POOL, 1), N_HIDDEN)
        self.decoder = nn.Linear(N_HIDDEN, len(genes))
        self.dense = nn.Sequential(nn.Linear(len(genes), 256), nn.ReLU(), nn.Linear(256, N_HIDDEN), nn.ReLU())
        self.types = nn.Linear(2 * N_HIDDEN, reference.n_labels)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        x = self._values(cells)
        a = self._convolved(x)
        terms = {"reconstruction": F.mse_loss(self.decoder(a), x)}
        label = torch.full_like(cells.batch, -1) if cells.label is None else cells.label
        known = label >= 0
        if known.any():
            logits = self.types(torch.cat([a, self.dense(x)], 1))[known]
            terms["classification"] = F.cross_entropy(logits, label[known])
            terms["accuracy"] = (logits.detach().argmax(-1) == label[known]).float().mean()
        total = terms["reconstruction"] + terms.get("classification", 0.0)
        return Loss(total, terms, len(cells))

    def classify(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """Logits of the types."""
        return self.types(self.embed(cells))

    def embed(self, cells: CellBatch) -> Float[Tensor, "cell hidden"]:
        """The units of both branches."""
        x = self._values(cells)
        return torch.cat([self._convolved(x), self.dense(x)], 1)

    def _values(self, cells: CellBatch) -> Float[Tensor, "cell top"]:
        largest = float(self.reference.arrays["largest"][0])
        return to_dense(cells.x, cells.x.data.log1p() / largest)[:, self.genes]  # type: ignore[index]

    def _convolved(self, x: Float[Tensor, "cell top"]) -> Float[Tensor, "cell hidden"]:
        power = [x, x @ self.laplacian]  # type: ignore[operator]
        while len(power) < ORDER:
            power.append(2 * power[-1] @ self.laplacian - power[-2])  # type: ignore[operator]
        filtered = F.relu(self.filters(torch.stack(power, -1))).transpose(1, 2)
        return F.relu(self.pooled(F.max_pool1d(filtered, min(POOL, x.shape[1])).flatten(1)))


def nearest(correlation: Float[np.ndarray, "gene gene"]) -> Float[np.ndarray, "gene gene"]:
    """Edges of each gene to those it correlates with most, by the size of the correlation."""
    own, edges = correlation.copy(), np.zeros_like(correlation)
    np.fill_diagonal(own, 0)
    near = np.argsort(-own, 1)[:, :N_NEIGHBORS]
    np.put_along_axis(edges, near, np.take_along_axis(own, near, 1), 1)
    return edges


def scaled_laplacian(edges: Float[np.ndarray, "gene gene"]) -> Float[np.ndarray, "gene gene"]:
    """2 L / (largest eigenvalue) - I, of L = I - D^-1/2 A D^-1/2, A the symmetric edges with self-loops."""
    weights = np.maximum(edges, edges.T).astype(np.float64)
    weights = weights / max(weights.max(), 1e-12) + np.eye(len(weights))
    root = 1 / np.sqrt(weights.sum(1))
    laplacian = np.eye(len(weights)) - root[:, None] * weights * root
    return (2 * laplacian / max(np.linalg.eigvalsh(laplacian)[-1], 1e-6) - np.eye(len(weights))).astype(np.float32)
