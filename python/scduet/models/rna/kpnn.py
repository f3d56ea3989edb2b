"""KPNN: a classifier whose units are genes and proteins, wired as a known network (Fortelny & Bock 2020).

    gene   = log(1 + counts per million), scaled to 0 ... 1 over the cells trained on
    node   = sigmoid(sum over its children of weight * child + intercept)     children: genes or nodes below
    logits = linear(top nodes)                                                top: nodes without a parent

The network is an edge list "parent, child" without cycles. Training minimizes the cross entropy of the labels, in which
the types of a minibatch count alike, + l2 / 2 * sum of squared weights / cells of the minibatch. In training nodes and
genes are dropped, so that those that say the same share the weight; a node whose parent has one child is never
dropped, one of two or three seldom.

What a node is worth is the derivative of a label's probability with respect to its activation, a mean over cells. It
means something only over replicates and beside a control: see `node_weights`.

Source: Fortelny & Bock 2020, Genome Biology 21:190, from the formulas of the paper. There the top node is the output,
of two labels; here a linear layer reads any number of labels off all top nodes.
"""

from __future__ import annotations

from scduet._torch import torch

import graphlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from scduet.contract import CellBatch, Expects, Input, Loss, Reference, Step
from scduet.data import schema
from scduet.data.locate import Place
from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError, ScduetWarning, some

LEAST_KEPT = {1: 1.0, 2: 0.9, 3: 0.7}  # children of a parent -> probability with which each is kept, at least
MILLION = 1e6
PIECE = 4096  # cells whose genes are measured together


@dataclass(frozen=True)
class Fields(schema.Fields):
    gene_graph: Place | None = None
    """The network: a .csv with the columns parent and child, or such a DataFrame; children are nodes or genes."""


@dataclass(frozen=True)
class Config:
    node_dropout: float = 0.3
    """Share of the nodes that are dropped in training, fewer where a parent has few children."""
    gene_dropout: float = 0.1
    """Share of the genes that are dropped in training, likewise."""
    l2: float = 0.01
    """Weight of the squared weights, divided by the cells of a minibatch."""

    def __post_init__(self) -> None:
        for name in ("node_dropout", "gene_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)!r}", "it is from 0 up to, not including, 1")
        if not self.l2 >= 0:
            raise OptionError(f"l2={self.l2!r}", "it cannot be below 0")


@dataclass(frozen=True)
class Graph:
    """Units in an order in which children come before parents: first the genes that are used, then the nodes."""

    genes: Int[np.ndarray, " gene"]  # columns of the counts
    nodes: tuple[str, ...]
    level: Int[np.ndarray, " node"]  # of each node, from 1 up: above all of its children
    parent: Int[np.ndarray, " edge"]  # places among the units
    child: Int[np.ndarray, " edge"]
    n_dropped: int  # nodes without a gene below them

    @property
    def top(self) -> Int[np.ndarray, " top"]:
        """The nodes without a parent, as places among the units."""
        return np.setdiff1d(len(self.genes) + np.arange(len(self.nodes)), self.child)


def graph_of(table: Mapping[str, tuple[Any, ...]]) -> Graph:
    """Raises DataError for a table without the columns, with a cycle, or without a gene of the data."""
    if not {"parent", "child"} <= set(table):
        raise DataError(f"the network has the columns {some(table)}", "name its columns parent and child")
    row = {str(child): row for child, row in zip(table["child"], table["child_row"], strict=True)}
    pairs = dict.fromkeys(zip(map(str, table["parent"]), map(str, table["child"]), strict=True))
    parents, below = {parent for parent, _ in pairs}, dict[str, list[str]]()
    for parent, child in pairs:
        below.setdefault(parent, []).append(child)
    try:
        order = list(graphlib.TopologicalSorter(below).static_order())
    except graphlib.CycleError as error:
        raise DataError(f"the network has a cycle: {' <- '.join(error.args[1])}", "remove one of its edges") from None
    level = {name: 0 for name in order if name not in parents and row[name] >= 0}
    if not level:
        raise DataError("no gene of the network is among the genes used", "are genes named alike there? else use more")
    for name in order:
        known = [level[child] for child in below.get(name, ()) if child in level]
        if known:
            level[name] = 1 + max(known)
    units = sorted(level, key=level.__getitem__)  # stable
    place, n_genes = {name: i for i, name in enumerate(units)}, sum(value == 0 for value in level.values())
    edges = np.array([(place[p], place[c]) for p, c in pairs if p in place and c in place])
    edges = edges[np.argsort(edges[:, 0], kind="stable")]
    genes = np.array([row[name] for name in units[:n_genes]])
    levels = np.array([level[name] for name in units[n_genes:]])
    return Graph(genes, tuple(units[n_genes:]), levels, *edges.T, n_dropped=len(parents) - len(levels))


