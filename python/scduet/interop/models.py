"""What R asks of models: train, save, embed, map, annotate, decode, compare, score. Objects in, what R keeps out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

import scduet
from scduet.capabilities import Classifier, Decodes, HasLoadings, part_with
from scduet.errors import OptionError, some
from scduet.interop import codec, objects
from scduet.interop.kept_models import Saved, digest, keep, saved
from scduet.interop.options import Options, call
from scduet.models import find, name_of
from scduet.tasks.genes.gene_parameters import loadings
from scduet.tasks.posterior.clusters import has_clusters
from scduet.tasks.quality import provenance
from scduet.train.progress import SilentOnError

Made = dict[str, dict[str, str]]  # what `scduet.tasks.quality.provenance` notes of embeddings
CALLS_A_SECOND = 5  # more slow the console of R down
noted: list[str] = []  # warnings that came as events during a call; `reticulate.ask` empties it


@dataclass(frozen=True)
class Trained:
    """What R keeps of a model: plain facts, training curves, coordinates of the cells."""

    facts: dict[str, Any]
    history: list[codec.Column]
    embedding: objects.Block | None = None
    loadings: objects.Block | None = None  # of a linear decoder: R's gene x dimension
    predicted: list[codec.Column] | None = None  # of a classifier: the type of each cell, and its probability; or
    # the cluster of each cell, by a model that learns clusters


@dataclass(frozen=True)
class Genes:
    """A matrix of genes x cells with the names of its genes."""

    names: codec.Text
    values: objects.Block


@dataclass(frozen=True)
class Annotated:
    """Types and their scores by cell, probabilities as R's matrix of types x cells, and how well which method does."""

    cells: list[codec.Column]
    types: codec.Text
    probability: objects.Block
    table: list[codec.Column]


@dataclass(frozen=True)
class Compared:
    """Genes that differ, the calls that permuted labels leave, and these in words."""

    genes: list[codec.Column]
    calibration: list[codec.Column]
    summary: str


@dataclass(frozen=True)
class Scored:
    """A table of scores, and why some values are missing."""

    columns: list[codec.Column]
    reasons: list[codec.Column]
    notes: list[str]


def train(
    adata,
    model: str,
    options: Options,
    folder: str,
    callback: Callable | None = None,
    start: Saved | None = None,
    inputs: Options = (),
) -> Trained:
    """Fit `model` on `adata`, save it in `folder`, embed the cells.

    start: the saved model to go on from. inputs: name -> where it is in `adata`.
    """
    model, base = name_of(model), None if start is None else saved(**start)
    options = {**dict(options), **_options_of_inputs(model, dict(inputs))}
    fitted = call(scduet.fit, adata, model, callback=listener(callback), start=base, options=options)
    fitted.save(folder)
    return _trained(fitted, folder)


def _options_of_inputs(model: str, places: dict[str, str]) -> dict[str, str]:
    """The option that says where each input is. Raises OptionError for an input that the model does not have."""
    known = {name: given.option for name, given in getattr(find(model), "inputs", {}).items() if name != "x"}
    for name in places:
        if name not in known:
            remedy = f"it reads {some(known)}" if known else "leave inputs out"
            raise OptionError(f"model {model!r} has no input {name!r}", remedy)
    return {known[name]: place for name, place in places.items()}


def embed(folder: str, sha256: str, adata) -> objects.Block:
    """Coordinates (cell, latent) of the cells of `adata` under a saved model."""
    return objects.block(saved(folder, sha256).embed(adata).T)


def describe(folder: str, model: str | None = None) -> Trained:
    """A saved model's facts and history; raises FormatError when it cannot be read.

    model: "file.py:Class" of a model of the user's own.
    """
    model = scduet.load(folder, model=model)
    return Trained(_facts(keep(model, folder), folder), _history(model))


def save(folder: str, sha256: str, to: str, overwrite: bool) -> None:
    """Save the model of `folder` under another name."""
    saved(folder, sha256).save(to, overwrite)


