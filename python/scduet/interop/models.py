"""What R asks of models: train, save, embed, map, annotate, decode, compare, score. Objects in, what R keeps out."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

import scduet
from scduet.errors import FormatError, OptionError, some
from scduet.interop import codec, objects
from scduet.models import find

Options = dict[str, Any] | tuple[()]  # R's list without elements comes as an empty list
CALLS_A_SECOND = 5  # more slow the console of R down
noted: list[str] = []  # warnings that came as events during a call; `reticulate.ask` empties it


@dataclass(frozen=True)
class Trained:
    """What R keeps of a model: plain facts, training curves, coordinates of the cells."""

    facts: dict[str, Any]
    history: list[codec.Column]
    embedding: objects.Block | None = None


@dataclass(frozen=True)
class Genes:
    """A matrix of genes x cells with the names of its genes."""

    names: codec.Text
    values: objects.Block


@dataclass(frozen=True)
class Annotated:
    """Types and their scores by cell, probabilities as R's matrix of types x cells, and the honest table."""

    cells: list[codec.Column]
    types: codec.Text
    probability: objects.Block
    table: list[codec.Column]


@dataclass(frozen=True)
class Compared:
    """Genes that differ, and the check of how many of the calls are false."""

    genes: list[codec.Column]
    calibration: list[codec.Column]


@dataclass(frozen=True)
class Scored:
    """A table of scores, and why some values are missing."""

    columns: list[codec.Column]
    reasons: list[codec.Column]


def train(
    adata, model: str, options: dict[str, Any], folder: str, callback: Callable | None = None, inputs: Options = ()
) -> Trained:
    """Fit `model` on `adata`, save it in `folder`, embed the cells. inputs: name -> where it is in `adata`."""
    places = _options_of_inputs(model, dict(inputs))
    fitted = scduet.fit(adata, model, callback=listener(callback), **options, **places)
    fitted.save(folder)
    return Trained(_facts(fitted, folder), _history(fitted), objects.block(fitted.embed().T))


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


def describe(folder: str) -> Trained:
    """A saved model's facts and history; raises FormatError when it cannot be read."""
    model = scduet.load(folder)
    return Trained(_facts(model, folder), _history(model))


def save(folder: str, sha256: str, to: str, overwrite: bool) -> None:
    """Save the model of `folder` under another name."""
    saved(folder, sha256).save(to, overwrite)


def map_query(
    folder: str, sha256: str, adata, options: dict[str, Any], to: str, callback: Callable | None = None
) -> Trained:
    """Embed new cells, new batches included; the model that knows them is saved in `to`."""
    model = saved(folder, sha256)
    mapped = scduet.map_query(_fitting(adata, model), model, callback=listener(callback), **options)
    mapped.save(to)
    return Trained(_facts(mapped, to), _history(mapped), objects.block(mapped.embed().T))


def expression(folder: str, sha256: str, adata, options: dict[str, Any]) -> Genes:
    """Denoised expression of the cells, as R's matrix of genes x cells."""
    model = saved(folder, sha256)
    table = scduet.normalized_expression(model, _fitting(adata, model), **options)
    return Genes(codec.as_text(table.columns), objects.block(table.to_numpy()))


def annotate(query, reference, options: Options, callback: Callable | None = None) -> Annotated:
    """Cell types of the query by an annotated reference (or a taught model's folder), and how well that works."""
    known = scduet.load(reference) if isinstance(reference, str) else reference
    table = scduet.annotate(query, known, callback=listener(callback), **plain(options))
    share, told = query.obsm["predicted_probability"], query.obs[["predicted", "predicted_score"]]
    types, cells = codec.as_text(share.columns), codec.columns_of(told)
    return Annotated(cells, types, objects.block(share.to_numpy()), codec.columns_of(_indexed(table, "method")))


def markers(folder: str, sha256: str, adata, options: dict[str, Any]) -> Compared:
    """Genes whose expression differs between groups, and whether the calls can be trusted."""
    from scduet.tasks.differential_expression import calibration

    model = saved(folder, sha256)
    table = scduet.differential_expression(model, _fitting(adata, model), **options)
    check = codec.columns_of(_indexed(calibration(table), "comparison"))
    called = next(str(name) for name in table if str(name).startswith("is_de"))
    return Compared(codec.columns_of(_indexed(table.rename(columns={called: "is_de"}), "gene")), check)


