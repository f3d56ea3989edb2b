"""All integration metrics of one embedding, with a shared neighbor search and a reason for undefined metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike

from scduet.metrics import METRICS
from scduet.metrics.core import estimates
from scduet.metrics.core.estimates import Estimate, Group
from scduet.metrics.core.inputs import Undefined, at_least_two, codes, points
from scduet.metrics.core.neighbors import Neighbors
from scduet.metrics.integration import classifiers as census
from scduet.metrics.integration import (
    clustering,
    conservation,
    diffusion,
    entropy,
    graph,
    isolated,
    lisi,
    pcr,
    silhouette,
)
from scduet.metrics.integration import kbet as acceptance
from scduet.metrics.integration.cells import EmbeddingCells, MetricInputs, SamplingPlan


def evaluate(
    x: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    batch: ArrayLike | None = None,
    before: ArrayLike | None = None,
    neighbors: Neighbors | None = None,
    metrics: str | Iterable[str] = "default",
    plan: SamplingPlan | None = None,
    extra: MetricInputs | None = None,
    callback: Callable[[str], object] | None = None,
) -> dict[str, Estimate]:
    """Integration metrics of one embedding (cells x dimensions), or of a kNN graph alone.

    Args:
        before: data before integration (cells x features), for the PCR comparison.
        neighbors: your own graph (see `from_graph`), used instead of a search.
        metrics: "default", "scib" (the paper's), "census", "all", or names of `METRICS`.
        plan: up to how many cells metrics are exact, and how many are sampled above.
        extra: cell-cycle scores, pseudotime and expression, for the conservation metrics.
        callback: called with the name of each metric before it is computed.

    Returns:
        Name -> value, standard error (0 = all cells used), number of cells, and the reason where the value is NaN.

    Raises:
        ValueError: unknown metric, or arrays that are not finite or do not match.
    """
    names = chosen(metrics)
    cells = _cells(x, labels, batch, before, neighbors, plan or SamplingPlan(), extra or MetricInputs())
    found = {}
    for name in names:
        if callback is not None:
            callback(name)
        found[name] = _or_reason(ESTIMATORS[name], cells)
    return found


def chosen(metrics: str | Iterable[str]) -> list[str]:
    """Names of a suite, or the names given.

    Raises:
        ValueError: a name that is neither a metric nor a suite.
    """
    suites = {suite for metric in METRICS.values() for suite in metric.suites}
    if metrics == "all":
        return list(ESTIMATORS)
    if isinstance(metrics, str) and metrics in suites:
        return [name for name, metric in METRICS.items() if metrics in metric.suites]
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise ValueError(f"unknown metrics {unknown}; there are {sorted(METRICS)} and suites {sorted(suites)}, 'all'")
    return names


def _cells(x, labels, batch, before, neighbors, plan: SamplingPlan, extra: MetricInputs) -> EmbeddingCells:
    if x is None and neighbors is None:
        raise ValueError("give an embedding (cells x dimensions) or neighbors")
    x = None if x is None else points(x)
    n = neighbors.n_cells if x is None else len(x)
    before = None if before is None else points(before, "before")
    if (before is not None and len(before) != n) or (neighbors is not None and neighbors.n_cells != n):
        raise ValueError(f"the embedding has {n} cells, but before or neighbors has another number")
    labels = None if labels is None else codes(labels, n_cells=n)
    batch = None if batch is None else codes(batch, "batch", n)
    return EmbeddingCells(x, labels, batch, before, neighbors, n, plan, extra)


def _or_reason(estimator: Callable[[EmbeddingCells], Estimate], cells: EmbeddingCells) -> Estimate:
    try:
        if cells.x is not None and (cells.x == cells.x[0]).all():
            raise Undefined("the embedding is constant: all cells are in the same place")
        return estimator(cells)
    except Undefined as error:
        return Estimate(float("nan"), float("nan"), 0, str(error))


def _silhouette_label(cells: EmbeddingCells) -> Estimate:
    group = cells.label_silhouette
    return estimates.mean(Group((group.values + 1) / 2, group.size))


def _overlap(other: silhouette.Other, metric: silhouette.Metric) -> Callable[[EmbeddingCells], Estimate]:
    def estimate(cells: EmbeddingCells) -> Estimate:
        x, labels, batch = cells.need("x", "labels", "batch")
        at_least_two(batch, "the batch silhouette", "batches")
        groups = silhouette.batch_overlap(x, labels, batch, other, metric, cells.queries_by_label)
        return estimates.mean_of_means(silhouette.some_label(list(groups)))

    return estimate


def _isolated_labels(cells: EmbeddingCells) -> Estimate:
    x, labels, batch = cells.need("x", "labels", "batch")
    wanted = isolated.find_isolated(labels, batch)
    if cells.queries_by_label is None:
        s, rows = cells.label_silhouette.values, cells.queries
    else:
        rows = np.concatenate([cells.queries_by_label[label] for label in wanted])
        s = silhouette.silhouette_samples(x, labels, queries=rows)
    return isolated.by_label(s, labels[rows], wanted, np.bincount(labels))


def _isolated_f1(cells: EmbeddingCells) -> Estimate:
    labels, batch = cells.need("labels", "batch")
    wanted = isolated.find_isolated(labels, batch)
    return cells.over_samples(lambda i, rows: isolated.best_f1(labels[rows], wanted, cells.leiden[i]))


def _kmeans(score: Callable) -> Callable[[EmbeddingCells], Estimate]:
    def estimate(cells: EmbeddingCells) -> Estimate:
        (labels,) = cells.need("labels")
        return cells.over_samples(lambda i, rows: score(labels[rows], cells.kmeans[i]))

    return estimate


def _leiden(score: Callable) -> Callable[[EmbeddingCells], Estimate]:
    def estimate(cells: EmbeddingCells) -> Estimate:
        (labels,) = cells.need("labels")
        best = clustering.best_clusters
        return cells.over_samples(lambda i, rows: score(labels[rows], best(labels[rows], cells.leiden[i])))

    return estimate


def _ilisi(cells: EmbeddingCells) -> Estimate:
    (batch,) = cells.need("batch")
    n = at_least_two(batch, "iLISI", "batches")
    values = lisi.lisi_of_weights(cells.neighbors.first(90), cells.lisi_weights, batch)
    return estimates.median(Group(values, cells.n), 1 / (n - 1), 1, cells.plan.seed)


def _clisi(cells: EmbeddingCells) -> Estimate:
    (labels,) = cells.need("labels")
    n = at_least_two(labels, "cLISI", "labels")
    values = lisi.lisi_of_weights(cells.neighbors.first(90), cells.lisi_weights, labels)
    return estimates.median(Group(values, cells.n), -1 / (n - 1), n, cells.plan.seed)


def _cilisi(cells: EmbeddingCells) -> Estimate:
    x, labels, batch = cells.need("x", "labels", "batch")
    at_least_two(batch, "CiLISI", "batches")
    return estimates.weighted_mean(lisi.lisi_within(x, labels, batch, sample=cells.queries_by_label))


def _kbet(cells: EmbeddingCells) -> Estimate:
    x, labels, batch = cells.need("x", "labels", "batch")
    at_least_two(batch, "kBET", "batches")
    return estimates.mean_of_means(acceptance.acceptance_within(x, labels, batch, cells.queries_by_label))


def _kbet_diffusion(cells: EmbeddingCells) -> Estimate:
    labels, batch = cells.need("labels", "batch")
    at_least_two(batch, "kBET", "batches")

    def one(i: int, rows: np.ndarray) -> float:
        near = cells.graphs[i]
        return diffusion.acceptance_diffused(near.first(50), codes(labels[rows]), codes(batch[rows]))

    return cells.over_samples(one)


def _graph_connectivity(cells: EmbeddingCells) -> Estimate:
    (labels,) = cells.need("labels")
    return cells.over_samples(
        lambda i, rows: float(np.mean(graph.connected_shares(cells.graphs[i].first(15), codes(labels[rows]))))
    )


def _pcr_comparison(cells: EmbeddingCells) -> Estimate:
    before, x, batch = cells.need("before", "x", "batch")
    return Estimate(pcr.pcr_comparison(before, x, batch), 0.0, cells.n)


def _batch_entropy(cells: EmbeddingCells) -> Estimate:
    (batch,) = cells.need("batch")
    return estimates.mean(Group(entropy.entropy_samples(cells.neighbors.first(51), batch, normalize=True), cells.n))


def _classifier(kind: census.Classifier, target: str) -> Callable[[EmbeddingCells], Estimate]:
    def estimate(cells: EmbeddingCells) -> Estimate:
        x, codes_ = cells.need("x", target)
        rows = cells.clustered[: census.MAX_CELLS]
        accuracy, error = census.held_out_accuracy(x[rows], codes_[rows], kind, seed=42)
        return Estimate(accuracy if target == "labels" else 1 - accuracy, error, len(rows))

    return estimate


def _cell_cycle(cells: EmbeddingCells) -> Estimate:
    arrays = cells.need("before", "x", "phase_scores", "batch")
    return Estimate(conservation.cell_cycle_conservation(*arrays), 0.0, cells.n)


def _hvg_overlap(cells: EmbeddingCells) -> Estimate:
    before, after, batch = cells.need("expression", "corrected", "batch")
    return Estimate(conservation.hvg_overlap(before, after, batch), 0.0, cells.n)


def _trajectory(cells: EmbeddingCells) -> Estimate:
    time, x = cells.need("pseudotime", "x")
    return cells.over_samples(lambda i, rows: conservation.trajectory_conservation(time[rows], x[rows]))


ESTIMATORS: dict[str, Callable[[EmbeddingCells], Estimate]] = {
    "isolated_labels": _isolated_labels,
    "isolated_f1": _isolated_f1,
    "nmi_kmeans": _kmeans(clustering.nmi),
    "ari_kmeans": _kmeans(clustering.ari),
    "nmi_leiden": _leiden(clustering.nmi),
    "ari_leiden": _leiden(clustering.ari),
    "silhouette_label": _silhouette_label,
    "clisi": _clisi,
    "svm_label": _classifier("svm", "labels"),
    "forest_label": _classifier("forest", "labels"),
    "logistic_label": _classifier("logistic", "labels"),
    "bras": _overlap("mean", "cosine"),
    "bras_euclidean": _overlap("mean", "euclidean"),
    "silhouette_batch": _overlap("nearest", "euclidean"),
    "ilisi": _ilisi,
    "cilisi": _cilisi,
    "kbet": _kbet,
    "kbet_diffusion": _kbet_diffusion,
    "graph_connectivity": _graph_connectivity,
    "pcr_comparison": _pcr_comparison,
    "batch_entropy": _batch_entropy,
    "svm_batch": _classifier("svm", "batch"),
    "forest_batch": _classifier("forest", "batch"),
    "logistic_batch": _classifier("logistic", "batch"),
    "cell_cycle": _cell_cycle,
    "hvg_overlap": _hvg_overlap,
    "trajectory": _trajectory,
}
