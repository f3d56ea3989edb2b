"""Teach a transformer the cell types of labeled cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from scduet.api import train_module
from scduet.checkpoints import pretrained
from scduet.checkpoints.transformer_folder import Parts, Tuning, rebuilt
from scduet.data import checks
from scduet.data.labels import labels_of
from scduet.data.levels import absent, batch_codes, coded, kind_of, places_of
from scduet.data.main_matrix import with_layer
from scduet.data.samplers import split
from scduet.data.schema import Fields, Schema
from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError, some
from scduet.events import Listener
from scduet.io.native import fingerprint
from scduet.metrics.transfer import accuracy, macro_f1
from scduet.nn.random import own_random_numbers
from scduet.options import build, refuse_unknown
from scduet.train import resume
from scduet.train.config import TrainConfig
from scduet.train.group import reporter
from scduet.train.resume import Checkpoint
from scduet.transformer_model import Transformer
from scduet.transformers.objectives import integration
from scduet.transformers.objectives.finetune import Config
from scduet.transformers.tokenizers.tokens import WithCodes

RECIPE = dict(max_epochs=10, batch_size=32, weight_decay=0.0, adam_eps=1e-8, clip_gradient=1.0)  # scGPT's tutorials
STEPS, EPOCHS = 600, (15, 100)  # of integration: scGPT's epochs, but more for few cells, whose types are else lost
RATES = {"lora": 1e-3, "full": 1e-4, "last": 1e-4, "frozen": 1e-3}  # new weights bear a higher rate than trained ones


def finetune(
    adata,
    model: Transformer | str | Path,
    labels_key: str,
    *,
    unlabeled_category: str = "Unknown",
    layer: str | None = None,
    gene_column: str | None = None,
    max_length: int | None = None,
    callback: Listener | None = None,
    checkpoint: str | Path | None = None,
    **options,
) -> Transformer:
    """Train a head on `model` that tells the cell types obs[labels_key], and with it what option `tuning` names.

    adata: AnnData with raw counts (cell, gene) in X or `layer`; cells without a label are left out. Not changed.
    model: a transformer, its folder or "hf://" address; it stays as it is, what is returned holds a copy.
    gene_column: column of var with the names of genes; None looks for it. max_length: most tokens of a cell.
    checkpoint: a folder for the state of the run; an interrupted run resumes from it.
    options: of `transformers.finetune.Config` (tuning "lora", "full", "last" or "frozen", rank, ...) and TrainConfig.

    Returns a model with `predict`, `embed`, `history` and `save`, which writes only what was trained.
    Raises DataError for fewer than two types, a type with a single cell, or one with no cell among those trained on.
    """
    checks.check_cells(adata)
    base = pretrained.given(model)
    refuse_unknown(options, option_names(Config), f"fine-tuning {base.name!r}")
    labels, column = labels_of(adata, labels_key, unlabeled_category)
    known = labels != np.array(None)
    names, codes = np.unique(labels[known].astype(str), return_inverse=True)
    _check_min_cells(names, codes, labels_key)
    training = build(TrainConfig, {**RECIPE, "lr": RATES.get(options.get("tuning", "lora")), **options})
    _check_types_in_train_split(names, codes, training)
    tokens = tokens_options(layer, gene_column, max_length)
    cells, tokenizer = base.prepared(adata[known], **tokens)
    cells = replace(cells, label=codes.astype(np.int64))
    levels, kept = tuple(map(str, names)), (checkpoint, zip(adata.obs_names[known], codes, strict=True))
    made = tuned("annotation", base, labels_key, levels, options, tokens, cells, tokenizer, training, callback, kept)
    values = kind_of([column.own[name] for name in levels])
    return replace(made, tuning=replace(made.tuning, values=values))  # pyright: ignore[reportArgumentType]


def tuned(task, base, key, levels, options, tokens, cells: Cells, tokenizer, training, callback, kept) -> Transformer:
    """Build the module of a task on a copy of `base`, and train it on `cells`.

    kept: the folder for the state of the run (None: none), and the names and codes of the cells.
    """
    with own_random_numbers(training.seed):
        given = {name: value for name, value in options.items() if name not in option_names()}
        module, config = rebuilt(task, base.module, len(levels), given)
    folder, names = kept
    told = {**tokens, "task": task, "key": key, "levels": levels}
    state = run_in(folder, names, base, cells, training, config, told)
    listener = reporter(callback)
    training, outcome = train_module(module, cells, training, listener, WithCodes(tokenizer), state)
    tuning = Tuning(task, key, levels, config, training, Parts(**vars(base)))
    made = replace(base, module=module, head_weights={}, outcome=outcome, options=tokens, tuning=tuning)
    return listener.handed_over(made)


def run_in(
    folder, names, base: Transformer, cells: Cells, training, config, more: Mapping[str, Any]
) -> Checkpoint | None:
    """What keeps the state of a run in `folder`, and tells it from runs on other cells, weights or options."""
    if folder is None:
        return None
    run = {"model": base.name, "weights": fingerprint(base.module.state_dict())}
    run["cells"] = resume.fingerprint(cells, names)
    return Checkpoint(folder, {**run, **asdict(config), **asdict(training), **more})


def finetune_integration(
    adata,
    model: Transformer | str | Path,
    batch_key: str,
    *,
    layer: str | None = None,
    gene_column: str | None = None,
    max_length: int = 1_200,
    zeros: bool = True,
    callback: Listener | None = None,
    checkpoint: str | Path | None = None,
    **options,
) -> Transformer:
    """Train a scGPT to embed the cells of the batches obs[batch_key] together. `integrate` calls this.

    zeros: genes without counts are tokens, too, as in the official recipe; take highly variable genes then, for of more
        than max_length - 1 genes each cell keeps a random choice. False is faster.
    options: of `transformers.integration.Config` (mask_ratio, similarity_weight, ...) and TrainConfig. By default 15
        epochs, as in the paper, or as many (to 100) as 600 steps need; lr 1e-4 at the published width of 512, narrower
        models more in proportion.
    Raises DataError where there are fewer than two batches, OptionError for a transformer other than scGPT.
    """
    checks.check_cells(adata)
    base = pretrained.given(model)
    if base.name != "scgpt":
        raise OptionError(f"{base.name} is not trained to integrate", "take a scGPT, or embed_pretrained()")
    refuse_unknown(options, option_names(integration.Config), "integrating with scGPT")
    training = build(TrainConfig, {**RECIPE, **enough(base, adata.n_obs, options), **options})
    adata, layer = with_layer(adata, layer)
    schema = Schema.learn(adata, Fields(layer=layer, batch_key=batch_key, genes=tuple(adata.var_names)))
    levels = schema.levels[batch_key]
    tokens = {**tokens_options(layer, gene_column, max_length), "zeros": zeros}
    cells, tokenizer = base.prepared(adata, **tokens)
    codes = batch_codes(adata, batch_key, levels)
    cells, kept = replace(cells, batch=codes), (checkpoint, zip(adata.obs_names, codes, strict=True))
    return tuned("integration", base, batch_key, levels, options, tokens, cells, tokenizer, training, callback, kept)


def enough(base: Transformer, n_cells: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Epochs and rate of integration."""
    steps = max(n_cells // int(options.get("batch_size") or RECIPE["batch_size"]), 1)
    return {
        "max_epochs": int(np.clip(-(-STEPS // steps), *EPOCHS)),
        "lr": RATES["full"] * max(1.0, 512 / base.encoder.config.trunk.width),
    }


def evaluate(model: Transformer, adata, labels_key: str | None = None, **how) -> dict[str, float]:
    """Share of the cells of `adata` whose type `model` finds ("accuracy"), and its F1, mean over types ("macro_f1").

    labels_key: column of obs with the truth; None for the one that the model learned. how: as for `model.predict`.
    Raises DataError where a label was not seen in training.
    """
    checks.check_cells(adata)
    key, levels = labels_key or model.columns.get("labels_key"), model.cell_types
    if key not in adata.obs:
        raise DataError(f"no column {key!r} in adata.obs", f"it has {some(adata.obs.columns, 12)}")
    truth = coded(adata.obs[key], str(key))
    known, place = truth.code >= 0, places_of(truth.names, levels)
    unseen = absent(truth.names, levels)
    if unseen:
        message = f"{len(unseen)} labels were not seen in training: {some(unseen)}"
        raise DataError(message, f"the model knows {some(levels, 12)}; remove these cells, or train with them")
    share = model.predict(adata[known], **how)
    right, called = place[truth.code[known]], share.to_numpy().argmax(1)
    return {"accuracy": accuracy(right, called), "macro_f1": macro_f1(right, called)}


def option_names(*configs: type) -> list[str]:
    """Names of the fields of TrainConfig and of further dataclasses of options."""
    return [f.name for config in (TrainConfig, *configs) for f in fields(config)]


def tokens_options(layer: str | None, gene_column: str | None, max_length: int | None) -> Mapping[str, Any]:
    """How to make tokens, of what the user chose."""
    given = {"layer": layer, "gene_column": gene_column, "max_length": max_length}
    return {name: value for name, value in given.items() if value is not None}


def _check_min_cells(names: np.ndarray, codes: Int[np.ndarray, " cell"], key: str) -> None:
    lonely = names[np.bincount(codes) == 1]
    if len(lonely):
        message = f"{len(lonely)} types of obs[{key!r}] have a single cell: {some(lonely)}"
        raise DataError(message, "one cell cannot teach a type: remove it, or merge the type with another")


def _check_types_in_train_split(names: np.ndarray, codes: Int[np.ndarray, " cell"], training: TrainConfig) -> None:
    taught, _ = split(len(codes), training.train_size or 0.9, training.seed)
    missed = np.setdiff1d(np.arange(len(names)), codes[taught])
    if len(missed):
        message = f"{len(missed)} types have no cell among those trained on: {some(names[missed])}"
        raise DataError(message, "pass train_size=1.0, another seed, or more of these cells")
