"""One call from counts to an integrated embedding."""

from __future__ import annotations

import os
from pathlib import Path

from scduet.api import Model, fit
from scduet.errors import OptionError
from scduet.tasks.convert import add_embedding, check_target, file_size
from scduet.train import processes

KEYS = {"scvi": "X_scVI", "scanvi": "X_scANVI"}  # obsm keys of the field; the rest are "X_" and the model's name


def integrate(
    adata,
    model: str = "scvi",
    *,
    key_added: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    **options,
) -> Model:
    """Train `model` on `adata` and write the embedding of its cells to obsm.

    adata: AnnData with raw counts (cell, gene); gains obsm[key_added], float32 (cell, latent). Or the path of an .h5ad
        or .zarr, whose counts stay on disk: then `output` says where the result goes.
    key_added: None for the field's name, e.g. "X_scVI".
    output: for a path: a copy of the file, with the embedding added, made beside this name and renamed when complete;
        it may be the file itself (with overwrite=True). There must be room for the copy.
    options: as for `fit`, e.g. batch_key, layer, n_latent, max_epochs.

    Returns the model. Raises as `fit` does, and OptionError or FormatError for an output that cannot be written.
    """
    on_disk = isinstance(adata, (str, os.PathLike))
    if on_disk != (output is not None):
        raise OptionError("output= is for a file and missing" if on_disk else "output= is for a file, not an AnnData")
    if output is not None:
        check_target(output, overwrite, file_size(adata), endings=(Path(adata).suffix.lower(),))
    trained, key = fit(adata, model, **options), key_added or key_of(model)
    if output is None:
        adata.obsm[key] = trained.embed()
    elif processes.is_first():
        add_embedding(adata, output, key, trained.embed())
    return trained


def key_of(model: str) -> str:
    """Where the embedding of `model` goes in obsm."""
    return KEYS.get(model, f"X_{model}")
