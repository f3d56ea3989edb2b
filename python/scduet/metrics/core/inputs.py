"""Validation of inputs: finite points and labels of any type; the error for an undefined metric."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike


class Undefined(ValueError):
    """The metric is undefined on these data, for the reason in the message."""


def points(x: ArrayLike, name: str = "embedding") -> Float[np.ndarray, "cell dim"]:
    """`x` as a float64 matrix, one row a cell.

    Raises:
        ValueError: `x` is not a matrix, is empty, or holds NaN or infinite values.
    """
    x = dense(x)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} has shape {x.shape}; expected a matrix, one row a cell")
    try:
        x = x.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} does not hold numbers alone: {error}") from None
    bad = np.flatnonzero(~np.isfinite(x).all(1))
    if len(bad):
        raise ValueError(f"{name} has NaN or infinite values in {len(bad)} cells, e.g. row {bad[0]}; drop these cells")
    return x


def dense(x: object) -> np.ndarray:
    """`x` as an array, also where it is sparse."""
    to_dense = getattr(x, "toarray", None)
    return np.asarray(x if to_dense is None else to_dense())


def codes(values: ArrayLike, name: str = "labels", n_cells: int | None = None) -> Int[np.ndarray, " cell"]:
    """Labels of any type (strings, integers, categorical) as codes 0, 1, ... in order of appearance.

    Raises:
        ValueError: a cell has no label, or the number of labels is not the number of cells.
    """
    import pandas as pd

    values = np.asarray(values) if isinstance(values, (list, tuple)) else values
    if np.ndim(values) != 1:
        raise ValueError(f"{name} has shape {np.shape(values)}; expected one value a cell")
    found = pd.factorize(values)[0].astype(np.int64)
    missing = np.flatnonzero(found < 0)
    if len(missing):
        raise ValueError(f"{name} is missing for {len(missing)} cells, e.g. row {missing[0]}; drop them or name them")
    if n_cells is not None and len(found) != n_cells:
        raise ValueError(f"{name} has {len(found)} values for {n_cells} cells")
    return found


def at_least_two(found: Int[np.ndarray, " cell"], metric: str, what: str) -> int:
    """The number of groups in `found`.

    Raises:
        Undefined: there is only one.
    """
    n = int(found.max()) + 1
    if n < 2:
        raise Undefined(f"{metric} compares {what}: it needs 2 or more, these cells have {n}")
    return n
