"""One call from counts to an integrated embedding."""

from __future__ import annotations

import os
from pathlib import Path

from scduet.api import fit, is_transformer
from scduet.capabilities import TrainedModel
from scduet.data import checks
from scduet.errors import OptionError
from scduet.io.cells import add_embedding, check_target, file_size
from scduet.models import name_of
from scduet.options import options_of, refuse_unknown
from scduet.tasks.genes.variable_genes import choose_genes
from scduet.tasks.posterior.clusters import cluster_cells, has_clusters
from scduet.tasks.quality.provenance import made_by, note
from scduet.train.defaults import lists_options
from scduet.train.group import is_first


@lists_options
def integrate(
    adata,
    model: str | type | Path | TrainedModel = "scvi",
    *,
    n_top_genes: int | None = None,
    key_added: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    **options,
) -> TrainedModel:
    """Train `model` on `adata` and write the embedding of its cells to obsm.

    adata: AnnData with raw counts (cell, gene); gains obsm[key_added], float32 (cell, latent), and of a model that
        learns clusters obs as of `cluster_cells`. Or the path of an .h5ad or .zarr, whose counts stay on disk: then
        `output` says where the embedding goes.
    model: a name, a class of your own as in `fit`, or a scGPT (or its folder or "hf://" address) that is fine-tuned as
        in its paper.
    n_top_genes: train on so many highly variable genes, e.g. 2000, chosen within batches by scanpy's flavor "seurat" on
        a log-normalized copy of the counts. Writes var["highly_variable"] and what scanpy writes beside it, in place of
        an earlier choice. None: the genes of var["highly_variable"] if it is there, else all.
    key_added: None for the field's name, e.g. "X_scVI".
    output: for a path: a copy of the file, with the embedding added, made beside this name and renamed when complete;
        it may be the file itself (with overwrite=True). There must be room for the copy.
    options: as for `fit`, listed below; with a scGPT as for `finetune_integration`, or with protein_key or peaks_key as
        for `finetune_multiomic`.

    Returns the model. Raises as `fit` does, and OptionError or FormatError for an output that cannot be written.
    """
    if is_transformer(model):
        if n_top_genes is not None:
            raise OptionError("a transformer takes the genes of its vocabulary", "leave n_top_genes out")
        return _by_transformer(adata, model, key_added, output, options)
    name, on_disk = name_of(model), isinstance(adata, (str, os.PathLike))
    if on_disk != (output is not None):
        raise OptionError("output= is for a file and missing" if on_disk else "output= is for a file, not an AnnData")
    if not on_disk:
        checks.check_cells(adata)
    if n_top_genes is not None:
        _refuse_choice(adata, name, options)
    if output is not None:
        check_target(output, overwrite, file_size(adata), endings=(Path(adata).suffix.lower(),))
    if n_top_genes is not None:
        choose_genes(adata, n_top_genes, options)
    trained = fit(adata, name, **options)
    key = key_added or trained.key
    if output is None:
        adata.obsm[key] = trained.embed()
        note(adata, key, made_by(trained))
        if has_clusters(trained):
            cluster_cells(trained, adata)
    elif is_first():
        add_embedding(adata, output, key, trained.embed(), made_by(trained))
    return trained


def _refuse_choice(adata, model: str, options: dict) -> None:
    """Refuse what n_top_genes cannot go with, and unknown options, before genes are chosen."""
    if isinstance(adata, (str, os.PathLike)) or getattr(adata, "isbacked", False):
        remedy = "choose genes on a sample of the cells, and pass their names as genes="
        raise OptionError("n_top_genes needs the counts in memory", remedy)
    if options.get("genes") is not None:
        raise OptionError("genes= and n_top_genes= both say which genes to use", "pass one of them")
    refuse_unknown(
        options, ["callback", "checkpoint", "start", *(o.name for o in options_of(model))], f"model {model!r}"
    )
    if options.get("start") is not None:
        raise OptionError("the model to start from fixes the genes", "leave n_top_genes out")


def _by_transformer(adata, model, key_added: str | None, output, options: dict) -> TrainedModel:
    from scduet.tasks.foundation.finetune import finetune_integration
    from scduet.tasks.foundation.multiomic import finetune_multiomic

    if isinstance(adata, (str, os.PathLike)) or output is not None:
        raise OptionError("a transformer integrates cells in memory", "read the file first, and leave output out")
    several = any(options.get(name) is not None for name in ("protein_key", "peaks_key"))
    if "batch_key" not in options and not several:
        raise OptionError("a transformer needs batches to integrate", "pass batch_key=, or use embed_pretrained()")
    trained = (finetune_multiomic if several else finetune_integration)(adata, model, **options)
    key = key_added or trained.key
    adata.obsm[key] = trained.embed(adata)
    note(adata, key, made_by(trained))
    return trained
