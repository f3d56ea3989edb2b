"""Plotting functions that return a matplotlib Figure without changing pyplot's state; imported on first use."""

from importlib import import_module

_FIGURES = {  # name -> module that defines it
    "embedding_panels": "scduet.plots.embedding",
    "training_curves": "scduet.plots.training",
    "scores": "scduet.plots.score_table",
    "tradeoff": "scduet.plots.score_table",
    "confusion": "scduet.plots.comparison",
    "mean_scatter": "scduet.plots.means",
    "perturbation": "scduet.plots.responses",
    "gene_network": "scduet.plots.network",
    "proportions": "scduet.plots.tissue",
    "spatial": "scduet.plots.tissue",
    "velocity": "scduet.plots.arrows",
    "phase_portraits": "scduet.plots.arrows",
    "categorical_colors": "scduet.plots.style",
    "save_figure": "scduet.plots.style",
}
__all__ = sorted(_FIGURES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _FIGURES:
        raise AttributeError(f"module 'scduet.plots' has no attribute {name!r}")
    return getattr(import_module(_FIGURES[name]), name)


def __dir__():
    return __all__
