"""Train a transformer on the user's own cells, without labels: from nothing, or on from a published one."""

from __future__ import annotations

from scduet._torch import torch

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from scduet.api import train_module
from scduet.checkpoints import pretrained
from scduet.data import checks
from scduet.data.main_matrix import with_layer
from scduet.data.schema import Fields, Schema
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.events import Listener
from scduet.nn.random import own_random_numbers
from scduet.options import build, refuse_unknown
from scduet.tasks.foundation.finetune import option_names, run_in
from scduet.train.config import TrainConfig
from scduet.train.group import reporter
from scduet.transformer_model import Transformer
from scduet.transformers.families.scratch import NEW, Size
from scduet.transformers.inference.embedding import SAME, spread
from scduet.transformers.objectives.pretraining import OBJECTIVES, head_weights
from scduet.transformers.tokenizers.tokens import WithCodes

OTHER_WAYS: dict[str, tuple[dict[str, Any], ...]] = {  # to embed, in the order of preference
    "geneformer": ({"pooling": "mean"}, {"pooling": "mean", "emb_layer": 0})
}
LOOKED_AT = 200  # cells whose vectors tell whether an embedding tells cells apart
RECIPE = dict(max_epochs=20, batch_size=32, lr=5e-4, weight_decay=0.0, adam_eps=1e-8, clip_gradient=1.0)


def pretrain(
    adata,
    model: str | Path | Transformer = "geneformer",
    *,
    layer: str | None = None,
    gene_column: str | None = None,
    callback: Listener | None = None,
    checkpoint: str | Path | None = None,
    **options,
) -> Transformer:
    """Pre-train a transformer on the cells of `adata`.

    adata: AnnData with raw counts (cell, gene) in X or `layer`. Not changed.
    model: "geneformer" (masked genes) or "scgpt" (values of genes from those of others): a new one whose vocabulary is
        the genes of `adata` with counts. Or a transformer of these families, or its folder, to train further.
    gene_column: column of var with the names of genes to take; None: var_names (looked for, in training further).
    checkpoint: a folder for the state of the run; an interrupted run resumes from it.
    options: of `transformers.scratch.Size` (width, n_layers, max_length, gradient_checkpointing, ...), of the objective
        (mask_share of Geneformer; asked_shares and zeros of scGPT) and of TrainConfig (max_epochs, lr, seed, ...).

    Returns a transformer like a loaded one, with `history` and `save`. Under torchrun the processes share the cells.
    Raises OptionError for an option that the family does not have, DataError for cells that cannot be used.
    """
    checks.check_cells(adata)
    base = _base(model)
    family = str(model) if base is None else base.name
    if family not in OBJECTIVES:
        raise OptionError(f"{family!r} cannot be pre-trained here", f"choose from {some(OBJECTIVES)}")
    objective = OBJECTIVES[family]
    refuse_unknown(options, option_names(Size, objective.Config), f"pre-training {family!r}")
    size, config = build(Size, options), build(objective.Config, options)
    training = build(TrainConfig, {**RECIPE, **options})
    with own_random_numbers(training.seed):
        start = base or _new(adata, family, size, layer, gene_column)
        tokens: dict[str, Any] = {"max_length": size.max_length} if base is None or "max_length" in options else {}
        cells, tokenizer = start.prepared(adata, layer=layer, gene_column=gene_column, **tokens)
        module = objective(copy.deepcopy(start.module), _tokens(tokenizer), config)
    _take_heads(module, head_weights(module, family, start.head_weights))
    state = run_in(checkpoint, adata.obs_names, start, cells, training, config, tokens)
    module.encoder.trunk.recomputes = size.gradient_checkpointing
    trained = _trained(start, module, replace(cells, label=None), WithCodes(tokenizer), training, callback, state)
    return _with_pooling(trained, adata, layer=layer, gene_column=gene_column)


def _trained(start: Transformer, module, cells, make_batch, training: TrainConfig, callback, state) -> Transformer:
    listener = reporter(callback)
    _, outcome = train_module(module, cells, training, listener, make_batch, state)
    module.encoder.trunk.recomputes = False
    heads = {name: weight for name, weight in module.state_dict().items() if not name.startswith("encoder.")}
    made = replace(start, module=module.encoder.eval(), head_weights=heads, outcome=outcome, options={})
    return listener.handed_over(made)


def _with_pooling(model: Transformer, adata, **where) -> Transformer:
    """`model`, embedding by the mean over genes if its usual vector is nearly the same in all cells; warns of it.

    Geneformer's loss never looks at <cls>, so that in a small model it may tell cells apart badly, and before the first
    block it is the same in every cell.
    """
    if model.name not in OTHER_WAYS:
        return model
    n = min(adata.n_obs, LOOKED_AT)
    cells = adata[np.sort(np.random.default_rng(0).choice(adata.n_obs, n, replace=False))]
    here = next(model.module.parameters()).device.type
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScduetWarning)  # that they are the same is said once, below
        ways: list[dict[str, Any]] = [{}, *OTHER_WAYS[model.name]]
        usual, *others = (spread(model.embed(cells, accelerator=here, **where, **how)) for how in ways)
    if usual >= SAME or max(others) < SAME:
        return model
    best = OTHER_WAYS[model.name][int(np.argmax(np.array(others) >= SAME))]
    told = ", ".join(f"{name}={value!r}" for name, value in best.items())
    message = f"the usual vector of this {model.name} is nearly the same for all cells (they differ by {usual:.1%})"
    warnings.warn(f"{message}: it embeds with {told} instead", ScduetWarning, stacklevel=3)
    return replace(model, options=best)


def _base(model: str | Path | Transformer) -> Transformer | None:
    """The transformer to go on from; None for a new one."""
    if isinstance(model, str) and model in OBJECTIVES:
        return None
    if isinstance(model, str) and not pretrained.recognize(model):
        raise OptionError(f"{model!r} is neither a family nor a folder of a transformer", f"try {some(OBJECTIVES)}")
    return pretrained.given(model)


def _tokens(tokenizer) -> np.ndarray:
    """Tokens of the genes of the data."""
    return np.unique(tokenizer.token[tokenizer.token >= 0])


def _new(adata, family: str, size: Size, layer: str | None, gene_column: str | None) -> Transformer:
    """A transformer with random weights, whose vocabulary is the genes of the data."""
    if gene_column is not None and gene_column not in adata.var:
        raise DataError(f"no column {gene_column!r} in adata.var", f"it has {some(adata.var.columns, 12)}")
    names = pd.Index(adata.var_names if gene_column is None else adata.var[gene_column].astype(str))
    if not names.is_unique:
        repeated = names[names.duplicated()].unique()
        raise DataError(f"{len(repeated)} genes occur more than once: {some(repeated)}", "make their names unique")
    adata, layer = with_layer(adata, layer)
    cells = Schema.learn(adata, Fields(layer=layer, genes=tuple(adata.var_names))).encode(adata)
    return Transformer(family, NEW[family](names, cells, size), "the user's own")  # pyright: ignore[reportArgumentType]


def _take_heads(module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Go on from trained heads, where all of them are there and fit."""
    needed = {name: value.shape for name, value in module.state_dict().items() if not name.startswith("encoder.")}
    if all(name in weights and weights[name].shape == shape for name, shape in needed.items()):
        module.load_state_dict({name: weights[name] for name in needed}, strict=False)
