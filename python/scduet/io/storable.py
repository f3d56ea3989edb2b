"""Prepares cells for .h5ad and .zarr: converts times to text and back, and reports what cannot be stored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scduet.data.found import names_in
from scduet.errors import FormatError, some

CLASSES = "scduet_columns"  # entry of uns: columns of obs and var -> what they were, as JSON
TEXT, TIME = "text", "time"  # a TIME with time zone is "time Europe/Paris"


def as_stored(adata: AnnData) -> tuple[AnnData, list[str]]:
    """Convert columns without a file type to text or categories; also return the names of those with times.

    Text with missing values becomes categories, dates and times become ISO text. The original types are recorded in uns
    for `restored`. Matrices are not copied.
    """
    changed: dict[str, dict[str, str]] = {"obs": {}, "var": {}}
    frames = {"obs": adata.obs.copy(), "var": adata.var.copy()}
    for where, frame in frames.items():
        for column in [name for name in frame if frame.columns.tolist().count(name) == 1]:
            kind = _kind(frame[column])
            if kind is None:
                continue
            changed[where][str(column)] = kind
            text = frame[column].astype("string").astype(object).where(frame[column].notna(), None)
            frame[column] = text.astype("category") if text.isna().any() else text
    if not any(changed.values()):
        return adata, []
    stores = {store: getattr(adata, store) for store in ("obsm", "varm", "obsp", "varp", "layers")}
    parts = {store: {key: held[key] for key in names_in(held)} for store, held in stores.items()}
    uns = {**adata.uns, CLASSES: json.dumps(changed)}
    raw = None if adata.raw is None else {"X": adata.raw.X, "var": adata.raw.var, "varm": dict(adata.raw.varm)}
    new = AnnData(adata.X, uns=uns, raw=raw, **frames, **parts)
    times = [f"{where}[{name!r}]" for where, kinds in changed.items() for name, kind in kinds.items() if kind != TEXT]
    return new, times


def restored(adata: AnnData) -> AnnData:
    """Restore, in place, the columns of `adata` that `as_stored` converted."""
    if CLASSES not in adata.uns:
        return adata
    changed = json.loads(str(adata.uns.pop(CLASSES)))
    for where, kinds in changed.items():
        frame = getattr(adata, where)
        for column in kinds.keys() & set(frame.columns):
            frame[column] = _as_was(frame[column], kinds[column])
    return adata


def refuse_unwritable(adata: Any, path: Path) -> None:
    """Raise FormatError naming every part of `adata` (AnnData or MuData) that this file format cannot store."""
    parts = {f"mod[{name!r}].": part for name, part in adata.mod.items()} if hasattr(adata, "mod") else {"": adata}
    columns = () if path.suffix.lower() == ".zarr" else ("obs", "var")  # whose names may have a slash
    bad = [f"{prefix}{name}" for prefix, part in parts.items() for name in _unwritable(part, columns)]
    if bad:
        remedy = "remove them, or convert them to numbers, text or categories"
        raise FormatError(f"{path.name} cannot store {some(bad, 9)}", remedy)
    if path.suffix.lower() == ".zarr":  # a folder, with a folder for each column
        for prefix, part in parts.items():
            for store in ("obs", "var", "obsm", "varm", "layers", "obsp", "varp", "uns"):
                _refuse_same_but_for_case(prefix + store, names_in(getattr(part, store)), path)


def _kind(values: pd.Series) -> str | None:
    """The type to record for a column; None if files can store it."""
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return TIME if values.dt.tz is None else f"{TIME} {values.dt.tz}"
    plain = values.dtype == object or isinstance(values.dtype, pd.StringDtype)
    if plain and values.isna().any() and all(isinstance(value, str) for value in values.dropna()):
        return TEXT
    return None


def _as_was(values: pd.Series, kind: str) -> pd.Series:
    text = values.astype(object).where(values.notna(), None)
    if kind == TEXT:
        return text
    zone = kind.partition(" ")[2]
    times = pd.to_datetime(text, utc=bool(zone), errors="coerce", format="ISO8601")
    if not (times.notna() == values.notna()).all():  # changed since by other code
        return values
    return times.dt.tz_convert(zone) if zone else times


def _unwritable(adata: Any, slashes: tuple[str, ...]) -> Iterator[str]:
    import h5py
    from anndata.io import write_elem

    with h5py.File("nowhere", "w", driver="core", backing_store=False) as root:
        for name, value in _elements(adata):
            try:
                if not isinstance(name[1], str) or ("/" in name[1] and name[0] not in slashes):
                    raise TypeError
                write_elem(root, "it", value)
                del root["it"]
            except Exception:  # each writer fails in its own way: IORegistryError, TypeError, NotImplementedError, ...
                yield f"{name[0]}[{name[1]!r}]"


def _elements(adata: Any) -> Iterator[tuple[tuple[str, Any], Any]]:
    """Names and values of elements that files may not be able to store, without plain matrices."""
    for where in ("obs", "var"):
        frame = getattr(adata, where)
        repeated = [name for name, n in Counter(frame.columns).items() if n > 1]
        yield from (((where, name), object()) for name in repeated)
        yield from (((where, name), _rows(frame[[name]])) for name in frame.columns.difference(repeated, sort=False))
    yield from ((("uns", key), value) for key, value in adata.uns.items())
    for store in ("obsm", "varm", "layers"):
        for key in names_in(held := getattr(adata, store)):
            value = held[key]
            plain = hasattr(value, "dtype") and value.dtype.kind in "iufb"
            yield (store, key), np.zeros(0) if plain else _rows(value) if isinstance(value, pd.DataFrame) else value


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns without the row names. Text is tested in the form in which AnnData writes it."""
    frame = frame.reset_index(drop=True).set_axis(frame.columns.map(str), axis=1)
    return frame.astype({name: "category" for name in frame if pd.api.types.infer_dtype(frame[name]) == "string"})


def _refuse_same_but_for_case(where: str, names: list, path: Path) -> None:
    lower = Counter(str(name).lower() for name in names)
    same = [name for name in names if lower[str(name).lower()] > 1]
    if same:
        message = f"in {where}, {some(same, 9)} differ by upper and lower case only"
        raise FormatError(f"{message}, which {path.name} would not keep apart everywhere", "rename one, or write .h5ad")
