"""A matrix that was found in the data, with the names of its rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scduet.errors import DataError, some


@dataclass(frozen=True)
class Found:
    """A matrix with the names of its rows and, as far as it has any, of its columns."""

    values: Any  # (row, column): an array, a scipy matrix, a FileSource, or the DataFrame of a table
    rows: pd.Index
    names: pd.Index | None
    where: str  # what the user calls it, e.g. "obsm['protein']"
    var: pd.DataFrame | None = None  # what is known of the columns of X and layers
    others: float | None = None  # value of rows that are not listed; None where all must be

    @property
    def numbers(self) -> Any:
        """The values; of a DataFrame as an array. Raises DataError where they are no numbers."""
        if not isinstance(self.values, pd.DataFrame):
            return self.values
        try:
            return self.values.to_numpy(np.float32)
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.where} does not hold numbers alone ({error})", "leave other columns out") from error

    @property
    def columns(self) -> pd.Index:
        """Names of the columns, or their numbers as text."""
        return pd.Index([str(i) for i in range(self.n_columns)]) if self.names is None else self.names

    @property
    def n_columns(self) -> int:
        return self.values.shape[1] if self.names is None else len(self.names)


def names_in(store: Any) -> list:
    """The keys of layers, obsm, ...: in anndata 0.13 without layers[None], which is X; in mudata 0.4 layers are None."""
    return [] if store is None else [key for key in store if key is not None]


def row_order(found: Found, names: pd.Index) -> np.ndarray | None:
    """The row of each of `names`, -1 where there is none; None where rows and names are the same."""
    if found.rows is names or found.rows.equals(names):
        return None
    if not found.rows.is_unique:
        twice = found.rows[found.rows.duplicated()]
        raise DataError(f"{found.where} names rows more than once: {some(twice)}", "make their names unique")
    return found.rows.get_indexer(names)


def in_table(table: Any, where: str) -> Found:
    """A table by the names of its rows. Of sets, name -> features: a row for each feature, a column for each set."""
    if isinstance(table, pd.DataFrame):
        return Found(table, table.index.astype(str), table.columns.astype(str), where)
    if not isinstance(table, Mapping):
        raise DataError(f"{where} is no table but {type(table).__name__}", "give a DataFrame, or a dict of sets")
    pairs = [(str(feature), str(name)) for name, features in table.items() for feature in features]
    features, names = pd.Index(sorted({feature for feature, _ in pairs})), pd.Index([str(name) for name in table])
    values = np.zeros((len(features), len(names)), np.float32)
    values[features.get_indexer([f for f, _ in pairs]), names.get_indexer([n for _, n in pairs])] = 1
    return Found(values, features, names, where, others=0.0)
