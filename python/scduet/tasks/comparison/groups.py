"""Which cells are compared with which, by a column of obs, masks or queries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool

from scduet.errors import DataError, some


def comparisons(adata, groupby, group1, group2, idx1, idx2) -> Iterator[tuple[tuple[str, str], np.ndarray, np.ndarray]]:
    """Names and rows of each pair of groups."""
    if idx1 is not None:
        first = _mask(adata, idx1)
        yield (
            ("group 1", "group 2" if idx2 is not None else "Rest"),
            *_rows(first, ~first if idx2 is None else _mask(adata, idx2)),
        )
        return
    if groupby is None or groupby not in adata.obs:
        raise DataError(f"no column {groupby!r} in adata.obs", f"it has {some(adata.obs.columns, 12)}")
    values = adata.obs[groupby]
    present = list(dict.fromkeys(values.dropna())) if group1 is None else None  # unused categories are no groups
    given = [group1] if isinstance(group1, (str, int, float, bool, np.generic)) else group1
    chosen = sorted(present, key=str) if present is not None else list(given or [])
    if present is not None and len(present) < 2:
        raise DataError(f"obs[{groupby!r}] has one group only: {some(present)}", "two are needed")
    for name in [*chosen, *([] if group2 is None else [group2])]:
        if not (values == name).any():
            raise DataError(f"no cell has {name!r} in obs[{groupby!r}]", f"it has {some(values.dropna().unique(), 9)}")
    for name in chosen:
        first = (values == name).to_numpy(bool)
        other = ~first if group2 is None else (values == group2).to_numpy(bool)
        yield (str(name), "Rest" if group2 is None else str(group2)), *_rows(first, other)


def _mask(adata, wanted) -> Bool[np.ndarray, " cell"]:
    if isinstance(wanted, str):
        return adata.obs.index.isin(adata.obs.query(wanted).index)
    wanted = np.asarray(wanted)
    if wanted.dtype == bool:
        if wanted.size != adata.n_obs:
            raise DataError(f"a mask of {wanted.size} values for {adata.n_obs} cells", "give one for each cell")
        return wanted.ravel()
    mask = np.zeros(adata.n_obs, bool)
    try:
        mask[wanted.ravel()] = True
    except IndexError as error:
        raise DataError(f"not places of cells: {error}", f"there are {adata.n_obs} cells, from 0 on") from None
    return mask


def _rows(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not first.any() or not second.any():
        raise DataError("one of the two groups has no cells", "look at idx1, idx2 or the groups")
    return np.flatnonzero(first), np.flatnonzero(second)
