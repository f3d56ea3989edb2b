"""The cells of one embedding, with neighbors, silhouettes and clusters that are computed once for all metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from scduet.metrics.core.estimates import Estimate, Group
from scduet.metrics.core.inputs import Undefined
from scduet.metrics.core.neighbors import Neighbors, nearest_neighbors
from scduet.metrics.integration import clustering, lisi, silhouette

PARTS = 4  # disjoint parts of a sample whose spread gives the standard error of a clustering metric


@dataclass(frozen=True)
class SamplingPlan:
    """How many cells are used: all up to `exact_up_to`, above it samples."""

    exact_up_to: int = 100_000
    n_queries: int = 5_000  # cells compared with all cells
    n_clustered: int = 100_000  # cells for graphs and clusters
    seed: int = 0


@dataclass(frozen=True)
class MetricInputs:
    """Inputs of the conservation metrics other than the embedding; None if absent."""

    phase_scores: Float[np.ndarray, "cell phase"] | None = None  # S and G2M, see `phase_scores`
    pseudotime: Float[np.ndarray, " cell"] | None = None  # before integration, NaN off the trajectory
    expression: object | None = None  # (cell, gene) log-normalized, before integration
    corrected: object | None = None  # the same cells and genes after integration


@dataclass(frozen=True)
class EmbeddingCells:
    """Arrays of one embedding; an array that was not given is None."""

    x: Float[np.ndarray, "cell dim"] | None
    labels: Int[np.ndarray, " cell"] | None
    batch: Int[np.ndarray, " cell"] | None
    before: Float[np.ndarray, "cell dim"] | None
    graph: Neighbors | None
    n: int
    plan: SamplingPlan
    extra: MetricInputs

    def need(self, *names: str) -> tuple[np.ndarray, ...]:
        """The named arrays.

        Raises:
            Undefined: one was not given.
        """
        here = EmbeddingCells.__dataclass_fields__
        found = [getattr(self if name in here else self.extra, name) for name in names]
        for name, array in zip(names, found, strict=True):
            if array is None:
                raise Undefined(f"needs {_NAMES[name]}")
        return tuple(found)

    @cached_property
    def queries(self) -> Int[np.ndarray, " query"]:
        """All cells, or the sample of them whose distances to all cells are taken."""
        return np.arange(self.n) if self.n <= self.plan.exact_up_to else self._draw(self.n, self.plan.n_queries)

    @cached_property
    def queries_by_label(self) -> dict[int, Int[np.ndarray, " query"]] | None:
        """As many queries of each label, since the metrics that use them weigh labels equally; None = all cells."""
        if self.n <= self.plan.exact_up_to:
            return None
        (labels,) = self.need("labels")
        each = max(self.plan.n_queries // (int(labels.max()) + 1), 50)
        cells = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
        return {label: found[self._draw(len(found), each)] for label, found in enumerate(cells)}

    @cached_property
    def clustered(self) -> Int[np.ndarray, " cell"]:
        """The cells used for graphs and clusters."""
        return np.arange(self.n) if self.n <= self.plan.exact_up_to else self._draw(self.n, self.plan.n_clustered)

    @cached_property
    def neighbors(self) -> Neighbors:
        """The 90 nearest neighbors (with self) of the queries, or the graph that was given."""
        if self.graph is not None:
            return self.graph
        return nearest_neighbors(self.need("x")[0], 90, self.queries)

    @cached_property
    def lisi_weights(self) -> Float[np.ndarray, "query neighbor"]:
        return lisi.neighborhood_weights(self.neighbors.first(90))

    @cached_property
    def label_silhouette(self) -> Group:
        """s of the queries with respect to the labels."""
        x, labels = self.need("x", "labels")
        return Group(silhouette.silhouette_samples(x, labels, queries=self.queries), self.n)

    @cached_property
    def graphs(self) -> list[Neighbors]:
        """The graph of the clustered cells; where they are a sample, also those of its disjoint parts."""
        if self.graph is not None or len(self.clustered) == self.n:
            return [self.neighbors]
        x = self.need("x")[0]
        return [nearest_neighbors(x[rows], 15) for rows in self.samples]

    @cached_property
    def samples(self) -> list[Int[np.ndarray, " cell"]]:
        """The clustered cells and, where they are a sample, its disjoint parts."""
        parts = [] if len(self.clustered) == self.n else np.array_split(self.clustered, PARTS)
        return [self.clustered, *parts]

    @cached_property
    def leiden(self) -> list[list[Int[np.ndarray, " cell"]]]:
        """Leiden clusters of each sample over the resolution grid."""
        return [clustering.leiden_clusters(graph, self.plan.seed) for graph in self.graphs]

    @cached_property
    def kmeans(self) -> list[Int[np.ndarray, " cell"]]:
        """k-means clusters of each sample."""
        x, labels = self.need("x", "labels")
        return [clustering.kmeans_clusters(x[rows], labels[rows], self.plan.seed) for rows in self.samples]

    def over_samples(self, metric: Callable[[int, Int[np.ndarray, " cell"]], float]) -> Estimate:
        """`metric(sample number, its cells)` on the whole sample; standard error from the spread over its parts."""
        value, *parts = [metric(i, rows) for i, rows in enumerate(self.samples)]
        error = float(np.std(parts, ddof=1) / np.sqrt(PARTS)) if parts else 0.0
        return Estimate(float(value), error, len(self.clustered))

    def _draw(self, n: int, size: int) -> Int[np.ndarray, " drawn"]:
        return np.random.default_rng(self.plan.seed).permutation(n)[:size]


_NAMES = {
    "x": "an embedding",
    "labels": "labels",
    "batch": "batches",
    "before": "the data before integration",
    "phase_scores": "cell-cycle scores",
    "pseudotime": "a pseudotime from before integration",
    "expression": "the expression before integration",
    "corrected": "corrected expression; an embedding has no genes",
}