def map_query(folder: str, sha256: str, adata, options: Options, to: str, callback: Callable | None = None) -> Trained:
    """Embed new cells, new batches included; the model that knows them is saved in `to`."""
    model = saved(folder, sha256)
    mapped = call(scduet.map_query, fitting(adata, model), model, callback=listener(callback), options=options)
    mapped.save(to)
    return _trained(mapped, to)


def expression(folder: str, sha256: str, adata, options: Options, task: str = "normalized_expression") -> Genes:
    """What the model expects of the cells, as R's matrix of genes x cells.

    task: the function that says it: also "protein_foreground" or "normalized_accessibility".
    """
    model = saved(folder, sha256)
    table = call(getattr(scduet, task), model, fitting(adata, model), options=options)
    return Genes(codec.as_text(table.columns), objects.block(table.to_numpy()))


def decode_states(folder: str, sha256: str, states, options: Options) -> Genes:
    """Shares of genes in states of the latent space (state, latent), as R's matrix of genes x states."""
    table = call(scduet.decode_states, saved(folder, sha256), states, options=options)
    return Genes(codec.as_text(table.columns), objects.block(table.to_numpy()))


def annotate(query, reference, options: Options, callback: Callable | None = None) -> Annotated:
    """Cell types of the query by an annotated reference (or a taught model's folder), and how well that works."""
    known = saved(reference) if isinstance(reference, str) else reference
    table = call(scduet.annotate, query, known, callback=listener(callback), options=options)
    share, told = query.obsm["predicted_probability"], query.obs[["predicted", "predicted_score"]]
    if told["predicted"].cat.categories.dtype != object:  # R has no factor of numbers
        told = told.assign(predicted=told["predicted"].to_numpy())
    types, cells = codec.as_text(share.columns), codec.columns_of(told)
    accuracies = _indexed(table, "method").assign(used=table.index == table.attrs["used"])
    return Annotated(cells, types, objects.block(share.to_numpy()), codec.columns_of(accuracies))


def markers(folder: str, sha256: str, adata, options: Options) -> Compared:
    """Genes whose expression differs between groups, and the calls that permuted labels leave."""
    from scduet.tasks.comparison.calibration import calibration, summary

    model = saved(folder, sha256)
    table = call(scduet.differential_expression, model, fitting(adata, model), verbose=False, options=options)
    check = calibration(table)
    table = table.rename(columns={name: "is_de" for name in table if str(name).startswith("is_de_fdr")})
    genes, calls = codec.columns_of(_indexed(table, "gene")), codec.columns_of(_indexed(check, "comparison"))
    return Compared(genes, calls, summary(check))


def zero_inflation(folder: str, sha256: str) -> list[codec.Column]:
    """The genes, and the probability that each is zero-inflated, by group."""
    return codec.columns_of(_indexed(scduet.zero_inflation(saved(folder, sha256)), "gene"))


def report(
    adata, path: str, models: dict[str, Saved] | tuple[()], options: Options, made: Made | tuple[()] = ()
) -> None:
    """Write the page about an integration; models by the names to show; made: as for `score`."""
    _note(adata, made)
    read = {name: saved(**where) for name, where in dict(models).items()}
    call(scduet.report, adata, path, model=read, options=options)


def score(adata, embeddings: list[str] | None, options: Options, made: Made | tuple[()] = ()) -> Scored:
    """The table of `scduet.score`, its first column the names of the embeddings.

    made: for embeddings of a model that R keeps, its name and columns: see `scduet.tasks.quality.provenance`.
    """
    _note(adata, made)
    return scored(call(scduet.score, adata, embeddings, options=options))


def scored(table: pd.DataFrame) -> Scored:
    """The same of a table that is there."""
    reasons = [(name, metric, why) for name, row in table.attrs["reasons"].items() for metric, why in row.items()]
    told = pd.DataFrame(reasons, columns=["embedding", "metric", "reason"], dtype=object)
    columns = codec.columns_of(table.rename_axis("embedding").reset_index())
    return Scored(columns, codec.columns_of(told), table.attrs["notes"])


