"""Predict the values of genes with a scGPT: from genes that are known, or from vectors of cells."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float

from scduet.checkpoints import pretrained
from scduet.errors import DataError, OptionError, some
from scduet.train import device as devices
from scduet.transformer_model import Transformer
from scduet.transformers.inference.generation import generator, only, values_by_cell, values_by_genes, vectors
from scduet.transformers.objectives.pretraining import Generative

CELLS = 256  # vectors of cells decoded together


def generate(
    model: Transformer | str | Path,
    prompt: AnnData | Float[np.ndarray, "cell width"],
    genes: Sequence[str] | None = None,
    *,
    by: Literal["genes", "cell"] = "genes",
    given: Sequence[str] | None = None,
    accelerator: str = "auto",
    **how,
) -> AnnData:
    """Cells with the values of `genes` that `model` predicts for each cell of `prompt` (Cui et al. 2024).

    model: a scGPT with its heads, e.g. from `pretrain` with "scgpt" (or its folder).
    prompt: AnnData with raw counts. by="genes": the model is given the counts of the genes `given` that a cell
        expresses (None: all but `genes`). by="cell": it is given the vector of the cell alone, which it makes of all
        expressed genes that are `given`; vectors (cell x width) of `prompt_vectors` or means of them will do, too.
    genes: names to predict; None for all of the vocabulary that are not `given` (by="genes"), or for all.
    how: where counts and names of genes are, as for `Transformer.embed` (layer, gene_column, max_length, ...).

    Returns AnnData (cell, gene): X holds predicted bins, float32: 0 is no count, n_bins - 1 the highest of a cell.
    Raises DataError for unknown genes and for cells that express none of the given ones.
    """
    model = pretrained.given(model)
    if by not in ("genes", "cell"):
        raise OptionError(f"option 'by' cannot be {by!r}", "it is 'genes' or 'cell'")
    if by == "genes" and genes is None and given is None:
        raise OptionError("a gene prompt needs to know what to predict", "pass genes=, or given=")
    module, token = generator(model.name, model.encoder, model.head_weights), model.vocabulary.token
    wanted = _wanted(model, genes, given if by == "genes" else None)
    allowed = _allowed(model, given, wanted if by == "genes" and given is None else [])
    place = devices.choose(accelerator)
    module, allowed = module.to(place), allowed.to(place)
    asked = torch.tensor([token[gene] for gene in wanted], device=place)
    if isinstance(prompt, AnnData):
        _refuse_unprompted(model, prompt, allowed, how)
        if by == "genes":
            made = model.map(
                lambda t: values_by_genes(module, t, asked, allowed), prompt, accelerator=accelerator, **how
            )
            return _as_cells(made.numpy(), wanted, prompt.obs)  # pyright: ignore[reportAttributeAccessIssue]
        found = prompt_vectors(model, prompt, given, accelerator=accelerator, **how)
        obs = prompt.obs  # pyright: ignore[reportAttributeAccessIssue]
    else:
        found, obs = np.asarray(prompt, np.float32), None
    if by == "genes":
        raise OptionError("a gene prompt is cells with counts, not vectors", "pass an AnnData, or by='cell'")
    return _as_cells(_decoded(module, found, asked, model.encoder.config.trunk.width), wanted, obs)


def prompt_vectors(
    model: Transformer, adata: AnnData, given: Sequence[str] | None = None, *, accelerator: str = "auto", **how
) -> Float[np.ndarray, "cell width"]:
    """The vector of each cell that a cell prompt is made of, from its expressed genes that are `given` (None: all)."""
    place = devices.choose(accelerator)
    module = generator(model.name, model.encoder, model.head_weights).to(place)
    allowed = _allowed(model, given, []).to(place)
    found = model.map(lambda tokens: vectors(module, only(tokens, allowed)), adata, accelerator=accelerator, **how)
    return found.numpy()


def _wanted(model: Transformer, genes: Sequence[str] | None, given: Sequence[str] | None) -> list[str]:
    if genes is None:
        known = set(given or ())
        return [gene for gene in model.vocabulary.token if gene not in known]
    _refuse_unknown_genes(model, genes, "to predict")
    return list(genes)


def _allowed(model: Transformer, given: Sequence[str] | None, wanted: Sequence[str]) -> torch.Tensor:
    """Tokens that may be in a prompt: those given, or all but those wanted."""
    token = model.vocabulary.token
    if given is not None:
        _refuse_unknown_genes(model, given, "given", all_of_them=False)
    chosen = [g for g in given if g in token] if given is not None else set(token) - set(wanted)
    allowed = torch.zeros(model.encoder.genes().shape[0], dtype=torch.bool)
    allowed[[token[gene] for gene in chosen]] = True
    return allowed


def _refuse_unknown_genes(model: Transformer, genes: Sequence[str], what: str, all_of_them: bool = True) -> None:
    unknown = [gene for gene in genes if gene not in model.vocabulary.token]
    if len(unknown) == len(genes) or (unknown and all_of_them):
        message = f"{len(unknown)} of {len(genes)} genes {what} are not known to the model: {some(unknown)}"
        raise DataError(message, f"it knows names like {some(list(model.vocabulary.token)[:3])}")


def _refuse_unprompted(model: Transformer, prompt: AnnData, allowed: torch.Tensor, how: dict) -> None:
    resources = ("precision", "tokens_at_once", "callback")
    cells, tokenizer = model.prepared(prompt, **{name: value for name, value in how.items() if name not in resources})
    token = tokenizer.token  # type: ignore[attr-defined]
    useful = ((token >= 0) & allowed.cpu().numpy()[np.maximum(token, 0)]).astype(np.float32)
    source, empty = cells.counts, []
    for start in range(0, source.n_cells, 4_096):
        rows = np.arange(start, min(start + 4_096, source.n_cells))
        empty += rows[source.rows(rows) @ useful == 0].tolist()
    if empty:
        message = f"{len(empty)} cells of the prompt express none of the known genes: {some(prompt.obs_names[empty])}"
        raise DataError(message, "give more genes with given=, or remove these cells")


def _decoded(module: Generative, cells: np.ndarray, asked: torch.Tensor, width: int) -> np.ndarray:
    if cells.ndim != 2 or cells.shape[1] != width:
        raise DataError(f"vectors of shape {cells.shape} are not the model's", f"they are (cell, {width})")
    pieces = torch.from_numpy(cells).to(asked.device).split(CELLS)
    with torch.inference_mode():
        return np.concatenate([values_by_cell(module, piece, asked).float().cpu().numpy() for piece in pieces])


def _as_cells(values: np.ndarray, genes: list[str], obs: pd.DataFrame | None) -> AnnData:
    frame = obs.copy() if obs is not None else pd.DataFrame(index=[f"cell_{i}" for i in range(len(values))])
    return AnnData(values, obs=frame, var=pd.DataFrame(index=pd.Index(genes)))
