"""Cell types of an annotated reference, as names."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from scduet.data import locate
from scduet.data.levels import Coded, coded
from scduet.errors import DataError, some


def labels_of(reference: AnnData, key: str | None, unlabeled: str) -> tuple[np.ndarray, Coded]:
    """The name of each cell's type, None where there is none, and the column as it is.

    Raises DataError where there are fewer than two types.
    """
    if key is None or not locate.has_column(reference, key):
        raise DataError(f"no column {key!r} in reference.obs", f"pass labels_key: {some(reference.obs.columns, 12)}")
    column = coded(locate.column(reference, key), key)
    kinds = [name for name in column.names if name != unlabeled]
    if len(kinds) < 2:
        raise DataError(f"obs[{key!r}] has {len(kinds)} cell types: {some(kinds)}", "two are needed to tell them apart")
    names = column.texts
    names[names == unlabeled] = None
    return names, column
