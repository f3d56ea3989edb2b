"""scduet: deep generative models and transformers for single-cell counts, in Python and R.

The names below are imported on first use, so that `import scduet` costs no torch.
"""

from importlib import import_module
from typing import Any

from scduet._version import __version__

_PUBLIC = {  # name -> module that defines it; a submodule stands for itself
    "Model": "scduet.api",
    "fit": "scduet.api",
    "CellLoader": "scduet.data.cell_loader",
    "load": "scduet.api",
    "check_model": "scduet.tasks.quality.check_model",
    "integrate": "scduet.tasks.workflows.integrate",
    "annotate": "scduet.tasks.workflows.annotate",
    "map_query": "scduet.tasks.workflows.map_query",
    "prepare_query": "scduet.tasks.workflows.map_query",
    "predict": "scduet.tasks.workflows.annotate",
    "cluster_cells": "scduet.tasks.posterior.clusters",
    "normalized_expression": "scduet.tasks.posterior.expression",
    "protein_foreground": "scduet.tasks.multimodal.protein_foreground",
    "find_doublets": "scduet.tasks.workflows.doublets",
    "predict_modality": "scduet.tasks.multimodal.predict_modality",
    "match_cells": "scduet.tasks.multimodal.match_cells",
    "weighted_neighbors": "scduet.tasks.multimodal.weighted_neighbors",
    "denoise": "scduet.tasks.workflows.denoise",
    "compare_denoisers": "scduet.tasks.workflows.compare_denoisers",
    "posterior_predictive_sample": "scduet.tasks.posterior.sampling",
    "sample_states": "scduet.tasks.posterior.sampling",
    "feature_correlation": "scduet.tasks.posterior.sampling",
    "likelihood_parameters": "scduet.tasks.posterior.likelihoods",
    "latent_library_size": "scduet.tasks.posterior.likelihoods",
    "loadings": "scduet.tasks.genes.gene_parameters",
    "zero_inflation": "scduet.tasks.genes.gene_parameters",
    "elbo": "scduet.tasks.posterior.likelihoods",
    "reconstruction_error": "scduet.tasks.posterior.likelihoods",
    "marginal_log_likelihood": "scduet.tasks.posterior.likelihoods",
    "deconvolve": "scduet.tasks.spatial.deconvolve",
    "deconvolve_bulk": "scduet.tasks.spatial.deconvolve_bulk",
    "impute_genes": "scduet.tasks.spatial.impute_genes",
    "differential_expression": "scduet.tasks.comparison.differential_expression",
    "pseudobulk": "scduet.tasks.comparison.pseudobulk",
    "differential_accessibility": "scduet.tasks.multimodal.differential_accessibility",
    "normalized_accessibility": "scduet.tasks.multimodal.accessibility",
    "region_factors": "scduet.tasks.multimodal.accessibility",
    "cell_factors": "scduet.tasks.multimodal.accessibility",
    "reads_to_fragments": "scduet.tasks.multimodal.accessibility",
    "calibration": "scduet.tasks.comparison.calibration",
    "differential_abundance": "scduet.tasks.comparison.abundance",
    "posterior_predictive_check": "scduet.tasks.posterior.predictive_check",
    "minify": "scduet.tasks.workflows.minify",
    "interpolate": "scduet.tasks.posterior.decode_states",
    "shift": "scduet.tasks.perturbation.shift",
    "predict_perturbation": "scduet.tasks.perturbation.predict_perturbation",
    "score_perturbation": "scduet.tasks.perturbation.score_perturbation",
    "rank_perturbations": "scduet.tasks.perturbation.rank_perturbations",
    "decode_states": "scduet.tasks.posterior.decode_states",
    "generate_cells": "scduet.tasks.generation.generate_cells",
    "score_generated": "scduet.tasks.generation.score_generated",
    "embed_pretrained": "scduet.tasks.workflows.embed_pretrained",
    "finetune": "scduet.tasks.foundation.finetune",
    "evaluate": "scduet.tasks.foundation.finetune",
    "pretrain": "scduet.tasks.foundation.pretrain",
    "generate": "scduet.tasks.foundation.generate",
    "gene_network": "scduet.tasks.genes.gene_network",
    "gene_programs": "scduet.tasks.genes.gene_programs",
    "program_scores": "scduet.tasks.genes.programs",
    "program_genes": "scduet.tasks.genes.programs",
    "differential_programs": "scduet.tasks.genes.programs",
    "node_weights": "scduet.tasks.genes.node_weights",
    "read_gmt": "scduet.data.tables",
    "enrichment": "scduet.tasks.genes.gene_sets",
    "perturb_in_silico": "scduet.tasks.foundation.perturb_in_silico",
    "predict_genes": "scduet.tasks.genes.predict_genes",
    "velocity": "scduet.tasks.velocity.velocity",
    "velocity_moments": "scduet.tasks.velocity.prepare",
    "velocity_embedding": "scduet.tasks.velocity.velocity",
    "compare_velocity": "scduet.tasks.velocity.velocity",
    "velocity_uncertainty": "scduet.tasks.velocity.draws",
    "permutation_scores": "scduet.tasks.velocity.draws",
    "recommend": "scduet.tasks.workflows.recommend",
    "convert": "scduet.interop.r_files",
    "read_rds": "scduet.interop.rds",
    "score": "scduet.tasks.quality.score",
    "report": "scduet.reports",
    "export_viewer": "scduet.tasks.workflows.export_viewer",
    "cite": "scduet.tasks.quality.cite",
    "datasets": "scduet.interop.datasets",
    "metrics": "scduet.metrics",
    "pl": "scduet.plots",
}
__all__ = ["__version__", *sorted(_PUBLIC)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'scduet' has no attribute {name!r}")
    module = import_module(_PUBLIC[name])
    value = module if name in ("datasets", "metrics", "pl") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
