"""The main functions: fit(adata) -> Model; model.embed(adata) -> array; load(folder) -> Model."""

from __future__ import annotations

from scduet._torch import torch

import copy
import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from scduet.capabilities import TrainedModel
from scduet.checkpoints import model_folder, scarches, scvi_tools
from scduet.contract import MakeBatch, Measured, Reference, has_cells
from scduet.count_model import Model
from scduet.data import cell_loader
from scduet.data.cell_loader import CellLoader
from scduet.data.checks import mark_of
from scduet.data.gene_choice import describe_genes
from scduet.data.loader_source import LoaderSource
from scduet.data.locate import var_of_main
from scduet.data.schema import Fields, Schema, on_disk
from scduet.data.sources import Cells
from scduet.errors import FormatError, OptionError
from scduet.events import Event, Listener, tell_interrupted, warnings_to
from scduet.io import native
from scduet.models import MODELS, find, is_own, name_of
from scduet.nn.kernels.jit import compilation_announced
from scduet.nn.random import own_random_numbers
from scduet.options import build, options_of, refuse_unknown
from scduet.train import device as devices
from scduet.train import resume
from scduet.train.config import TrainConfig, of_loader, on_all_cells, resolved
from scduet.train.defaults import lists_options
from scduet.train.feed import parts_of
from scduet.train.group import local_rank, reporter
from scduet.train.loop import Rows, Trainer, TrainingResult

_GROWS_FROM = {"scanvi": "scvi"}  # model -> the model it can be initialized from
_CORRECTED = ("batch_key", "categorical_covariate_keys", "continuous_covariate_keys", "size_factor_key")


@lists_options
def fit(
    adata=None,
    model: str | type = "scvi",
    *,
    loader: CellLoader | None = None,
    callback: Listener | None = None,
    checkpoint: str | Path | None = None,
    start: Model | None = None,
    **options,
) -> Model:
    """Train `model` on the cells of `adata` and return it.

    adata: AnnData with raw counts (cell, gene) in X or in `layer`; not modified. Or the path of an .h5ad or .zarr, a
        backed AnnData, or a list of paths, whose counts stay on disk and are read in blocks (see the option
        shuffle_block). Several files are used with the genes that all of them have; obs gains the column "store".
    loader: a CellLoader, in place of adata: cells from any iterable of minibatches, for models of one matrix. With
        `checkpoint`, a resumed run begins at an epoch; the state of the loader's own random numbers is not restored.
    model: a name from `scduet.models.MODELS`; or a class of your own, also as "file.py:Class": see `check_model`.
    callback: called with an Event after each epoch and for messages; returning True stops training. An exception also
        stops training and is re-raised with the model trained so far as its attribute `model`; KeyboardInterrupt is
        treated as Ctrl-C.
    checkpoint: a folder for checkpoints, from which an interrupted run resumes.
    start: a trained model to start from, whose options, genes, levels and weights are reused: a model of the same name,
        or scVI for scANVI. For a model that builds on another trained model: that model.
    options: fields of Fields (layer, batch_key, ...), TrainConfig (max_epochs, seed, ...) and the model's Config
        (n_latent, gene_likelihood, ...), listed below.

    Ctrl-C stops training and returns the model as trained so far, with a TrainingInterrupted warning; before the end of
    the first epoch it raises KeyboardInterrupt.
    Raises OptionError, DataError or DeviceError before training starts, TrainingError if the loss is not finite, a
    process dies, or the checkpoint cannot be written.
    """
    model = name_of(model)
    cls = find(model)
    refuse_unknown(options, [option.name for option in options_of(model)], f"model {model!r}")
    given, (holds, start) = start, held_by(cls, model, start)
    options = _with_genes(holds, options) if start is None else _carried_over(model, start, options)
    fields, config = build(getattr(cls, "Fields", Fields), options), build(cls.Config, options)
    training = build(TrainConfig, options)
    devices.choose(training.accelerator, local_rank())
    adata, listener = on_disk(adata) if loader is None else cell_loader.given(adata, loader), reporter(callback)
    try:
        with own_random_numbers(training.seed), warnings_to(listener), _compilation_to(listener):
            main, *_ = getattr(cls, "modalities", ("rna",))
            learn = Schema.learn if loader is None else cell_loader.learned
            schema = learn(adata, fields, cls.expects, getattr(cls, "inputs", None), main)
            if has_cells(cls, config):
                if loader is not None:
                    cell_loader.refuse(f"{model!r} has parameters for each cell")
                names: Any = getattr(adata, "obs_names", None)
                schema, training = replace(schema, cells=mark_of(names)), on_all_cells(training)
            schema = schema if start is None else schema.as_in(start.schema)
            var = var_of_main(adata, schema.fields.layer) if loader is None else loader.var
            listener(Event("log", describe_genes(schema.genes, fields.genes, var)))
            listener.check()
            cells = schema.encode(adata).marked() if loader is None else cell_loader.encoded(schema, loader)
            if isinstance(cells.counts, LoaderSource):
                training = of_loader(training, *map(len, parts_of(cells, training)))
            training = resolved(training, len(cells), getattr(cls, "recipes", None))
            reference = with_held(cls, reference_of(cls, schema, cells, adata), given, config)
            torch.manual_seed(training.seed)
            module = cls(reference, config, **holds)
            if start is not None:
                _take_weights(module, start)
            elif hasattr(module, "begin"):
                with torch.no_grad():
                    module.begin(cells)
            trainer = Trainer(module, cells, training)
            outcome = trainer.run(listener, _resumed(trainer, checkpoint, model, config, schema, adata, holds))
    finally:
        listener.close()
    tell_interrupted(outcome.stop_reason, len(outcome.history))
    return listener.handed_over(Model(model, module, schema, reference, config, training, outcome, cells, holds))


