"""Is this what the model expects? Looks at every value, in pieces, before any work starts."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scduet.data.found import names_in
from scduet.errors import DataError, OptionError, ScduetWarning, some

PIECE = 1 << 16  # values looked at together: they stay in the processor's cache
INFINITY = {np.dtype(np.float32): np.uint32(0x7F800000), np.dtype(np.float64): np.uint64(0x7FF0000000000000)}  # bits
FEW_CELLS = 100
LARGE = 100.0  # of a continuous covariate; see `check_scale`
LOOKED_AT = 1000  # cells that tell whether a matrix holds counts
MANY_LEVELS = 10  # up to so many levels a column is a category, whatever it holds
CELLS_A_NUMBER, CELLS_A_NAME = 50, 5  # mean cells of a level below which numbers, or names, are taken for no category


def check_cells(data: Any) -> None:
    """Raise DataError for what is no AnnData or MuData in memory."""
    if isinstance(data, (str, os.PathLike)):
        raise DataError(f"{str(data)!r} is a path, and cells in memory are needed", "read it first: anndata.read_h5ad")
    if getattr(data, "obs_names", None) is None:
        raise DataError(f"{type(data).__name__} is no AnnData", "pass an AnnData, a MuData, or the path of one")


def check_key(option: str, key: Any) -> None:
    """Raise OptionError for what cannot be the name of a column."""
    if not isinstance(key, str):
        raise OptionError(f"option {option!r} cannot be {key!r}", "it is the name of one column of obs")


def check_matrix(adata: Any) -> None:
    """Raise DataError for what is no AnnData, has no cells or no genes, or a gene twice."""
    check_cells(adata)
    check_some(adata.n_obs)
    check_some(adata.n_vars, "genes")
    check_names(adata.var_names, "gene")


def check_names(names, what: str) -> None:
    """Raise DataError when `names` (cells or genes) repeat."""
    if not names.is_unique:
        repeated = names[names.duplicated()].unique()
        remedy = f"make them unique, e.g. adata.{'obs' if what == 'cell' else 'var'}_names_make_unique()"
        raise DataError(f"{len(repeated)} {what} names occur more than once: {some(repeated)}", remedy)


def flags(var: pd.DataFrame, name: str) -> np.ndarray:
    """The column `name` of var as booleans. Raises DataError for anything else, missing values included."""
    if name not in var or pd.api.types.infer_dtype(var[name]) != "boolean":
        raise DataError(f"genes={name!r} is not a boolean column of adata.var", "pass such a column, or gene names")
    missing = var.index[var[name].isna().to_numpy()]
    if len(missing):
        remedy = f"say True or False of each gene, e.g. var[{name!r}].fillna(False)"
        raise DataError(f"var[{name!r}] is missing for {len(missing)} genes: {some(missing)}", remedy)
    return var[name].to_numpy(bool)


def check_some(n: int, what: str = "cells") -> None:
    """Raise DataError where there is no cell, or no gene."""
    if n == 0:
        raise DataError(f"there are 0 {what}", "look at how the data were filtered")


def check_size(n_cells: int) -> None:
    """Raise DataError where there is no cell, and warn where there are few."""
    check_some(n_cells)
    if n_cells < FEW_CELLS:
        advice = "a deep model has little to learn from; PCA on log-normalized data is likely better"
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


def check_scale(key: str, values: np.ndarray) -> None:
    """Warn of a continuous covariate that is not standardized.

    On 700 blood cells a covariate of standard deviation 1,000 cost scVI 28 nats a cell, one around 100 1,700 nats.
    """
    largest = float(np.abs(values).max(initial=0))
    if largest > LARGE:
        advice = f"standardize it: (x - mean) / standard deviation of obs[{key!r}]"
        message = f"the covariate {key!r} reaches {largest:,.6g}, a scale that a model learns badly from; {advice}"
        warnings.warn(message, ScduetWarning, stacklevel=4)


def refuse_measurement(option: str, key: str, values: pd.Series) -> None:
    """Raise DataError where a column of obs that should hold cell types is a measurement.

    Fractions of more than ten values, or whole numbers of which each has fewer than five cells on average.
    """
    values = values.dropna()
    n_levels, kind = values.nunique(), pd.api.types.infer_dtype(values)
    if n_levels <= MANY_LEVELS or kind not in ("floating", "integer", "mixed-integer-float"):
        return
    if len(values) < n_levels * CELLS_A_NAME or (values.astype(float) % 1 != 0).any():
        what = f"{option}={key!r} holds {n_levels:,} different numbers in {len(values):,} cells"
        raise DataError(f"{what}: a measurement, not categories", "name a column of categories")


def are_counts(values: np.ndarray) -> bool:
    """Whether these are floats, all whole and from 0 up; in fewer looks than it takes to tell what else they are.

    Of numbers below zero and those not finite the bits, read as a whole number, are those of infinity or above.
    """
    limit, rounded = INFINITY.get(values.dtype), np.empty(PIECE, values.dtype)
    return limit is not None and all(
        piece.view(limit.dtype).max() < limit and (np.rint(piece, out=rounded[: len(piece)]) == piece).all()
        for _, piece in _pieces(values)
    )


def check_values(
    matrix,
    cells,
    where: str,
    expects: str,
    allow_non_integer: bool = False,
    may_miss: bool = False,
    remedy: str | None = None,
    elsewhere: Callable[[], Sequence[str]] = tuple,
) -> None:
    """Raise DataError, naming cells, for values that a model which `expects` these data cannot use.

    matrix: (cell, gene), CSR or an array, any number type. cells: their names. where: how the user calls the matrix,
    e.g. "X". may_miss: NaN is allowed. remedy: for values of the wrong kind; None: to name the layer of raw counts,
    one of those that `elsewhere` finds.
    """
    values = matrix.data if sp.issparse(matrix) else np.ravel(matrix)
    if expects == "counts" and are_counts(values):
        return  # what follows finds out what is amiss
    if values.dtype.kind not in "buif":
        raise DataError(f"{where} holds {values.dtype} values, not real numbers", "make them float32")
    if may_miss:
        values = np.where(np.isnan(values), 0, values)
    found = _Values(values, matrix, cells)
    smallest, largest = _extremes(values)
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        found.refuse(lambda v: ~np.isfinite(v), f"{where} holds NaN or infinite values", "remove or mend them")
    if expects in ("counts", "binary", "nonnegative") and smallest < 0:
        mend = remedy or (_needs_counts(where, elsewhere()) if expects == "counts" else "remove or mend them")
        found.refuse(lambda v: v < 0, f"{where} holds negative values", mend)
    if expects == "counts" and not allow_non_integer:
        logged = " and looks log-normalized" if largest < 30 else ""
        message, mend = f"{where} is not whole numbers{logged}", remedy or _needs_counts(where, elsewhere())
        mend += ", or allow_non_integer=True if they are estimated counts"
        found.refuse(lambda v: v != np.rint(v), message, mend)
    if expects == "binary":
        found.refuse(lambda v: (v != 0) & (v != 1), f"{where} is not 0 and 1", "make it binary first: X > 0")


def check_empty(totals: np.ndarray, cells, where: str = "the genes used") -> None:
    """Raise DataError naming the cells without a single count."""
    empty = np.flatnonzero(totals == 0)
    if len(empty):
        remedy = "remove them, e.g. sc.pp.filter_cells(adata, min_counts=1), or use more genes"
        names = [str(name) for name in cells[empty]]
        raise DataError(f"{len(empty)} cells have no counts in {where}: {some(names)}", remedy, cells=names)


def holding_counts(data: Any) -> list[str]:
    """Where in an AnnData raw counts seem to be: "X", "raw", names of layers."""
    raw = getattr(data, "raw", None)
    layers = {name: data.layers[name] for name in names_in(getattr(data, "layers", None))}
    stored = {"X": getattr(data, "X", None), "raw": None if raw is None else raw.X, **layers}
    there = {name: matrix[:LOOKED_AT] for name, matrix in stored.items() if matrix is not None}
    return [name for name, head in there.items() if look_like_counts(head)]


def look_like_counts(matrix: Any) -> bool:
    """Whether a matrix holds whole numbers, none below zero, and not zeros alone."""
    values = matrix.data if sp.issparse(matrix) else np.ravel(np.asarray(matrix))
    if not len(values) or not np.issubdtype(values.dtype, np.number) or np.issubdtype(values.dtype, np.complexfloating):
        return False
    return bool((values >= 0).all() and (values == np.rint(values)).all() and values.any())


def _needs_counts(where: str, elsewhere: Sequence[str]) -> str:
    if not elsewhere:
        return f"this model needs raw counts: pass layer= if they are in another layer than {where}"
    told = " or ".join("layer=None" if name == "X" else f"layer={name!r}" for name in elsewhere)
    return f"this model needs raw counts, and {some(elsewhere)} holds whole numbers: pass {told}"


@dataclass(frozen=True)
class _Values:
    """The values of a matrix, with what it takes to name the cells of some of them."""

    values: np.ndarray
    matrix: Any
    cells: Any

    def refuse(self, bad: Callable, message: str, remedy: str) -> None:
        if not np.issubdtype(self.values.dtype, np.floating) and "negative" not in message and "0 and 1" not in message:
            return  # whole numbers are finite and whole
        for start, values in _pieces(self.values):
            found = bad(values)
            if found.any():
                rows = np.unique(self._rows(start + np.flatnonzero(found)))
                more = " (and perhaps more)" if start + len(values) < len(self.values) else ""
                raise DataError(f"{message}, in {len(rows)} cells{more}: {some(self.cells[rows])}", remedy)

    def _rows(self, entry: np.ndarray) -> np.ndarray:
        if not sp.issparse(self.matrix):
            return entry // self.matrix.shape[1]
        return np.searchsorted(self.matrix.indptr, entry, side="right") - 1


def _extremes(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest; NaN if there is a NaN, which numpy lets through."""
    found = [(piece.min(), piece.max()) for _, piece in _pieces(values)] or [(0, 0)]
    return float(np.min(found)), float(np.max(found))


def _pieces(values: np.ndarray):
    for start in range(0, len(values), PIECE):
        yield start, values[start : start + PIECE]


def mark_of(names: pd.Index) -> str:
    """A mark by which one tells other cells, or another order of the same."""
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()[:16]


def mark_of_number(n: int) -> str:
    """The mark of cells of which only the number is known, as in files of scvi-tools."""
    return f"{n} cells"


def check_marked(mark: str | None, names: pd.Index) -> None:
    """Raise DataError unless these are the cells of the mark; a model without parameters of each cell has none."""
    if mark not in (None, mark_of(names), mark_of_number(len(names))):
        message = "this model has parameters of each cell that it was trained on, and these are not those cells"
        raise DataError(message, "pass all of them, in their order; to other cells fit a model of their own")


def check_same_cells(mark: str | None, start: str | None) -> None:
    """Raise DataError where a model with parameters of each cell is to start from one of other cells."""
    if None not in (mark, start) and mark != start and not str(start).endswith(" cells"):
        raise DataError("the model to start from has parameters of other cells", "leave start= out")
