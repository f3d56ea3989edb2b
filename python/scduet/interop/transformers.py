"""What R asks of transformers: vectors, perturbed and predicted genes, training. Objects in, what R keeps out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

import scduet
from scduet.errors import FormatError, OptionError
from scduet.interop import codec, objects
from scduet.interop.kept_models import keep, saved
from scduet.interop.models import Genes, Scored, listener, scored
from scduet.interop.options import Options, call

R_NAMES = {"geneformer": "RunGeneformer", "scgpt": "RunScGPT", "scfoundation": "RunScFoundation"}


@dataclass(frozen=True)
class Embedded:
    """Vectors of cells (R's cell x dimension), what made them, and with labels how good they are."""

    facts: dict[str, Any]
    embedding: objects.Block
    scores: Scored | None


@dataclass(frozen=True)
class Perturbed:
    """One row for each set of genes, and the values of every cell."""

    genes: list[codec.Column]
    cells: list[codec.Column]


def embed_pretrained(
    adata, folder: str, family: str | None, options: Options, callback: Callable | None = None
) -> Embedded:
    """Embed the cells with the transformer in `folder`, which must be of `family` if that is given."""
    model = _read(folder, family)
    table = call(scduet.embed_pretrained, adata, model, callback=listener(callback), options=options)
    facts = {"model": model.name, "folder": folder, "licence": model.licence, "version": scduet.__version__}
    return Embedded(facts, objects.block(adata.obsm[model.key].T), None if table is None else scored(table))


def embed_genes(folder: str, adata=None, options: Options = ()) -> Genes:
    """Vectors of the genes (R's gene x dimension): those learned, or the means of their states in the cells."""
    table = call(_read(folder).embed_genes, adata, options=options)
    return Genes(codec.as_text(table.index), objects.block(table.to_numpy().T))


def perturb_genes(
    adata, folder: str, genes: dict[str, list[str]], options: Options, callback: Callable | None = None
) -> Perturbed:
    """In-silico perturbation of each set of genes with the Geneformer in `folder`."""
    table = call(scduet.perturb_in_silico, saved(folder), adata, genes, callback=listener(callback), options=options)
    return Perturbed(codec.columns_of(table.reset_index()), codec.columns_of(table.attrs["cells"]))


@dataclass(frozen=True)
class Told:
    """How well each method predicts genes, and what the model says of every one."""

    methods: list[codec.Column]
    genes: list[codec.Column]


def predict_genes(adata, known: pd.DataFrame, folder: str, sha256: str | None, options: Options) -> Told:
    """Classes or numbers of genes by a saved model (`sha256` known) or by the transformer in `folder`."""
    model = saved(folder, sha256)
    by_gene = pd.Series(known["known"].to_numpy(), index=known["gene"].astype(str))
    table = call(scduet.predict_genes, model, by_gene, adata, options=options)
    genes = table.attrs["genes"].rename_axis("gene").reset_index()
    return Told(codec.columns_of(table.reset_index()), codec.columns_of(genes))


def pretrain(
    adata, model: str, options: Options, to: str, overwrite: bool, callback: Callable | None = None
) -> list[codec.Column]:
    """Pre-train a transformer and save it in `to`; its training curves."""
    start = saved(model) if os.path.isdir(model) else model
    trained = call(scduet.pretrain, adata, start, callback=listener(callback), options=options)
    return _written(trained, to, overwrite)


def finetune(
    adata, folder: str, labels: str, options: Options, to: str, overwrite: bool, callback: Callable | None = None
) -> list[codec.Column]:
    """Teach the transformer in `folder` the cell types, save what was trained in `to`; its training curves."""
    trained = call(scduet.finetune, adata, saved(folder), labels, callback=listener(callback), options=options)
    return _written(trained, to, overwrite)


def _written(trained, to: str, overwrite: bool) -> list[codec.Column]:
    """Save a transformer, and keep it in memory for the next call of R; its training curves."""
    trained.save(to, overwrite)
    return codec.columns_of(keep(replace(trained, origin=to), to).history.reset_index())


def _read(folder: str, family: str | None = None):
    model = saved(folder)
    if model.name not in R_NAMES:
        raise FormatError(f"{folder} holds {model.name!r}, which is no transformer", "pass the folder of a transformer")
    if family is not None and model.name != family:
        raise OptionError(f"{folder} is a folder of {model.name}, not of {family}", f"use {R_NAMES[model.name]}()")
    return model