def reference_of(cls: type, schema: Schema, cells: Cells, adata) -> Reference:
    """The Reference for a module of class `cls` and its training data."""
    arrays, tables = ({}, {}) if isinstance(adata, CellLoader) else schema.about_features(adata)
    return measured(cls, replace(schema.reference(cells), arrays=arrays, tables=tables), cells)


def measured(cls: type, reference: Reference, cells: Cells) -> Reference:
    """Add to `reference` the arrays that the model measures in the cells."""
    found = getattr(cls, "measure", lambda *_: {})(cells, reference)
    rows = {name: value if isinstance(value, Measured) else Measured(value) for name, value in found.items()}
    axes = {name: value.axis for name, value in rows.items() if value.axis is not None}
    return replace(reference, arrays={**reference.arrays, **{name: v.values for name, v in rows.items()}}, axes=axes)


def train(
    model: Model, cells: Cells, training: TrainConfig, callback: Listener | None = None, rows: Rows | None = None
) -> Model:
    """Train the module of `model`, as it is, on `cells`; weights that need no gradient stay as they are."""
    training, outcome = train_module(model.module, cells, training, callback, rows=rows)
    return replace(model, training=training, outcome=outcome, cells=cells)


def train_module(
    module: nn.Module,
    cells: Cells,
    training: TrainConfig,
    callback: Listener | None = None,
    make_batch: MakeBatch | None = None,
    checkpoint: resume.Checkpoint | None = None,
    rows: Rows | None = None,
) -> tuple[TrainConfig, TrainingResult]:
    """Train a module with its own kind of minibatches; returns the resolved options.

    callback: a RaiseLater keeps what it raises, for the caller to raise with a model; of another it is raised here.
    checkpoint: a folder for the state of the run; an interrupted run resumes from it.
    rows: of the cells to train on and of those held out; None for a split by training.train_size.
    """
    listener = reporter(callback)
    try:
        with own_random_numbers(training.seed), warnings_to(listener), _compilation_to(listener):
            training = resolved(training, len(cells), getattr(module, "recipes", None))
            trainer = Trainer(module, cells, training, make_batch, rows)
            if checkpoint is not None:
                resume.restore(trainer, checkpoint)
            outcome = trainer.run(listener, None if checkpoint is None else checkpoint.keep)
    finally:
        listener.close()
    tell_interrupted(outcome.stop_reason, len(outcome.history))
    if listener is not callback:
        listener.check()
    return training, outcome


def load(
    folder: str | Path,
    base: TrainedModel | str | Path | None = None,
    callback: Listener | None = None,
    *,
    model: str | type | None = None,
) -> TrainedModel:
    """Load a model saved by scduet, scvi-tools (folder or model.pt) or scArches (expiMap), or a published transformer.

    folder: also "hf://owner/name@revision" for a transformer on the hub (with the extra `hub`).
    base: for a fine-tuned transformer, the original model; None if its folder has not moved.
    callback: called with an Event for each downloaded file.
    model: of a model of your own: its class, or "file.py:Class". Not needed again in the same session.

    Never executes code from the files. Raises FormatError for a folder that is missing, of another kind, damaged or too
    new, and for a model whose class is not known here.
    """
    if model is not None:
        return _of_class(name_of(model), folder, base, callback)
    kind = native.kind_of(Path(folder))
    if kind == "scduet fine-tuned transformer":
        from scduet.checkpoints import pretrained

        return pretrained.read_tuned(folder, base)  # pyright: ignore[reportArgumentType]
    if kind is not None and kind != "scduet transformer":
        return _whole(model_folder.read(Path(folder)))
    theirs = next((package for package in (scarches, scvi_tools) if package.recognize(Path(folder))), None)
    if theirs is not None:
        found = theirs.read(Path(folder))
        training = resolved(TrainConfig(recipe="scvi-tools"), max(found.reference.n_cells, 1))
        parts = found.name, found.module, found.schema, found.reference, found.config
        outcome = TrainingResult(found.history, train_rows=found.train_rows, held_out=found.held_out)
        holds = {name: Model(**vars(one), training=training) for name, one in found.holds.items()}
        return Model(*parts, training, outcome, holds=holds)
    from scduet.checkpoints import pretrained  # compiles its tokenizers at import: only for who needs them

    if pretrained.recognize(folder):
        return pretrained.read(folder, callback)
    return _whole(model_folder.read(Path(folder)))


