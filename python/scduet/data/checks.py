"""Is this what the model expects? Looks at every value, in pieces, before any work starts."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scduet.errors import DataError, ScduetWarning, some

PIECE = 1 << 16  # values looked at together: they stay in the processor's cache
INFINITY = {np.dtype(np.float32): np.uint32(0x7F800000), np.dtype(np.float64): np.uint64(0x7FF0000000000000)}  # bits
FEW_CELLS = 100
MANY_LEVELS = 10  # up to so many levels a column is a category, whatever it holds
CELLS_A_NUMBER, CELLS_A_NAME = 50, 5  # mean cells of a level below which numbers, or names, are taken for no category


def check_names(names, what: str) -> None:
    """Raise DataError when `names` (cells or genes) repeat."""
    if not names.is_unique:
        repeated = names[names.duplicated()].unique()
        remedy = f"make them unique, e.g. adata.{'obs' if what == 'cell' else 'var'}_names_make_unique()"
        raise DataError(f"{len(repeated)} {what} names occur more than once: {some(repeated)}", remedy)


def check_size(n_cells: int) -> None:
    if n_cells == 0:
        raise DataError("there are no cells", "look at how the data were filtered")
    if n_cells < FEW_CELLS:
        advice = "a deep model has little to learn from; PCA on log-normalised data is likely better"
        warnings.warn(f"only {n_cells} cells: {advice}", ScduetWarning, stacklevel=4)


def check_levels(option: str, key: str, values: pd.Series) -> None:
    """Warn where a column of obs that is used as categories looks like a measurement, or like names of cells.

    Missing values are left out. It is no error, since some data sets do have many small batches.
    """
    values = values.dropna()
    n_levels, n_cells = values.nunique(), len(values)
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    fraction = numeric and pd.api.types.is_float_dtype(values) and (values % 1 != 0).any()
    few = n_cells < n_levels * (CELLS_A_NUMBER if numeric else CELLS_A_NAME)
    if n_levels <= MANY_LEVELS or not (few or fraction):
        return
    kind = {"labels_key": "cell type", "batch_key": "batch"}.get(option, "category")
    what = f"{option}={key!r} makes {n_levels:,} levels of {n_cells:,} cells"
    if numeric and option != "labels_key":
        remedy = f"if {key!r} is a measurement, use continuous_covariate_keys"
        remedy += "; batch_key is for a column such as the donor or the run" if option == "batch_key" else ""
    else:
        remedy = "name a column with fewer levels"
    warnings.warn(f"{what}: each value is a {kind} of its own; {remedy}", ScduetWarning, stacklevel=4)


def are_counts(values: np.ndarray) -> bool:
    """Whether these are floats, all whole and from 0 up; in fewer looks than it takes to tell what else they are.

    Of numbers below zero and those not finite the bits, read as a whole number, are those of infinity or above.
    """
    limit, rounded = INFINITY.get(values.dtype), np.empty(PIECE, values.dtype)
    return limit is not None and all(
        piece.view(limit.dtype).max() < limit and (np.rint(piece, out=rounded[: len(piece)]) == piece).all()
        for _, piece in _pieces(values)
    )


def check_values(counts: sp.csr_matrix, cells, where: str, expects: str, allow_non_integer: bool = False) -> None:
    """Raise DataError, naming cells, for values that a model which `expects` these data cannot use.

    counts: (cell, gene), any number type. cells: their names. where: how the user calls the matrix, e.g. "X".
    """
    if expects == "counts" and are_counts(counts.data):
        return  # what follows finds out what is amiss
    smallest, largest = _extremes(counts.data)
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        _refuse(
            counts, cells, lambda v: ~np.isfinite(v), f"{where} holds NaN or infinite values", "remove or mend them"
        )
    if expects != "lognormal" and smallest < 0:
        remedy = _needs_counts(where) if expects == "counts" else "remove or mend them"
        _refuse(counts, cells, lambda v: v < 0, f"{where} holds negative values", remedy)
    if expects == "counts" and not allow_non_integer:
        logged = " and looks log-normalised" if largest < 30 else ""
        message = f"{where} is not whole numbers{logged}"
        remedy = f"{_needs_counts(where)}, or allow_non_integer=True if they are estimated counts"
        _refuse(counts, cells, lambda v: v != np.rint(v), message, remedy)
    if expects == "binary":
        _refuse(counts, cells, lambda v: (v != 0) & (v != 1), f"{where} is not 0 and 1", "binarise it: X > 0")


def check_empty(totals: np.ndarray, cells) -> None:
    """Raise DataError naming the cells without a single count in the genes used."""
    empty = np.flatnonzero(totals == 0)
    if len(empty):
        remedy = "remove them, e.g. sc.pp.filter_cells(adata, min_counts=1), or use more genes"
        names = [str(name) for name in cells[empty]]
        raise DataError(f"{len(empty)} cells have no counts in the genes used: {some(names)}", remedy, cells=names)


def _needs_counts(where: str) -> str:
    return f"this model needs raw counts: pass layer= if they are in another layer than {where}"


def _refuse(counts: sp.csr_matrix, cells, bad: Callable, message: str, remedy: str) -> None:
    if not np.issubdtype(counts.dtype, np.floating) and "negative" not in message and "0 and 1" not in message:
        return  # whole numbers are finite and whole
    for start, values in _pieces(counts.data):
        found = bad(values)
        if found.any():
            entry = start + np.flatnonzero(found)
            rows = np.unique(np.searchsorted(counts.indptr, entry, side="right") - 1)
            more = " (and perhaps more)" if start + len(values) < counts.nnz else ""
            raise DataError(f"{message}, in {len(rows)} cells{more}: {some(cells[rows])}", remedy)


def _extremes(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest; NaN if there is a NaN, which numpy lets through."""
    found = [(piece.min(), piece.max()) for _, piece in _pieces(values)] or [(0, 0)]
    return float(np.min(found)), float(np.max(found))


def _pieces(values: np.ndarray):
    for start in range(0, len(values), PIECE):
        yield start, values[start : start + PIECE]
