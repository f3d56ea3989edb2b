"""Levels of a category: coded by value, the same for numbers and text, and given back as the user's own values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from scduet.errors import DataError, some

KINDS = {"integer": "int", "floating": "float", "mixed-integer-float": "float", "boolean": "bool"}  # by pandas' word
_MAKE = {"int": int, "float": float, "bool": lambda name: name == "True"}
_WHOLE = re.compile(r"(-?\d+)\.0+")


@dataclass(frozen=True)
class Coded:
    """A column of obs as codes of its levels: in the order of the categories, or sorted; without unused ones."""

    code: Int[np.ndarray, " cell"]  # -1 where there is no value
    names: list[str]  # text of each level
    values: list[Any]  # the levels as the user has them

    @property
    def texts(self) -> np.ndarray:
        """The name of each cell's level, None where there is none."""
        return np.array([*self.names, None], dtype=object)[self.code]

    @property
    def own(self) -> dict[str, Any]:
        """Name -> the user's value."""
        return dict(zip(self.names, self.values, strict=True))


def coded(values: pd.Series, key: str, required: bool = False) -> Coded:
    """The column `key` of obs as codes; 1, 1.0 and "1" are one level.

    Raises DataError where a number and a text would be the same level, and if `required` for cells without a value.
    """
    if required:
        refuse_missing(values, key)
    if isinstance(values.dtype, pd.CategoricalDtype):
        used, code = np.unique(values.cat.codes.to_numpy(np.int64), return_inverse=True)
        own = values.cat.categories[used[used >= 0]]
        code = code - int(len(used) > 0 and used[0] < 0)
    elif values.dtype == object and pd.api.types.infer_dtype(values) not in {"string", *KINDS}:  # pandas has True == 1
        present = list(values.dropna())
        if any(pd.api.types.is_list_like(value) for value in present):
            raise DataError(f"obs[{key!r}] holds lists, not levels of a category", "give one value for each cell")
        _refuse_ambiguous(present, key)
        own = {text(value): value for value in present}
        code, names = pd.factorize(values.map(text, na_action="ignore"), sort=True)
        return Coded(code.astype(np.int64), list(names), [own[name] for name in names])
    else:
        code, own = pd.factorize(values, sort=True)
    _refuse_ambiguous(own, key)
    return Coded(code.astype(np.int64), [text(value) for value in own], list(own))


def text(value: Any) -> str:
    """The name of a level: "1" of 1 and of 1.0, "2.5", "True", "2024-05-01"."""
    if isinstance(value, pd.Timestamp):
        return str(value.date() if value == value.normalize() else value)
    whole = isinstance(value, (float, np.floating)) and float(value).is_integer()
    return str(int(value) if whole else value)


def kind_of(values: Iterable[Any]) -> str:
    """What the levels are to the user: "int", "float", "bool", or "text", which stands for all else."""
    return KINDS.get(pd.api.types.infer_dtype(list(values)), "text")


def values_of(names: Sequence[str], kind: str) -> pd.Index:
    """Levels by their names as values of the kind that the user had."""
    return pd.Index([_MAKE[kind](name) for name in names] if kind in _MAKE else list(names))


def places_of(names: Iterable[Any], levels: Sequence[str]) -> Int[np.ndarray, " name"]:
    """Place of each name (or value) among the names `levels`, -1 for one that is not there.

    "1.0", e.g. of the command line or of a column that was made text, is "1" where there is no other "1.0".
    """
    texts = [text(name) for name in names]
    place = pd.Index(levels, dtype=object).get_indexer(pd.Index(texts, dtype=object))
    plain = pd.Index([_WHOLE.sub(r"\1", level) for level in levels], dtype=object)
    if (place < 0).any() and plain.is_unique:
        other = plain.get_indexer(pd.Index([_WHOLE.sub(r"\1", name) for name in texts], dtype=object))
        place = np.where((place < 0) & ~np.isin(other, place), other, place)
    return place.astype(np.int64)


def absent(names: Iterable[Any], levels: Sequence[str]) -> list[Any]:
    """Those of the names (or values) that are not among the names `levels`."""
    names = list(names)
    return [name for name, place in zip(names, places_of(names, levels), strict=True) if place < 0]


def batch_codes(adata: Any, key: str, levels: Sequence[str]) -> Int[np.ndarray, " cell"]:
    """The code of each cell's batch. Raises DataError naming batches that are not among `levels`."""
    if key not in adata.obs:
        raise DataError(f"no column {key!r} in adata.obs", f"it has {some(adata.obs.columns, 12)}")
    batches = coded(adata.obs[key], key, required=True)
    unseen = absent(batches.names, levels)
    if unseen:
        remedy = f"the model knows {some(levels, 12)}"
        raise DataError(f"{len(unseen)} batches were not seen in training: {some(unseen)}", remedy)
    return places_of(batches.names, levels)[batches.code]


def refuse_missing(values: pd.Series, key: str) -> None:
    """Raise DataError naming the cells that have no value in the column `key` of obs."""
    missing = values.index[values.isna().to_numpy()]  # a Series would have pandas hash the names of all cells
    if len(missing):
        remedy = f"fill obs[{key!r}] or remove these cells"
        raise DataError(f"{len(missing)} cells have no value in {key!r}: {some(missing)}", remedy)


def _refuse_ambiguous(values: Iterable[Any], key: str) -> None:
    words, others = set(), set()
    for value in values:
        (words if isinstance(value, str) else others).add(text(value))
    if words & others:
        remedy = f"make it one kind, e.g. obs[{key!r}].astype(str)"
        raise DataError(f"obs[{key!r}] has {some(sorted(words & others))} both as a number and as text", remedy)