def _of_class(name: str, folder: str | Path, base, callback: Listener | None) -> TrainedModel:
    """The model in `folder`. Raises FormatError where it is not one called `name`."""
    found = load(folder, base, callback)
    if found.name != name:
        raise FormatError(f"{folder} holds a model {found.name!r}, not {name!r}", "pass the class that it was made of")
    return found


def is_transformer(model: Any) -> bool:
    """Whether this is a transformer, or its folder or "hf://" address, rather than the name of a model."""
    if is_own(model):
        return False
    if not isinstance(model, (str, Path)):
        return True
    from scduet.checkpoints import pretrained  # imported only if needed, since it compiles its tokenizers

    return model not in MODELS and pretrained.recognize(model)


def _whole(parts: model_folder.Parts) -> Model:
    return Model(**{**vars(parts), "holds": {name: _whole(one) for name, one in parts.holds.items()}})


def held_by(cls: type, name: str, start: Model | None) -> tuple[dict[str, Model], Model | None]:
    """The model that this class builds on, by argument name; and the model whose training continues."""
    needs: Mapping[str, str] = getattr(cls, "needs", {})
    if not needs or (start is not None and start.name == name):
        return {} if start is None else dict(start.holds), start
    (argument, wanted), *_ = needs.items()
    if start is None or start.name != wanted:
        given = "none" if start is None else f"a {start.name!r}"
        raise OptionError(f"{name!r} builds on a trained {wanted!r}, not on {given}", "train one and pass it as start=")
    module = copy.deepcopy(start.module).requires_grad_(False).eval()  # the user's model is not modified
    return {argument: replace(start, module=module, cells=None)}, None


def with_held(cls: type, reference: Reference, given: Model | None, config: Any) -> Reference:
    """Add to `reference` what the model measures in the trained model it builds on, or measured when it began."""
    measure = getattr(cls, "measure_held", None)
    if measure is None or given is None:
        return reference
    known = given.reference.arrays if type(given.module) is cls else measure(given, config)
    return replace(reference, arrays={**known, **reference.arrays})


def _with_genes(holds: Mapping[str, Model], options: dict) -> dict:
    """`options` with the genes of the model to build on, if not set."""
    for held in holds.values():
        options = {"genes": held.schema.genes, **options}
    return options


def _carried_over(model: str, start: Model, options: dict) -> dict:
    """`options` completed by those of the model to start from; raises OptionError for conflicts."""
    if start.name not in (model, _GROWS_FROM.get(model)):
        raise OptionError(f"{model!r} cannot start from {start.name!r}", f"start from {_GROWS_FROM.get(model, model)}")
    fixed = dataclasses.asdict(start.config)
    fields = dataclasses.asdict(replace(start.schema.fields, genes=start.schema.genes))
    given = dataclasses.asdict(build(Fields, options))
    changed = {name: value for name, value in fixed.items() if options.get(name, value) != value}
    changed |= {name: fields[name] for name in _CORRECTED if name in options and given[name] != fields[name]}
    if changed:
        described = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        raise OptionError(f"the model to start from has {described}", "leave these options out")
    if "genes" in options and given["genes"] != fields["genes"]:
        raise OptionError(f"the model to start from already defines its {len(start.genes)} genes", "leave genes out")
    return {**fixed, **fields, **options}


def _take_weights(module: nn.Module, start: Model) -> None:
    """Copy the weights of `start` to `module`, or to the scVI it contains."""
    held = next(part for part in (module, *module.children()) if type(part) is type(start.module))
    held.load_state_dict(start.module.state_dict())


def _resumed(trainer: Trainer, folder: str | Path | None, model: str, config, schema: Schema, adata, holds):
    """Resume `trainer` from the checkpoint in `folder`; returns the function that writes further checkpoints."""
    if folder is None:
        return None
    walked = isinstance(adata, CellLoader)
    known: Any = (adata.genes,) if walked else (adata.obs_names, schema.about_features(adata))
    cells = resume.fingerprint(trainer.cells, *known)
    options = {**dataclasses.asdict(config), **dataclasses.asdict(trainer.config), **schema.to_json()["fields"]}
    features = {"features": schema.features} if schema.features else {}
    held = {f"start {name}": native.fingerprint(one.module.state_dict()) for name, one in holds.items()}
    checkpoint = resume.Checkpoint(folder, {"model": model, "cells": cells, **options, **features, **held})
    resume.restore(trainer, checkpoint)
    return checkpoint.keep


def _compilation_to(listener: Listener) -> AbstractContextManager[None]:
    """Tell `listener` if kernels have to be compiled in this context, which delays the first epoch."""
    return compilation_announced(lambda text: listener(Event("log", text)))
