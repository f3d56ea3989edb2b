"""Numbers, text and data frames to and from R, out of its memory or as raw bytes, a chunk at a time.

reticulate moves a raw vector as it is (R raw <-> bytearray), in every version and with every NumPy; its own converters
of arrays, sparse matrices and data frames are not used: they lose missing values and break with NumPy 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from scduet.data.levels import text as text_of_level
from scduet.interop import r_memory

NA_INTEGER = np.iinfo(np.int32).min  # R's NA of integer, logical and factor codes
DAY = 86_400
GROWTH = 1.5
PIECE = 2**17  # numbers looked at together: they stay in the processor's cache


class Vector:
    """An array filled from chunks of bytes; grows when more comes than was announced.

    kind: type of the numbers in the bytes, e.g. "float64". shrink: keep them as float32 as long as that is exact.
    """

    def __init__(self, kind: str, size: float = 0, shrink: bool = False):
        self._wire = np.dtype(kind)
        self._array = np.empty(int(size), np.float32 if shrink else self._wire)
        self._filled = 0

    def take(self, chunk: bytearray) -> None:
        """The next numbers, as bytes."""
        self._take(np.frombuffer(chunk, self._wire))

    def take_from(self, address: str, size: float) -> None:
        """The next numbers, straight from the R vector at `address`."""
        self._take(r_memory.view(address, self._wire.name, size))

    def _take(self, values: np.ndarray) -> None:
        stop = self._filled + len(values)
        if stop > len(self._array):
            self._array.resize(max(stop, int(len(self._array) * GROWTH)), refcheck=False)
        for start in range(0, len(values), PIECE):
            self._add(values[start : start + PIECE])

    def _add(self, values: np.ndarray) -> None:
        stop = self._filled + len(values)
        with np.errstate(over="ignore"):  # too large for float32 is one way not to be exact
            self._array[self._filled : stop] = values
        if self._array.dtype != self._wire and not (self._array[self._filled : stop] == values).all():
            wider = np.empty(len(self._array), self._wire)
            wider[: self._filled] = self._array[: self._filled]  # the rest is not set yet
            wider[self._filled : stop] = values
            self._array = wider
        self._filled = stop

    def array(self) -> np.ndarray:
        """What has come so far; the array owns its memory and may be written to."""
        if self._filled < len(self._array):
            self._array.resize(self._filled, refcheck=False)
        return self._array


def chunk(array: np.ndarray, start: float, stop: float, kind: str) -> bytearray:
    """Entries [start, stop) of a one-dimensional array as bytes of type `kind`."""
    return bytearray(np.ascontiguousarray(array[int(start) : int(stop)], dtype=kind).data)


def text(lengths: Vector, blob: Vector) -> list[str | None]:
    """Strings from their lengths in bytes (-1: missing) and their UTF-8 bytes in a row."""
    sizes, data = lengths.array(), blob.array().tobytes()
    ends = np.cumsum(np.maximum(sizes, 0), dtype=np.int64)
    return [
        None if size < 0 else data[end - size : end].decode()
        for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Text:
    """Strings as R reads them: lengths in bytes (-1: missing) and UTF-8 bytes in a row."""

    lengths: np.ndarray
    blob: np.ndarray


def as_text(strings) -> Text:
    encoded = [None if _missing(s) else str(s).encode() for s in strings]
    lengths = np.array([-1 if e is None else len(e) for e in encoded], np.int32)
    return Text(lengths, np.frombuffer(b"".join(e for e in encoded if e is not None), np.uint8))


def csr(values: Vector, columns: Vector, pointers: list[Vector], n_columns: float) -> sparse.csr_matrix:
    """Cells x genes from the arrays of one or more dgCMatrix of genes x cells, which are the same arrays.

    pointers: those of each block of cells, each starting at 0.
    """
    data, indices = values.array(), columns.array()
    starts = np.cumsum([0] + [int(p.array()[-1]) for p in pointers])
    wide = len(data) > np.iinfo(np.int32).max
    pointer = np.concatenate(
        [np.zeros(1)] + [p.array()[1:].astype(np.int64) + start for p, start in zip(pointers, starts, strict=False)]
    )
    matrix = sparse.csr_matrix((len(pointer) - 1, int(n_columns)), dtype=data.dtype)
    matrix.data, matrix.indices = data, indices.astype(np.int64) if wide else indices
    matrix.indptr = pointer.astype(np.int64 if wide else np.int32)
    matrix.sort_indices()  # at once where they are sorted, as R's are unless layers differ in their genes
    return matrix


def dense(values: Vector, n_rows: float, n_columns: float) -> np.ndarray:
    """A matrix that came column by column, as R keeps it."""
    return np.ascontiguousarray(values.array().reshape(int(n_columns), int(n_rows)).T)


def column(
    kind: str, values: Vector | list, levels: list | None = None, ordered: bool = False, zone: str | None = None
):
    """One column of a data frame with its missing values. kind: R's class. zone: in which R shows POSIXct."""
    if kind == "character":
        return pd.array(values, dtype=object)
    array = values.array()  # pyright: ignore[reportAttributeAccessIssue]
    if kind == "factor":
        return pd.Categorical.from_codes(array, categories=levels or [], ordered=ordered)
    if kind == "Date":
        return pd.to_datetime(pd.Series(array) * DAY, unit="s").array
    if kind == "POSIXct":
        return _in_zone(pd.to_datetime(pd.Series(array), unit="s", utc=True), zone).array
    if kind == "numeric":
        return array
    missing = array == NA_INTEGER
    if kind == "logical":
        return pd.arrays.BooleanArray(array == 1, missing) if missing.any() else array == 1
    return pd.arrays.IntegerArray(np.where(missing, 0, array), missing) if missing.any() else array


