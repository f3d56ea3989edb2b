"""One call from counts to an integrated embedding."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from scduet.api import Model, fit
from scduet.errors import OptionError
from scduet.models import MODELS, key_of
from scduet.tasks.convert import add_embedding, check_target, file_size
from scduet.train import processes

if TYPE_CHECKING:
    from scduet.checkpoints.tuned import Tuned
    from scduet.transformers.pretrained import Pretrained


def integrate(
    adata,
    model: str | Path | Pretrained = "scvi",
    *,
    key_added: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    **options,
) -> Model | Tuned:
    """Train `model` on `adata` and write the embedding of its cells to obsm.

    adata: AnnData with raw counts (cell, gene); gains obsm[key_added], float32 (cell, latent). Or the path of an .h5ad
        or .zarr, whose counts stay on disk: then `output` says where the result goes.
    model: a name, or a scGPT (or its folder or "hf://" address) that is fine-tuned as in its paper.
    key_added: None for the field's name, e.g. "X_scVI".
    output: for a path: a copy of the file, with the embedding added, made beside this name and renamed when complete;
        it may be the file itself (with overwrite=True). There must be room for the copy.
    options: as for `fit`, e.g. batch_key, layer, n_latent, max_epochs; with a scGPT as for `finetune_integration`.

    Returns the model. Raises as `fit` does, and OptionError or FormatError for an output that cannot be written.
    """
    if not isinstance(model, str) or (model not in MODELS and _is_transformer(model)):
        return _by_transformer(adata, model, key_added, output, options)
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


def _is_transformer(model: str) -> bool:
    from scduet.checkpoints import pretrained  # compiles its tokenisers at import: only for who needs them

    return pretrained.recognise(model)


def _by_transformer(adata, model: str | Path | Pretrained, key_added: str | None, output, options: dict) -> Tuned:
    from scduet.tasks.finetune import finetune_integration

    if isinstance(adata, (str, os.PathLike)) or output is not None:
        raise OptionError("a transformer integrates cells in memory", "read the file first, and leave output out")
    if "batch_key" not in options:
        raise OptionError("a transformer needs batches to integrate", "pass batch_key=, or use embed_pretrained()")
    trained = finetune_integration(adata, model, **options)
    adata.obsm[key_added or trained.base.key] = trained.embed(adata)
    return trained
