"""Cell types of an annotated reference, as names."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from scduet.errors import DataError, some


def labels_of(reference: AnnData, key: str | None, unlabeled: str) -> np.ndarray:
    """The name of each cell's type, None where there is none. Raises DataError where there are fewer than two types."""
    if key is None or key not in reference.obs:
        raise DataError(f"no column {key!r} in reference.obs", f"pass labels_key: {some(reference.obs.columns, 12)}")
    values = reference.obs[key].astype(object)
    labels = values.where(values.notna() & (values.astype(str) != unlabeled), None).to_numpy()
    kinds = {str(label) for label in labels if label is not None}
    if len(kinds) < 2:
        raise DataError(f"obs[{key!r}] has {len(kinds)} cell types: {some(kinds)}", "two are needed to tell them apart")
    return np.array([None if label is None else str(label) for label in labels], dtype=object)
