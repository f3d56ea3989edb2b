"""What `setup_anndata` notes in an AnnData, and what a model is built from."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from anndata import AnnData

from scduet.api import Model, reference_of
from scduet.data.checks import check_cells
from scduet.data.levels import coded, text
from scduet.data.locate import locate_main
from scduet.data.schema import Fields, Schema
from scduet.errors import DataError, ScduetWarning
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
    fields = build(_fields(model), {key: value for key, value in given.items() if value is not None})
    for kind, key in (("batch", fields.batch_key), ("labels", fields.labels_key)):
        if key is not None and key not in adata.obs:
            raise DataError(f"no column {key!r} in adata.obs", f"it has {list(adata.obs.columns)[:12]}")
        codes = 0 if key is None else coded(adata.obs[key], key).code
        adata.obs[f"_scvi_{kind}"] = np.asarray(codes, dtype=np.int64)
    adata.uns[KEY] = json.dumps({"model": name, "fields": asdict(fields)})


def _fields(model: str) -> type[Fields]:
    return getattr(find(model), "Fields", Fields)


def noted(adata: AnnData, name: str, model: str = "scvi") -> Fields:
    """What `setup_anndata` was told."""
    if KEY not in adata.uns:
        raise ValueError(f"Please set up your AnnData with `{name}.setup_anndata` first.")
    fields = json.loads(str(adata.uns[KEY]))["fields"]
    return build(_fields(model), {key: value for key, value in fields.items() if value is not None})


def untrained(adata: AnnData, name: str, fields: Fields, options: dict[str, Any], start: Model | None = None) -> Model:
    """A model of these data with initial weights, or with those of the scVI `start` inside it."""
    known = [option.name for option in options_of(name) if option.group == "model"]
    refuse_unknown(options, known, f"model {name!r}")
    cls = find(name)
    if not adata.n_vars:
        raise DataError("there are no genes", "check how the data were filtered")
    genes = tuple(adata.var_names.astype(str)) if start is None else start.schema.genes
    schema = _schema(adata, replace(fields, genes=genes, allow_non_integer=True, allow_empty_cells=True), cls)
    if start is not None:
        schema = replace(schema, levels={**schema.levels, **_without(start.schema.levels, fields.labels_key)})
    if cls.expects == "counts":  # pyright: ignore[reportAttributeAccessIssue]
        _warn_of_fractions(adata, fields)
    cells = schema.encode(adata)
    reference, config = reference_of(cls, schema, cells, adata), build(cls.Config, options)  # pyright: ignore[reportAttributeAccessIssue]
    with own_random_numbers(seed()):
        module = cls(reference, config)
    if start is not None:
        module.scvi.load_state_dict(start.module.state_dict())
    training = resolved(TrainConfig(recipe="scvi-tools"), len(cells))
    return Model(name, module.eval(), schema, reference, config, training, cells=cells)


def seed() -> int:
    """The seed of the settings, or one that is new each time."""
    return int(np.random.default_rng().integers(2**31)) if settings.seed is None else settings.seed


def _schema(adata: AnnData, fields: Fields, cls: type) -> Schema:
    """As `Schema.learn`, but one batch may be named: query mapping can add others to it."""
    key, declared = fields.batch_key, (cls.expects, getattr(cls, "inputs", None))  # pyright: ignore[reportAttributeAccessIssue]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScduetWarning)
        if key is None or adata.obs[key].nunique() > 1:
            return Schema.learn(adata, fields, *declared)
        learned = Schema.learn(adata, replace(fields, batch_key=None), *declared)
    return replace(learned, fields=fields, levels={key: (text(adata.obs[key].iloc[0]),), **learned.levels})


def _without(levels, key: str | None) -> dict:
    return {name: values for name, values in levels.items() if name != key}


def _warn_of_fractions(adata: AnnData, fields: Fields) -> None:
    matrix = locate_main(adata, fields.layer).values
    head = matrix[:20]
    values = head.data if hasattr(head, "indptr") else np.asarray(head)
    if (values != np.rint(values)).any():
        where = "adata.X" if fields.layer is None else f"adata.layers[{fields.layer!r}]"
        warnings.warn(f"{where} does not contain unnormalized count data. Are you sure?", ScduetWarning, stacklevel=5)