def _note(adata, made: Made | tuple[()]) -> None:
    for key, known in dict(made).items():
        provenance.note(adata, key, known)


def _trained(model, folder: str) -> Trained:
    """What R keeps of a model that holds its cells; the next call of R finds the model in memory."""
    keep(replace(model, cells=None), folder)
    tells_types = isinstance(model.module, Classifier) and model.schema.fields.labels_key is not None
    return Trained(
        _facts(model, folder),
        _history(model),
        objects.block(model.embed().T),
        objects.block(loadings(model).to_numpy().T) if isinstance(model.module, HasLoadings) else None,
        _predicted(model) if tells_types else _clusters(model),
    )


def _predicted(model) -> list[codec.Column]:
    share = scduet.predict(model)
    best = share.to_numpy().argmax(1)
    told = {"predicted": share.columns.to_numpy()[best], "score": share.to_numpy().max(1).astype(float)}
    return codec.columns_of(pd.DataFrame(told))


def _clusters(model) -> list[codec.Column] | None:
    if not has_clusters(model):
        return None
    return codec.columns_of(pd.DataFrame({"predicted": scduet.cluster_cells(model)["cluster"].astype(object)}))


def _facts(model, folder: str) -> dict[str, Any]:
    fields = model.schema.fields
    return {
        "model": model.name,
        "version": scduet.__version__,
        "sha256": digest(folder),
        "genes": list(model.genes),
        "batch": fields.batch_key,
        "labels": fields.labels_key,
        "clusters": f"{model.name}_cluster" if has_clusters(model) else None,
        "columns": _columns(model.schema),
        "assays": _assays(model.schema),
        "modalities": list(getattr(part_with(model.module, Decodes), "modalities", ())),
        "epochs": len(model.history),
    }


def _assays(schema) -> dict[str, str]:
    """Inputs of the model that are in obsm, with their entries there: assays in R."""
    places = {name: getattr(schema.fields, given.option) for name, given in schema.further.items()}
    return {name: place.removeprefix("obsm/") for name, place in places.items() if str(place).startswith("obsm/")}


def _columns(schema) -> list[str]:
    """The columns of obs that the model needs."""
    fields, further = schema.fields, schema.further.values()
    named = [fields.batch_key, fields.labels_key, fields.size_factor_key]
    named += [getattr(fields, given.option) for given in further if given.look_in == ("obs",)]
    covariates = [*fields.categorical_covariate_keys, *fields.continuous_covariate_keys]
    return [key for key in [*named, *covariates] if key is not None]


def _history(model) -> list[codec.Column]:
    return codec.columns_of(model.history.reset_index())


def _indexed(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """`table` with its index as the first column."""
    return table.rename_axis(name).reset_index() if name not in table.columns else table


def fitting(adata, model):
    """`adata` with its counts where the model had them."""
    layer = model.schema.fields.layer
    if layer is not None and layer not in adata.layers:
        adata.layers[layer] = adata.X
    return adata


def listener(callback: Callable | None) -> Callable:
    """An engine callback: notes warnings, and tells R of logs, the last epoch, and a few epochs a second."""
    last, shown = 0.0, None if callback is None else SilentOnError(lambda event: _called(callback, event))

    def tell(event) -> bool:
        nonlocal last
        if event.kind == "warning":
            noted.append(event.message)
        due = event.kind == "log" or event.done >= event.total or time.monotonic() - last > 1 / CALLS_A_SECOND
        if event.kind == "warning" or shown is None or not due:
            return False
        last = time.monotonic()
        return shown(event)

    return tell


def _called(callback: Callable, event) -> bool:
    try:
        told = event.kind, event.message, event.done, event.total, event.unit, event.seconds_left
        return bool(callback(*told))
    except RuntimeError as error:
        if "Unknown exception" in str(error):  # how reticulate before 1.29 tells of Ctrl-C inside an R function
            raise KeyboardInterrupt from None
        raise
