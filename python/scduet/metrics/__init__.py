"""Metrics: arrays in, number out. `METRICS` names each; functions are imported on first use."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

Group = Literal["bio", "batch"]


@dataclass(frozen=True)
class Metric:
    """A column of the table of integration metrics."""

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
    "isolated_labels": Metric("bio", "integration.isolated.isolated_labels", 0, 1, (_D, _S), "Isolated labels"),
    "isolated_f1": Metric("bio", "integration.isolated.isolated_f1", 0, 1, (_S,), "Isolated labels F1"),
    "nmi_kmeans": Metric("bio", "integration.clustering.nmi_kmeans", 0, 1, (_D,), "NMI k-means"),
    "ari_kmeans": Metric("bio", "integration.clustering.ari_kmeans", -0.5, 1, (_D,), "ARI k-means"),
    "nmi_leiden": Metric("bio", "integration.clustering.nmi_leiden", 0, 1, (_S, _C), "NMI Leiden"),
    "ari_leiden": Metric("bio", "integration.clustering.ari_leiden", -0.5, 1, (_S, _C), "ARI Leiden"),
    "silhouette_label": Metric(
        "bio", "integration.silhouette.silhouette_label", 0, 1, (_D, _S, _C), "Silhouette label"
    ),
    "clisi": Metric("bio", "integration.lisi.clisi", 0, 1, (_D, _S), "cLISI"),
    "svm_label": Metric("bio", "integration.classifiers.svm_label", 0, 1, (_C,), "SVM label accuracy"),
    "forest_label": Metric("bio", "integration.classifiers.forest_label", 0, 1, (_C,), "Forest label accuracy"),
    "logistic_label": Metric("bio", "integration.classifiers.logistic_label", 0, 1, (_C,), "Logistic label accuracy"),
    "bras": Metric("batch", "integration.silhouette.bras", 0, 1, (_D,), "BRAS"),
    "bras_euclidean": Metric("batch", "integration.silhouette.bras", 0, 1, (), "BRAS (euclidean)", mean=False),
    "silhouette_batch": Metric("batch", "integration.silhouette.silhouette_batch", 0, 1, (_S, _C), "Silhouette batch"),
    "ilisi": Metric("batch", "integration.lisi.ilisi", 0, 1, (_D, _S), "iLISI"),
    "cilisi": Metric("batch", "integration.lisi.cilisi", 0, 1, (), "CiLISI"),
    "kbet": Metric("batch", "integration.kbet.kbet", 0, 1, (_D,), "kBET"),
    "kbet_diffusion": Metric("batch", "integration.diffusion.kbet_diffusion", 0, 1, (_S,), "kBET (diffusion)"),
    "graph_connectivity": Metric("batch", "integration.graph.graph_connectivity", 0, 1, (_D, _S), "Graph connectivity"),
    "pcr_comparison": Metric("batch", "integration.pcr.pcr_comparison", 0, 1, (_D, _S), "PCR comparison"),
    "batch_entropy": Metric(
        "batch", "integration.entropy.batch_entropy", 0, 1, (_D, _C), "kNN batch entropy", mean=False
    ),
    "svm_batch": Metric("batch", "integration.classifiers.svm_batch", 0, 1, (_C,), "SVM batch error"),
    "forest_batch": Metric("batch", "integration.classifiers.forest_batch", 0, 1, (_C,), "Forest batch error"),
    "logistic_batch": Metric("batch", "integration.classifiers.logistic_batch", 0, 1, (_C,), "Logistic batch error"),
    "cell_cycle": Metric("bio", "integration.conservation.cell_cycle_conservation", 0, 1, (_S,), "Cell cycle"),
    "hvg_overlap": Metric("bio", "integration.conservation.hvg_overlap", 0, 1, (_S,), "HVG overlap"),
    "trajectory": Metric("bio", "integration.conservation.trajectory_conservation", 0, 1, (_S,), "Trajectory"),
}

_OTHER = {  # module -> public names that are no column of the table
    "core.estimates": ("Estimate",),
    "core.inputs": ("Undefined",),
    "integration.cells": ("MetricInputs", "SamplingPlan"),
    "integration.suite": ("evaluate",),
    "core.neighbors": ("Neighbors", "from_graph", "nearest_neighbors"),
    "integration.kbet": ("kbet_global",),
    "integration.diffusion": ("pseudotime",),
    "integration.conservation": ("phase_scores",),
    "transfer": (
        "accuracy", "balanced_accuracy", "confusion", "expected_calibration_error", "macro_f1", "per_class",
        "weighted_f1",
    ),
    "perturbation": (
        "ceiling", "direction_accuracy", "discrimination", "energy_distance", "explained_variance_r2", "gene_overlap",
        "mmd", "mse", "pearson", "pearson_delta", "relative_error", "response_weights", "shared_control_inflation",
        "squared_pearson", "top_genes", "weighted_r2",
    ),
    "generation": (
        "copied_share", "correlation_agreement", "label_accuracy", "shuffled_within", "two_sample_auc",
    ),
    "imputation": (
        "held_out_scores", "heldout_log_likelihood", "hide_counts", "importance_log_likelihood", "imputation_error",
        "molecular_cross_validation", "split_molecules",
    ),
    "deconvolution": (
        "presence_aupr", "proportion_jsd", "proportion_rmse", "type_concordance", "type_correlation",
    ),
    "matching": ("foscttm", "knn_overlap", "match_probability", "modality_mixing", "top_k_accuracy"),
    "velocity": ("cross_boundary_direction", "directional_cosines", "permutation_score", "velocity_confidence"),
}  # fmt: skip
_PUBLIC = {m.function.rpartition(".")[2]: m.function.rpartition(".")[0] for m in METRICS.values()}
_PUBLIC |= {name: module for module, names in _OTHER.items() for name in names}
__all__ = ["METRICS", "Metric", *sorted(_PUBLIC)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {sorted(_PUBLIC)}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__():
    return __all__
