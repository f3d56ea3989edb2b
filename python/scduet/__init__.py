"""scduet: deep generative models and transformers for single-cell counts, in Python and R.

The names below are imported on first use, so that `import scduet` costs no torch.
"""

from importlib import import_module
from typing import Any

from scduet._version import __version__

_PUBLIC = {  # name -> module that defines it; a submodule stands for itself
    "Model": "scduet.api",
    "fit": "scduet.api",
    "load": "scduet.api",
    "integrate": "scduet.tasks.integrate",
    "annotate": "scduet.tasks.annotate",
    "map_query": "scduet.tasks.map_query",
    "prepare_query": "scduet.tasks.map_query",
    "predict": "scduet.tasks.annotate",
    "normalized_expression": "scduet.tasks.expression",
    "posterior_predictive_sample": "scduet.tasks.sampling",
    "sample_states": "scduet.tasks.sampling",
    "feature_correlation": "scduet.tasks.sampling",
    "likelihood_parameters": "scduet.tasks.likelihoods",
    "latent_library_size": "scduet.tasks.likelihoods",
    "loadings": "scduet.tasks.gene_parameters",
    "zero_inflation": "scduet.tasks.gene_parameters",
    "elbo": "scduet.tasks.likelihoods",
    "reconstruction_error": "scduet.tasks.likelihoods",
    "marginal_log_likelihood": "scduet.tasks.likelihoods",
    "differential_expression": "scduet.tasks.differential_expression",
    "calibration": "scduet.tasks.calibration",
    "differential_abundance": "scduet.tasks.abundance",
    "criticise": "scduet.tasks.criticism",
    "minify": "scduet.tasks.minify",
    "interpolate": "scduet.tasks.latent",
    "shift": "scduet.tasks.shift",
    "decode_states": "scduet.tasks.latent",
    "embed_pretrained": "scduet.tasks.embed_pretrained",
    "finetune": "scduet.tasks.finetune",
    "evaluate": "scduet.tasks.finetune",
    "pretrain": "scduet.tasks.pretrain",
    "generate": "scduet.tasks.generate",
    "gene_network": "scduet.tasks.gene_network",
    "gene_programs": "scduet.tasks.gene_programs",
    "read_gmt": "scduet.data.gene_sets",
    "enrichment": "scduet.tasks.gene_sets",
    "perturb_in_silico": "scduet.tasks.perturb_in_silico",
    "predict_genes": "scduet.tasks.predict_genes",
    "recommend": "scduet.tasks.recommend",
    "read_rds": "scduet.interop.rds",
    "score": "scduet.tasks.score",
    "report": "scduet.reports",
    "datasets": "scduet.data.datasets",
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
