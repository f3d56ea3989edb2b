"""Vectors of genes: those that a model learned, or the mean states of genes in cells."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from scduet.api import load
from scduet.capabilities import HasGeneEmbeddings, ReadsTokens, TrainedModel
from scduet.data.locate import locate_main
from scduet.errors import DataError, OptionError, some

MIN_CELLS = 10  # that hold a gene, or both genes of a pair, for what is learned from cells to count
Places = Int[np.ndarray, " gene"]  # columns of adata
How = Mapping[str, Any]  # where things are, resources, and the options of a transformer


def model_of(source: TrainedModel | str | Path) -> TrainedModel:
    """The model in a folder, or the one given."""
    return load(source) if isinstance(source, (str, Path)) else source


def encoder_of(model: TrainedModel) -> HasGeneEmbeddings:
    """The module, or the part of it, that has vectors of genes; after fine-tuning as that left it.

    Raises OptionError for a model without such vectors.
    """
    for part in (model.module, *model.module.children()):
        if isinstance(part, HasGeneEmbeddings):
            return part
    raise OptionError(f"{model.name!r} has no vectors of genes", "use e.g. scvi or ldvae")


def check_method(model: TrainedModel, method: str, how: How) -> dict[str, Any]:
    """`how`, as far as the model takes it. Raises OptionError for a method or for options that it does not have."""
    if isinstance(encoder_of(model), ReadsTokens):
        return dict(how)
    if method != "embedding":
        raise OptionError(f"{model.name!r} has no {method} vectors", "use method='embedding', or a transformer")
    further = [name for name in how if name not in ("layer", "accelerator")]
    if further:
        raise OptionError(f"{model.name!r} has no option {some(further)}", "leave it out")
    return {}


def known_genes(model: TrainedModel, adata, place: Places, how: How) -> tuple[Places, Places]:
    """Those of the genes at `place` that the model knows, and their rows in its table; of several with one the first.

    Raises DataError where it knows fewer than two.
    """
    row = model.gene_rows(adata, **{name: how[name] for name in ("layer", "gene_column") if name in how})[place]
    first = np.unique(row, return_index=True)[1]
    kept = np.sort(first[row[first] >= 0])
    if len(kept) < 2:
        raise DataError(f"the model knows {len(kept)} of these genes", f"it knows names like {some(model.features)}")
    return place[kept], row[kept]


def learned_vectors(model: TrainedModel, row: Places) -> Float[np.ndarray, "gene width"]:
    """The vectors that the model learned; of a transformer those that the first block reads."""
    with torch.inference_mode():
        return encoder_of(model).genes().float().cpu().numpy()[row]


def mean_states(model: Any, adata, token: Places, how: How) -> Float[np.ndarray, "gene width"]:
    """Mean state of each gene in the cells that express it, by a transformer; NaN for genes in fewer than ten."""
    names = {number: gene for gene, number in model.vocabulary.token.items()}
    vectors = model.embed_genes(adata, **how).reindex([names[number] for number in token]).to_numpy()
    counts = locate_main(adata, how["layer"]).values
    match = model.gene_rows(adata, layer=how["layer"], gene_column=how.get("gene_column"))
    express = np.asarray((counts > 0).sum(0)).ravel()
    held = np.bincount(match[match >= 0], express[match >= 0], minlength=int(token.max()) + 1)[token]
    return np.where((held >= MIN_CELLS)[:, None], vectors, np.nan)
