"""What `setup_anndata` notes in an AnnData, and what a model is built from."""

from __future__ import annotations

from scduet._torch import torch

import json
import warnings
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scduet.api import Model, held_by, reference_of, with_held
from scduet.contract import has_cells
from scduet.data.checks import check_cells, mark_of
from scduet.data.levels import coded, text
from scduet.data.locate import column, locate_main, modality, var_of_main
from scduet.data.schema import Fields, Schema
from scduet.errors import DataError, OptionError, ScduetWarning
from scduet.models import find
from scduet.nn.random import own_random_numbers
from scduet.options import build, options_of, refuse_unknown
from scduet.scvi import settings
from scduet.train.config import TrainConfig, resolved

KEY = "_scvi_setup"  # of uns; JSON text, so that it is copied, subset and saved with the AnnData


def note(adata: AnnData, name: str, given: dict[str, Any], model: str = "scvi") -> None:
    """Check the columns and remember them in `adata`, which gains obs "_scvi_batch" and "_scvi_labels" as there.

    name: of the class. model: ours, whose places for further inputs are noted too.
    """
    check_cells(adata)
    given = {key: value for key, value in given.items() if value is not None}
    given |= {key: text(value) for key, value in given.items() if key == "unlabeled_category"}
    fields = build(_fields(model), given)
    for kind, key in (("batch", fields.batch_key), ("labels", fields.labels_key)):
        codes = 0 if key is None else coded(column(adata, key), key).code
        adata.obs[f"_scvi_{kind}"] = np.asarray(codes, dtype=np.int64)
    adata.uns[KEY] = json.dumps({"model": name, "fields": asdict(fields)})


def in_mudata(
    mdata, given: dict[str, Any], layers: dict[str, str], modalities: dict[str, str] | None, may_miss: tuple[str, ...]
) -> dict[str, Any]:
    """Fields out of the arguments of setup_mudata. layers: their arguments with layers: our fields for the places.

    Raises OptionError for what `modalities` lacks or does not know, DataError for modalities and columns that are not
    there.
    """
    known, named = {**dict.fromkeys(given), **layers}, dict(modalities or {})
    for name in layers:
        if named.get(name) is None and name not in may_miss:
            raise OptionError(f"modalities= does not say which modality is {name!r}", f"there are {list(mdata.mod)}")
    strange = sorted(named.keys() - known.keys())
    if strange:
        raise OptionError(f"modalities={{{strange[0]!r}: ...}}", f"it is of the arguments {sorted(known)}")
    fields = {key: value for key, value in given.items() if key not in layers}
    for key in [key for key in fields if fields[key] is not None and named.get(key) is not None]:
        part = modality(mdata, named[key])
        for name in [fields[key]] if isinstance(fields[key], str) else fields[key]:
            if name not in part.obs:
                raise DataError(f"no column {name!r} in mod[{named[key]!r}].obs", f"it has {list(part.obs)[:12]}")
            if name in mdata.obs and not part.obs[name].astype(str).equals(
                mdata.obs.loc[part.obs_names, name].astype(str)
            ):
                raise DataError(f"{name!r} differs between mdata.obs and mod[{named[key]!r}].obs", "rename one of them")
    for name, ours in layers.items():
        if named.get(name) is None:
            continue
        modality(mdata, named[name])  # is it there?
        fields[ours] = f"mod/{named[name]}" if given.get(name) is None else f"mod/{named[name]}/layers/{given[name]}"
    if fields.get("panel_key") is not None:
        fields["panel_key"] = f"obs/{fields['panel_key']}"  # also of a modality
    return fields


def name_proteins(adata: AnnData, key: str, names_key: str | None) -> None:
    """Keep the names of the proteins in an array beside it, where the schema finds them: those in uns, or numbers."""
    if key not in adata.obsm:
        raise DataError(f"no obsm[{key!r}]", f"it has {list(adata.obsm)[:12]}")
    values, beside = adata.obsm[key], f"{key}_names"
    if isinstance(values, pd.DataFrame) or (names_key is None and beside in adata.uns):
        return
    if names_key is not None and names_key not in adata.uns:
        raise DataError(f"no uns[{names_key!r}]", f"it has {list(adata.uns)[:12]}")
    names = np.arange(values.shape[1]) if names_key is None else np.asarray(adata.uns[names_key])
    if names.shape != (values.shape[1],):
        shapes = f"uns[{names_key!r}] has {names.size} names, obsm[{key!r}] {values.shape[1]} columns"
        raise DataError(shapes, "give a name for each column")
    adata.uns[beside] = names.astype(str)


