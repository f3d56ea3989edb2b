"""One call from counts to an integrated embedding."""

from __future__ import annotations

from scduet.api import Model, fit

KEYS = {"scvi": "X_scVI", "scanvi": "X_scANVI"}  # obsm keys of the field; the rest are "X_" and the model's name


def integrate(adata, model: str = "scvi", *, key_added: str | None = None, **options) -> Model:
    """Train `model` on `adata` and write the embedding of its cells to obsm.

    adata: AnnData with raw counts (cell, gene); gains obsm[key_added], float32 (cell, latent).
    key_added: None for the field's name, e.g. "X_scVI".
    options: as for `fit`, e.g. batch_key, layer, n_latent, max_epochs.

    Returns the model. Raises as `fit` does.
    """
    trained = fit(adata, model, **options)
    adata.obsm[key_added or key_of(model)] = trained.embed()
    return trained


def key_of(model: str) -> str:
    """Where the embedding of `model` goes in obsm."""
    return KEYS.get(model, f"X_{model}")
