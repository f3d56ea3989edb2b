"""scGCN: names cells by a graph convolution over labeled and unlabeled cells (Song, Su and Zhang 2021).

    x      = log(1 + 10,000 * share of the cell)    of the genes whose means differ most between types (ANOVA)
    A      = mutual nearest neighbors on principal components of x: labeled with unlabeled cells, and among unlabeled
    S      = D^-1/2 (A + I) D^-1/2                                          D: degrees of A + I
    p(y|x) = softmax(S relu(S x W) V)

Training minimizes the cross entropy of the labeled cells, by default with all cells in one minibatch. The graph is of
the cells trained on: new cells need a new training. `vote` gives the shares of types that the same edges give without a
network.

Source: Nat Commun 12:3826. There the edges are Seurat's anchors after canonical correlation; here neighbors on
principal components scaled to length 1, the batch left as it is. There training stops by a tenth of the labeled cells.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.data.sources import Cells
from scduet.errors import OptionError
from scduet.options import check_network

MOST_CELLS = 20_000  # the features of all cells are held, and each step computes all of them
N_GENES, N_COMPONENTS = 2000, 30
N_NEIGHBORS = 10  # among which two cells must find each other


@dataclass(frozen=True)
class Config:
    n_hidden: int = 32
    """Hidden units."""
    use_graph: bool = True
    """Use the edges; without them it is the same network on each cell alone, a control."""

    def __post_init__(self) -> None:
        check_network(self)


def recipe(n_cells: int, max_epochs: int | None) -> dict[str, object]:
    """All cells in one minibatch, as published."""
    adam = {"lr": 1e-2, "lr_schedule": "constant", "weight_decay": 0.0, "adam_eps": 1e-8}
    return {**adam, "batch_size": n_cells, "max_epochs": max_epochs or 200}


def graph_of_cells(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """Labels, features and edges of all cells; the labeled cells alone choose the genes."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import normalize

    n_cells, label = len(cells), cells.label
    if n_cells > MOST_CELLS:
        remedy = f"use scanvi, or annotate(use='logistic_regression'), above {MOST_CELLS} cells"
        raise OptionError(f"scGCN holds a graph of all {n_cells} cells", remedy)
    if label is None or not (label >= 0).any():
        raise OptionError("scGCN learns from labels, and no cell has one", "pass labels_key=")
    if (label >= 0).all():
        remedy = "give the cells to be named the label unlabeled_category=, or use annotate"
        raise OptionError("scGCN names the cells without a label, and all cells have one", remedy)
    x = telling_genes(cells.counts.rows(np.arange(n_cells)), cells.total, label)
    scores = PCA(min(N_COMPONENTS, *x.shape), random_state=0).fit_transform(x)
    edges = mutual_neighbors(normalize(scores), label >= 0).tocoo()
    return {"label": label.astype(np.float32), "x": x, "edges": np.stack([edges.row, edges.col]).astype(np.float32)}


class SCGCN(nn.Module):
    Config = Config
    players = ("model",)
    expects: Expects = "counts"
    per_cell = True
    measure = staticmethod(graph_of_cells)
    recipes = {"auto": recipe}

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        self.reference, self.config, arrays = reference, config, reference.arrays
        n_cells, n_genes = arrays["x"].shape
        edges = arrays["edges"].astype(np.int64) if config.use_graph else np.zeros((2, 0), np.int64)
        spread = torch.from_numpy(np.hstack([edges, np.tile(np.arange(n_cells), (2, 1))]))  # with an edge to itself
        root = torch.bincount(spread[0], minlength=n_cells).rsqrt()
        self.register_buffer("edges", spread, persistent=False)
        self.register_buffer("weight", root[spread[0]] * root[spread[1]], persistent=False)
        self.register_buffer("x", self._spread(torch.from_numpy(arrays["x"])), persistent=False)
        self.hidden = nn.Linear(n_genes, config.n_hidden, bias=False)
        self.types = nn.Linear(config.n_hidden, reference.n_labels, bias=False)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        label, logits = cells.label, self.classify(cells)
        known = label >= 0  # type: ignore[operator]
        loss = F.cross_entropy(logits[known], label[known], reduction="sum") / known.sum().clamp(min=1)  # type: ignore[index]
        return Loss(loss, {"classification": loss}, len(cells))

    def classify(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """Logits of the types."""
        return self.types(self.embed(cells))

    def embed(self, cells: CellBatch) -> Float[Tensor, "cell hidden"]:
        """The hidden units of the cell and its neighbors."""
        return self._spread(F.relu(self.hidden(self.x)))[cells.index]  # type: ignore[arg-type]

    def vote(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """Share of each type among the labeled cells within two edges; that among all where there are none."""
        label = torch.from_numpy(self.reference.arrays["label"]).long().to(cells.index.device)
        known = F.one_hot(label + 1, self.reference.n_labels + 1)[:, 1:].float()
        votes = self._spread(self._spread(known))[cells.index]
        votes = votes.where(votes.sum(1, keepdim=True) > 0, known.mean(0))
        return votes / votes.sum(1, keepdim=True)

    def _spread(self, values: Float[Tensor, "all column"]) -> Float[Tensor, "all column"]:
        """S times the values of all cells."""
        to, by = self.edges  # type: ignore[misc]
        return torch.zeros_like(values).index_add_(0, to, self.weight[:, None] * values[by])  # type: ignore[index]


def telling_genes(
    counts: sp.csr_matrix, total: Float[np.ndarray, " cell"], label: np.ndarray
) -> Float[np.ndarray, "cell gene"]:
    """Log-normalized values of the genes whose means differ most between the types, by the F statistic."""
    x = (sp.diags(1e4 / np.maximum(total, 1)) @ counts).tocsr().log1p().astype(np.float32)
    known, code = x[label >= 0].astype(np.float64), label[label >= 0]
    sizes = np.maximum(np.bincount(code), 1)[:, None]
    sums = np.asarray((sp.csr_matrix((np.ones(len(code)), (code, np.arange(len(code))))) @ known).todense())
    explained = (sums**2 / sizes).sum(0)
    between, within = explained - sums.sum(0) ** 2 / len(code), np.asarray(known.power(2).sum(0)).ravel() - explained
    telling = np.argsort(-between / np.maximum(within, 1e-9), kind="stable")[:N_GENES]  # in the order of F
    return x[:, np.sort(telling)].toarray()


def mutual_neighbors(place: Float[np.ndarray, "cell pc"], labeled: Bool[np.ndarray, " cell"]) -> sp.csr_matrix:
    """Edges between cells that are both among the nearest of the other: labeled and unlabeled, and among unlabeled."""
    from sklearn.neighbors import NearestNeighbors

    known, asked = np.flatnonzero(labeled), np.flatnonzero(~labeled)
    of_known, of_asked = (NearestNeighbors(algorithm="brute").fit(place[side]) for side in (known, asked))
    to_known = of_known.kneighbors_graph(place[asked], min(N_NEIGHBORS, len(known)))
    to_asked = of_asked.kneighbors_graph(place[known], min(N_NEIGHBORS, len(asked)))
    among = of_asked.kneighbors_graph(n_neighbors=min(N_NEIGHBORS, len(asked) - 1)) if len(asked) > 1 else None
    across = to_known.multiply(to_asked.T)
    edges = sp.bmat([[None, across.T], [across, None if among is None else among.multiply(among.T)]], "csr")
    order = np.argsort(np.concatenate([known, asked]))
    return edges[order][:, order]