def _in_zone(times: pd.Series, zone: str | None) -> pd.Series:
    try:
        return times.dt.tz_convert(zone or "UTC")
    except (KeyError, ValueError, OSError):  # R knows zones that Python does not; the instant is the same
        return times


def frame(names: list[str], columns: list, index: list[str]) -> pd.DataFrame:
    """A data frame of columns made by `column`."""
    return pd.DataFrame(dict(zip(names, columns, strict=True)), index=pd.Index(index, dtype=object))


@dataclass(frozen=True)
class Column:
    """A column as R reads it; `values` are numbers or Text, `kind` is R's class."""

    name: str
    kind: str
    values: np.ndarray | Text
    levels: Text | None = None
    ordered: bool = False
    zone: str = "UTC"  # of POSIXct


def columns_of(table: pd.DataFrame) -> list[Column]:
    """Every column of `table`, missing values kept."""
    return [_as_column(str(name), table.iloc[:, place]) for place, name in enumerate(table.columns)]


def _as_column(name: str, values: pd.Series) -> Column:
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype):
        levels, codes = as_text(map(text_of_level, values.cat.categories)), values.cat.codes.to_numpy(np.int32)
        return Column(name, "factor", np.where(codes < 0, NA_INTEGER, codes + 1), levels, bool(kind.ordered))
    if pd.api.types.is_datetime64_any_dtype(kind):
        return _as_time(name, values)
    if pd.api.types.is_bool_dtype(kind) or _holds(values, bool):
        return Column(name, "logical", _with_na(values, np.int32, NA_INTEGER))
    if pd.api.types.is_integer_dtype(kind) and values.dropna().between(NA_INTEGER + 1, -(NA_INTEGER + 1)).all():
        return Column(name, "integer", _with_na(values, np.int32, NA_INTEGER))
    if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind):
        return Column(name, "numeric", _with_na(values, np.float64, np.nan))
    return Column(name, "character", as_text(values))


def _as_time(name: str, values: pd.Series) -> Column:
    utc = values.dt.tz_convert("UTC").dt.tz_localize(None) if values.dt.tz is not None else values
    seconds = utc.astype("datetime64[ns]").astype(np.int64).to_numpy() / 1e9
    seconds = np.where(utc.isna(), np.nan, seconds)
    whole_days = values.dt.tz is None and bool((seconds[~np.isnan(seconds)] % DAY == 0).all())
    if whole_days:
        return Column(name, "Date", seconds / DAY)
    return Column(name, "POSIXct", seconds, zone=str(values.dt.tz or "UTC"))


def _with_na(values: pd.Series, dtype, missing) -> np.ndarray:
    if values.dtype == dtype:  # bit for bit: R tells its NA from NaN by the payload
        return values.to_numpy()
    return values.to_numpy(dtype=dtype, na_value=missing)


def _holds(values: pd.Series, kind: type) -> bool:
    present = values.dropna() if values.dtype == object else []
    return len(present) > 0 and all(isinstance(value, kind) for value in present)


def _missing(value) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)