def _fields(model: str) -> type[Fields]:
    return getattr(find(model), "Fields", Fields)


def noted(adata: AnnData, name: str, model: str = "scvi") -> Fields:
    """What `setup_anndata` was told."""
    if KEY not in adata.uns:
        raise ValueError(f"Please set up your AnnData with `{name}.setup_anndata` first.")
    fields = json.loads(str(adata.uns[KEY]))["fields"]
    return build(_fields(model), {key: value for key, value in fields.items() if value is not None})


def untrained(
    adata: AnnData,
    name: str,
    fields: Fields,
    options: dict[str, Any],
    start: Model | None = None,
    on: Model | None = None,
) -> Model:
    """A model of these data with initial weights, or with those of the scVI `start` inside it.

    on: the trained model that it builds on, whose genes it has.
    """
    known = [option.name for option in options_of(name) if option.group == "model"]
    refuse_unknown(options, known, f"model {name!r}")
    cls = find(name)
    if not adata.n_vars:
        raise DataError("there are no genes", "check how the data were filtered")
    before = start or on
    names = var_of_main(adata, fields.layer).index if before is None else before.schema.genes
    genes = tuple(map(str, names))
    schema = _schema(adata, replace(fields, genes=genes, allow_non_integer=True, allow_empty_cells=True), cls)
    if start is not None:
        schema = replace(schema, levels={**schema.levels, **_without(start.schema.levels, fields.labels_key)})
    if cls.expects == "counts":  # pyright: ignore[reportAttributeAccessIssue]
        _warn_of_fractions(adata, fields)
    config, (holds, _) = build(cls.Config, options), held_by(cls, name, on)  # pyright: ignore[reportAttributeAccessIssue]
    if has_cells(cls, config):
        schema = replace(schema, cells=mark_of(adata.obs_names))
    cells = schema.encode(adata)
    reference = with_held(cls, reference_of(cls, schema, cells, adata), on, config)
    with own_random_numbers(seed()):
        module: Any = cls(reference, config, **holds)
        if hasattr(module, "begin"):
            with torch.no_grad():
                module.begin(cells)
    if start is not None:
        module.scvi.load_state_dict(start.module.state_dict())
    training = resolved(TrainConfig(recipe="scvi-tools"), len(cells), getattr(cls, "recipes", None))
    return Model(name, module.eval(), schema, reference, config, training, cells=cells, holds=holds)


def seed() -> int:
    """The seed of the settings, or one that is new each time."""
    return int(np.random.default_rng().integers(2**31)) if settings.seed is None else settings.seed


def _schema(adata: AnnData, fields: Fields, cls: type) -> Schema:
    """As `Schema.learn`, but one batch may be named: query mapping can add others to it."""
    key, (main, *_) = fields.batch_key, getattr(cls, "modalities", ("rna",))
    declared = cls.expects, getattr(cls, "inputs", None), main  # pyright: ignore[reportAttributeAccessIssue]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScduetWarning)
        if key is None or column(adata, key).nunique() > 1:
            return Schema.learn(adata, fields, *declared)
        learned = Schema.learn(adata, replace(fields, batch_key=None), *declared)
    return replace(learned, fields=fields, levels={key: (text(column(adata, key).iloc[0]),), **learned.levels})


def _without(levels, key: str | None) -> dict:
    return {name: values for name, values in levels.items() if name != key}


def _warn_of_fractions(adata: AnnData, fields: Fields) -> None:
    found = locate_main(adata, fields.layer)
    head = found.values[:20]
    values = head.data if hasattr(head, "indptr") else np.asarray(head)
    if (values != np.rint(values)).any():
        warnings.warn(
            f"adata.{found.where} does not contain unnormalized count data. Are you sure?", ScduetWarning, stacklevel=5
        )