def report(adata, path: str, folder: str | None, sha256: str | None, options: dict[str, Any]) -> None:
    """Write the page about an integration."""
    model = saved(folder, sha256) if folder and sha256 else None
    scduet.report(adata, path, model=model, **options)


def score(adata, embeddings: list[str] | None, options: dict[str, Any]) -> Scored:
    """The table of `scduet.score`, its first column the names of the embeddings."""
    return scored(scduet.score(adata, embeddings, **options))


def scored(table: pd.DataFrame) -> Scored:
    """The same of a table that is there."""
    reasons = [(name, metric, why) for name, row in table.attrs["reasons"].items() for metric, why in row.items()]
    told = pd.DataFrame(reasons, columns=["embedding", "metric", "reason"], dtype=object)
    return Scored(codec.columns_of(table.rename_axis("embedding").reset_index()), codec.columns_of(told))


def digest(folder: str) -> str:
    """sha256 of the files of a folder, names and bytes, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        total.update(path.name.encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _facts(model, folder: str) -> dict[str, Any]:
    fields = model.schema.fields
    return {
        "model": model.name,
        "version": scduet.__version__,
        "sha256": digest(folder),
        "genes": list(model.genes),
        "batch": fields.batch_key,
        "labels": fields.labels_key,
        "columns": _columns(fields),
        "assays": _assays(model.schema),
        "epochs": len(model.history),
    }


def _assays(schema) -> list[str]:
    """The entries of obsm, assays in R, that the model reads."""
    places = [getattr(schema.fields, given.option) for given in schema.further.values()]
    return [place.removeprefix("obsm/") for place in places if isinstance(place, str) and place.startswith("obsm/")]


def _columns(fields) -> list[str]:
    """The columns of obs that the model needs."""
    named = [fields.batch_key, fields.labels_key, fields.size_factor_key]
    covariates = [*fields.categorical_covariate_keys, *fields.continuous_covariate_keys]
    return [key for key in [*named, *covariates] if key is not None]


@lru_cache(maxsize=4)
def saved(folder: str, sha256: str):
    """The model saved in `folder`; R names the folder after the digest, so a second call finds it loaded."""
    found = digest(folder) if os.path.isdir(folder) else ""
    if found != sha256:
        what = "was changed since it was saved" if found else "is not there any more"
        raise FormatError(f"the model in {folder!r} {what}", "load it again with LoadModel(), or train it again")
    return scduet.load(folder)


def _history(model) -> list[codec.Column]:
    return codec.columns_of(model.history.reset_index())


def _indexed(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """`table` with its index as the first column."""
    return table.rename_axis(name).reset_index() if name not in table.columns else table


def _fitting(adata, model):
    """`adata` with its counts where the model had them."""
    layer = model.schema.fields.layer
    if layer is not None and layer not in adata.layers:
        adata.layers[layer] = adata.X
    return adata


def plain(options: Options) -> dict[str, Any]:
    """Options with whole numbers as such: R's are all of floating point."""
    whole = {k: int(v) for k, v in dict(options).items() if isinstance(v, float) and v.is_integer()}
    return {**dict(options), **whole}


def listener(callback: Callable | None) -> Callable:
    """An engine callback: notes warnings, and tells R of logs, the last epoch, and a few epochs a second."""
    last = 0.0

    def tell(event) -> bool:
        nonlocal last
        if event.kind == "warning":
            noted.append(event.message)
        due = event.kind == "log" or event.epoch >= event.max_epochs or time.monotonic() - last > 1 / CALLS_A_SECOND
        if event.kind == "warning" or callback is None or not due:
            return False
        last = time.monotonic()
        return _called(callback, event)

    return tell


def _called(callback: Callable, event) -> bool:
    try:
        return bool(callback(event.kind, event.message, event.epoch, event.max_epochs, event.seconds_left))
    except RuntimeError as error:
        if "Unknown exception" in str(error):  # how reticulate before 1.29 tells of Ctrl-C inside an R function
            raise KeyboardInterrupt from None
        raise
