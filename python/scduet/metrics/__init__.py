"""Metrics: arrays in, number out. `METRICS` names each; functions are imported on first use."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

Group = Literal["bio", "batch"]


@dataclass(frozen=True)
class Metric:
    """What a column of the table of integration metrics means."""

    group: Group
    function: str  # module.function in this package
    low: float
    high: float
    suites: tuple[str, ...]
    label: str
    mean: bool = True  # counts in the mean of its group
    higher_is_better: bool = True


_D, _S, _C = "default", "scib", "census"
METRICS: dict[str, Metric] = {
    "isolated_labels": Metric("bio", "isolated.isolated_labels", 0, 1, (_D, _S), "Isolated labels"),
    "isolated_f1": Metric("bio", "isolated.isolated_f1", 0, 1, (_S,), "Isolated labels F1"),
    "nmi_kmeans": Metric("bio", "clustering.nmi_kmeans", 0, 1, (_D,), "NMI k-means"),
    "ari_kmeans": Metric("bio", "clustering.ari_kmeans", -0.5, 1, (_D,), "ARI k-means"),
    "nmi_leiden": Metric("bio", "clustering.nmi_leiden", 0, 1, (_S, _C), "NMI Leiden"),
    "ari_leiden": Metric("bio", "clustering.ari_leiden", -0.5, 1, (_S, _C), "ARI Leiden"),
    "silhouette_label": Metric("bio", "silhouette.silhouette_label", 0, 1, (_D, _S, _C), "Silhouette label"),
    "clisi": Metric("bio", "lisi.clisi", 0, 1, (_D, _S), "cLISI"),
    "svm_label": Metric("bio", "census.svm_label", 0, 1, (_C,), "SVM label accuracy"),
    "forest_label": Metric("bio", "census.forest_label", 0, 1, (_C,), "Forest label accuracy"),
    "logistic_label": Metric("bio", "census.logistic_label", 0, 1, (_C,), "Logistic label accuracy"),
    "bras": Metric("batch", "silhouette.bras", 0, 1, (_D,), "BRAS"),
    "bras_euclidean": Metric("batch", "silhouette.bras", 0, 1, (), "BRAS (euclidean)", mean=False),
    "silhouette_batch": Metric("batch", "silhouette.silhouette_batch", 0, 1, (_S, _C), "Silhouette batch"),
    "ilisi": Metric("batch", "lisi.ilisi", 0, 1, (_D, _S), "iLISI"),
    "cilisi": Metric("batch", "lisi.cilisi", 0, 1, (), "CiLISI"),
    "kbet": Metric("batch", "acceptance.kbet", 0, 1, (_D,), "kBET"),
    "kbet_diffusion": Metric("batch", "diffusion.kbet_diffusion", 0, 1, (_S,), "kBET (diffusion)"),
    "graph_connectivity": Metric("batch", "graph.graph_connectivity", 0, 1, (_D, _S), "Graph connectivity"),
    "pcr_comparison": Metric("batch", "pcr.pcr_comparison", 0, 1, (_D, _S), "PCR comparison"),
    "batch_entropy": Metric("batch", "entropy.batch_entropy", 0, 1, (_D, _C), "kNN batch entropy", mean=False),
    "svm_batch": Metric("batch", "census.svm_batch", 0, 1, (_C,), "SVM batch error"),
    "forest_batch": Metric("batch", "census.forest_batch", 0, 1, (_C,), "Forest batch error"),
    "logistic_batch": Metric("batch", "census.logistic_batch", 0, 1, (_C,), "Logistic batch error"),
    "cell_cycle": Metric("bio", "conservation.cell_cycle_conservation", 0, 1, (_S,), "Cell cycle"),
    "hvg_overlap": Metric("bio", "conservation.hvg_overlap", 0, 1, (_S,), "HVG overlap"),
    "trajectory": Metric("bio", "conservation.trajectory_conservation", 0, 1, (_S,), "Trajectory"),
}

_OTHER = {  # module -> public names that are no column of the table
    "estimates": ("Estimate",),
    "inputs": ("Undefined",),
    "cells": ("Extra", "Plan"),
    "table": ("evaluate",),
    "neighbors": ("Neighbors", "from_graph", "nearest_neighbors"),
    "acceptance": ("kbet_global",),
    "diffusion": ("pseudotime",),
    "conservation": ("phase_scores",),
    "transfer": (
        "accuracy", "balanced_accuracy", "confusion", "expected_calibration_error", "macro_f1", "per_class",
        "weighted_f1",
    ),
    "perturbation": (
        "direction_accuracy", "energy_distance", "explained_variance_r2", "gene_overlap", "mmd", "mse", "pearson",
        "pearson_delta", "squared_pearson", "top_genes",
    ),
    "imputation": ("heldout_log_likelihood", "hide_counts", "importance_log_likelihood", "imputation_error"),
    "velocity": ("cross_boundary_direction", "velocity_confidence"),
}  # fmt: skip
_PUBLIC = {m.function.split(".")[1]: m.function.split(".")[0] for m in METRICS.values()}
_PUBLIC |= {name: module for module, names in _OTHER.items() for name in names}
__all__ = ["METRICS", "Metric", *sorted(_PUBLIC)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {sorted(_PUBLIC)}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__():
    return __all__
