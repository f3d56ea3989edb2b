"""Which cells: masks, names, places and queries, all resolved to places in one way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from scduet.errors import DataError, some


def selected(
    wanted: Any, names: pd.Index, obs: pd.DataFrame | None = None, option: str = "rows"
) -> Int[np.ndarray, " chosen"]:
    """Places of the cells that `wanted` stands for, in its order; of a mask ascending.

    wanted: booleans, one a cell; a boolean Series, which goes by the names of the cells; names of cells; whole numbers,
        which are places from 0 on; or a query of `obs`, as for pandas. option: what the user calls it, for messages.
    Raises DataError for all else: 0 and 1 for each cell (a mask or two cells?), names that are not there, a mask with
    missing values or of another length, or where no cell is chosen.
    """
    if isinstance(wanted, str):
        return _chosen(_queried(wanted, obs, option), option)
    values = _array(wanted, option)
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind == "boolean":
        return _chosen(np.flatnonzero(_mask(wanted, values, names, option)), option)
    if kind == "string":
        return _named(values, names, option)
    if not len(values):
        return _chosen(values, option)
    if kind != "integer" or pd.isna(values).any():
        remedy = "pass booleans, names of cells, or whole numbers that are places"
        raise DataError(f"{option}= holds neither a mask, nor names, nor places of cells, but {kind} values", remedy)
    return _places(values.astype(np.int64), len(names), option)


def _array(wanted: Any, option: str) -> np.ndarray:
    """What was given, one value a cell; (cell, 1) as a column of a matrix will do."""
    values = np.array(list(wanted), dtype=object) if isinstance(wanted, (list, tuple, set)) else np.asarray(wanted)
    if values.size != max(values.shape, default=1):
        raise DataError(f"{option}= has the shape {values.shape}", "give one value for each cell, or a list of cells")
    return values.ravel()


def _queried(query: str, obs: pd.DataFrame | None, option: str) -> np.ndarray:
    if obs is None:
        raise DataError(f"{option}={query!r} is a query of obs, and there is none", "pass adata")
    try:
        found = pd.array(obs.eval(query), dtype="boolean")
    except Exception as error:  # pandas evaluates it: SyntaxError, UndefinedVariableError, TypeError, KeyError, ...
        columns = f"obs has the columns {some(obs.columns, 12)}"
        raise DataError(f"{option}={query!r} cannot be evaluated ({type(error).__name__}: {error})", columns) from error
    return np.flatnonzero(found.to_numpy(bool, na_value=False))


def _mask(wanted: Any, values: np.ndarray, names: pd.Index, option: str) -> np.ndarray:
    if isinstance(wanted, pd.Series) and not wanted.index.equals(names):
        values = values[_rows_of_series(wanted, names, option)]
    if len(values) != len(names):
        raise DataError(f"{option}= is a mask of {len(values)} values for {len(names)} cells", "give one for each cell")
    missing = pd.isna(values)
    if missing.any():
        cells = some(names[missing])
        raise DataError(f"{option}= is missing for {missing.sum()} cells: {cells}", "say True or False of each cell")
    return values.astype(bool)


def _rows_of_series(mask: pd.Series, names: pd.Index, option: str) -> np.ndarray:
    if not mask.index.is_unique:
        twice = mask.index[mask.index.duplicated()]
        raise DataError(f"{option}= names cells more than once: {some(twice)}", "give one value for each cell")
    row = mask.index.get_indexer(names)
    if (row < 0).any():
        absent = some(names[row < 0])
        remedy = "a Series goes by the names of the cells; pass mask.to_numpy() if its order is that of the cells"
        raise DataError(f"{option}= has no value for {(row < 0).sum()} cells: {absent}", remedy)
    return row


def _named(values: np.ndarray, names: pd.Index, option: str) -> Int[np.ndarray, " chosen"]:
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        raise DataError(f"{len(twice)} cell names occur more than once: {some(twice)}", "make them unique")
    row = names.get_indexer(pd.Index(values, dtype=object))
    if (row < 0).any():
        raise DataError(
            f"{option}= names cells that are not there: {some(values[row < 0])}", f"there are {some(names)}"
        )
    return row.astype(np.int64)


def _places(places: np.ndarray, n_cells: int, option: str) -> Int[np.ndarray, " chosen"]:
    if len(places) == n_cells > 1 and ((places == 0) | (places == 1)).all() and len(np.unique(places)) < n_cells:
        remedy = "of a mask pass mask.astype(bool)"
        raise DataError(
            f"{option}= has a 0 or a 1 for each cell: is it a mask, or do you mean the cells 0 and 1?", remedy
        )
    outside = places[(places < 0) | (places >= n_cells)]
    if len(outside):
        remedy = f"there are {n_cells} cells, from 0 on"
        raise DataError(f"{option}= has places where no cell is: {some(np.unique(outside))}", remedy)
    return _chosen(places, option)


def _chosen(places: np.ndarray, option: str) -> Int[np.ndarray, " chosen"]:
    if not len(places):
        raise DataError(f"{option}= chooses no cell", "choose at least one")
    return places.astype(np.int64)