def measure_genes(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """Smallest and largest log(1 + counts per million) of each gene. Warns of nodes and genes that play no part."""
    graph = graph_of(reference.tables["gene_graph"])
    if graph.n_dropped:
        message = f"{graph.n_dropped} nodes of the network have none of the genes used below them: they are left out"
        warnings.warn(message, ScduetWarning, 4)
    if 2 * len(graph.genes) < reference.n_genes:
        message = f"{reference.n_genes - len(graph.genes)} of {reference.n_genes} genes are not in the network"
        warnings.warn(f"{message}: they play no part", ScduetWarning, 4)
    low, high = np.full(reference.n_genes, np.inf), np.zeros(reference.n_genes)
    for start in range(0, len(cells), PIECE):
        piece = cells.counts.rows(np.arange(start, min(start + PIECE, len(cells)))).astype(np.float64)
        factor = np.repeat(MILLION / cells.total[start : start + PIECE], np.diff(piece.indptr))
        piece.data = np.log1p(piece.data * factor)
        low = np.minimum(low, piece.min(0).toarray()[0])
        high = np.maximum(high, piece.max(0).toarray()[0])
    spread = np.where(high > low, high - low, 1)
    return {"gene_low": low.astype(np.float32), "gene_spread": spread.astype(np.float32)}


class KPNN(nn.Module):
    Config, Fields = Config, Fields
    players = ("model",)
    expects: Expects = "counts"
    modalities = ("rna",)
    inputs = {"gene_graph": Input("gene_graph", axis="table", names_of={"child": "x"})}
    measure = staticmethod(measure_genes)
    recipes = {"auto": {"lr": 0.05, "adam_eps": 1e-8, "weight_decay": 0.0}}
    gene_low: Float[Tensor, " gene"]
    gene_spread: Float[Tensor, " gene"]
    child: Int[Tensor, " edge"]
    kept: Float[Tensor, " unit"]

    def __init__(self, reference: Reference, config: Config):
        super().__init__()
        if reference.n_labels < 2:
            raise OptionError("'kpnn' tells types of cells apart", "pass labels_key= with two types or more")
        self.reference, self.config = reference, config
        self.graph = graph_of(reference.tables["gene_graph"])
        n_genes, n_nodes, top = len(self.graph.genes), len(self.graph.nodes), self.graph.top
        for name in ("gene_low", "gene_spread"):
            self.register_buffer(name, torch.tensor(reference.arrays[name]).reshape(-1)[self.graph.genes])
        self.register_buffer("child", torch.tensor(self.graph.child), persistent=False)
        self.register_buffer("kept", _kept(self.graph, config), persistent=False)
        first, level = n_genes, self.graph.level
        bounds = np.searchsorted(level, np.arange(1, level.max() + 2)) + first  # first unit of each level
        cuts = np.searchsorted(self.graph.parent, bounds)
        self.levels = [
            (torch.tensor(self.graph.parent[a:b] - low), slice(a, b), slice(low - first, high - first))
            for a, b, low, high in zip(cuts, cuts[1:], bounds, bounds[1:], strict=False)
        ]
        self.weight, self.intercept = nn.Parameter(torch.randn(len(self.child))), nn.Parameter(torch.randn(n_nodes))
        self.top = torch.tensor(top)
        self.readout = nn.Linear(len(top), reference.n_labels)

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        known = cells.label >= 0  # type: ignore[operator]
        logits, label = self.classify(cells)[known], cells.label[known]  # type: ignore[index]
        share = 1 / torch.bincount(label, minlength=self.reference.n_labels).clamp(min=1)
        error = F.cross_entropy(logits, label, share) if len(label) else logits.sum() * 0
        squares = self.weight.square().sum() + self.readout.weight.square().sum()
        penalty = self.config.l2 / 2 * squares / len(cells)
        return Loss(error + penalty, {"error": error, "penalty": penalty}, len(cells))

    def classify(self, cells: CellBatch) -> Float[Tensor, "cell label"]:
        """Logits of the types."""
        return self._logits(self.units(cells))

    def embed(self, cells: CellBatch) -> Float[Tensor, "cell node"]:
        """The activation of each node, in the order of `graph.nodes`."""
        return self.units(cells)[:, len(self.graph.genes) :]

    def units(self, cells: CellBatch, push: Float[Tensor, "cell node"] | None = None) -> Float[Tensor, "cell unit"]:
        """Activations of genes and nodes. push: what is added to those of nodes."""
        counts = replace(cells.x, data=(cells.x.data * (MILLION / cells.x.sum()[cells.x.row])).log1p())
        genes = counts.dense()[:, self.graph.genes]
        found = [self._dropped((genes - self.gene_low) / self.gene_spread, slice(0, genes.shape[1]))]
        for parent, edges, nodes in self.levels:
            below = torch.cat(found, 1)[:, self.child[edges]] * self.weight[edges]
            total = below.new_zeros(len(cells), nodes.stop - nodes.start).index_add(1, parent.to(below.device), below)
            active = (total + self.intercept[nodes]).sigmoid()
            active = active if push is None else active + push[:, nodes]
            places = slice(nodes.start + genes.shape[1], nodes.stop + genes.shape[1])
            found.append(self._dropped(active, places))
        return torch.cat(found, 1)

    def node_weights(self, cells: CellBatch) -> Float[Tensor, "cell label_node"]:
        """Derivatives of the probability of each label with respect to the activation of each node, label by label."""
        with torch.enable_grad():
            push = torch.zeros(len(cells), len(self.graph.nodes), device=self.weight.device, requires_grad=True)
            share = self._logits(self.units(cells, push)).softmax(-1)
            labels = range(self.reference.n_labels)
            slopes = [torch.autograd.grad(share[:, k].sum(), push, retain_graph=True)[0] for k in labels]
        return torch.cat(slopes, 1).detach()

    def _logits(self, units: Float[Tensor, "cell unit"]) -> Float[Tensor, "cell label"]:
        return self.readout(units[:, self.top.to(units.device)])

    def _dropped(self, active: Float[Tensor, "cell part"], places: slice) -> Float[Tensor, "cell part"]:
        kept = self.kept[places]
        return active * torch.bernoulli(kept.expand_as(active)) / kept if self.training else active


def _kept(graph: Graph, config: Config) -> Float[Tensor, " unit"]:
    """Probability with which each unit is kept in training: by option, more where it is one of few children."""
    n_genes, n_units = len(graph.genes), len(graph.genes) + len(graph.nodes)
    kept = np.full(n_units, 1 - config.node_dropout)
    kept[:n_genes] = 1 - config.gene_dropout
    n_children = np.bincount(graph.parent, minlength=n_units)
    fewest = np.full(n_units, len(graph.top))  # the children of the labels
    below = np.setdiff1d(np.arange(n_units), graph.top)
    fewest[below] = n_units
    np.minimum.at(fewest, graph.child, n_children[graph.parent])
    for count, least in LEAST_KEPT.items():
        kept[fewest == count] = np.maximum(kept[fewest == count], least)
    return torch.tensor(kept, dtype=torch.float32)
