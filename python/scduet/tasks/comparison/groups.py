"""Which cells are compared with which, by a column of obs, or by masks, names, places or queries of cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from scduet.data.levels import coded, places_of
from scduet.data.locate import column
from scduet.data.selection import selected
from scduet.errors import DataError, OptionError, some


def comparisons(
    adata, groupby, group1, group2, idx1, idx2, allow_overlap: bool = False
) -> Iterator[tuple[tuple[Any, Any], np.ndarray, np.ndarray]]:
    """Names (of levels, the values of the column) and rows of each pair of groups; all are checked before the first."""
    if idx1 is None and idx2 is None:
        return _of_levels(adata, groupby, group1, group2)
    if idx1 is None or not (groupby is None and group1 is None and group2 is None):
        raise OptionError("idx1= says which cells to compare, idx2= with which", "pass idx1, or groupby")
    first = np.unique(selected(idx1, adata.obs_names, adata.obs, "idx1"))
    if idx2 is None:
        return iter([(("group 1", "Rest"), first, _rest(first, adata.n_obs, "idx1"))])
    second = np.unique(selected(idx2, adata.obs_names, adata.obs, "idx2"))
    both = np.intersect1d(first, second)
    if len(both) and not allow_overlap:
        cells = some(adata.obs_names[both])
        raise DataError(f"{len(both)} cells are in both idx1 and idx2: {cells}", "take them out of one")
    return iter([(("group 1", "group 2"), first, second)])


def _of_levels(adata, groupby, group1, group2) -> Iterator[tuple[tuple[Any, Any], np.ndarray, np.ndarray]]:
    levels = coded(column(adata, groupby), groupby)
    if group1 is None and group2 is not None:
        raise OptionError(f"group2={group2!r} says what to compare with, but not which groups", "pass group1= too")
    if group1 is None and len(levels.names) < 2:
        raise DataError(f"obs[{groupby!r}] has one group only: {some(levels.names)}", "two are needed")
    given = [*levels.names] if group1 is None else [*group1] if pd.api.types.is_list_like(group1) else [group1]
    if not given:
        raise OptionError("group1= names no group", f"obs[{groupby!r}] has {some(levels.names, 9)}")
    chosen, others = _places(given, levels.names, groupby), [None] if group2 is None else [group2]
    other = None if group2 is None else _places(others, levels.names, groupby)[0]
    if other in chosen:
        raise OptionError(f"group1 and group2 are both {group2!r}", "name two groups")
    pairs = []
    for place in chosen:
        first = np.flatnonzero(levels.code == place)
        rest = _rest(first, adata.n_obs, groupby) if other is None else np.flatnonzero(levels.code == other)
        pairs.append(((levels.values[place], "Rest" if other is None else levels.values[other]), first, rest))
    return iter(pairs)


def _places(groups: list, names: list[str], groupby: str) -> list[int]:
    found = [int(places_of([group], names)[0]) for group in groups]
    for group, place in zip(groups, found, strict=True):
        if place < 0:
            raise DataError(f"no cell has {group!r} in obs[{groupby!r}]", f"it has {some(names, 9)}")
    return found


def _rest(first: np.ndarray, n_cells: int, what: str) -> np.ndarray:
    rest = np.setdiff1d(np.arange(n_cells), first)
    if not len(rest):
        raise DataError(f"{what!r} leaves no other cell to compare with", "name a smaller group")
    return rest
