"""Vectors of genes: of a fitted model, of a transformer's table, or the mean states of genes in cells."""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from scduet.api import Model, load
from scduet.capabilities import Generates, KnowsGenes
from scduet.checkpoints.tuned import Tuned
from scduet.errors import DataError, OptionError, some
from scduet.transformers.inference.pretrained import Pretrained

MIN_CELLS = 10  # that hold a gene, or both genes of a pair, for what is learned from cells to count
Places = Int[np.ndarray, " gene"]  # columns of adata
AnyModel = Model | Pretrained | Tuned | str | Path


def model_of(source: AnyModel) -> Model | Pretrained:
    """The model in a folder, or the one given; of a fine-tuned transformer the encoder as tuning left it."""
    model = load(source) if isinstance(source, (str, Path)) else source
    if isinstance(model, Tuned):
        return replace(model.base, module=model.module.get_submodule("encoder"))  # pyright: ignore[reportArgumentType]
    return model


def vectors_of_model(model: Model, adata, place: Places) -> tuple[Places, Float[np.ndarray, "gene width"]]:
    """Vectors that a fitted model learned for those of the genes at `place` that it knows.

    Raises OptionError for a model without such vectors, DataError where it knows fewer than two of the genes.
    """
    module = model.module
    if not isinstance(module, KnowsGenes) and isinstance(module, Generates):
        module = module.vae
    if not isinstance(module, KnowsGenes):
        raise OptionError(f"{model.name!r} has no vectors of genes", "use e.g. scvi or ldvae")
    row = pd.Index(model.genes).get_indexer(adata.var_names[place])
    _need_two(int((row >= 0).sum()), "the model", model.genes)
    return place[row >= 0], module.genes().detach().float().cpu().numpy()[row[row >= 0]]


def known_to_checkpoint(model: Pretrained, adata, place: Places, how: dict) -> tuple[Places, Places]:
    """Those of the genes at `place` that a transformer knows, and their tokens; of several with one token the first."""
    match = model.match(adata, layer=how["layer"], gene_column=how.get("gene_column"))
    token = match.token[place]
    first = np.unique(token, return_index=True)[1]
    kept = np.sort(first[token[first] >= 0])
    _need_two(len(kept), "the checkpoint", model.vocabulary.token)
    return place[kept], token[kept]


def learned_vectors(model: Pretrained, token: Places) -> Float[np.ndarray, "gene width"]:
    """The vectors that the first block reads."""
    with torch.inference_mode():
        return model.module.genes().float().cpu().numpy()[token]


def mean_states(model: Pretrained, adata, token: Places, how: dict) -> Float[np.ndarray, "gene width"]:
    """Mean state of each gene in the cells that express it; NaN for genes in fewer than ten."""
    names = {number: gene for gene, number in model.vocabulary.token.items()}
    vectors = model.embed_genes(adata, **how).reindex([names[number] for number in token]).to_numpy()
    counts = adata.X if how["layer"] is None else adata.layers[how["layer"]]
    match = model.match(adata, layer=how["layer"], gene_column=how.get("gene_column")).token
    express = np.asarray((counts > 0).sum(0)).ravel()
    held = np.bincount(match[match >= 0], express[match >= 0], minlength=int(token.max()) + 1)[token]
    return np.where((held >= MIN_CELLS)[:, None], vectors, np.nan)


def _need_two(n: int, what: str, known) -> None:
    if n < 2:
        raise DataError(f"{what} knows {n} of these genes", f"it knows names like {some(list(known))}")
