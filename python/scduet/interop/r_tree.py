"""What lies in an R data file, looked at piece by piece: slots, lists, vectors, matrices, data frames. Runs no R.

The package rdata parses the bytes into a tree; only what is asked for is turned into numbers, so that parts that no
one needs (promises, environments, functions) do no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from scduet.errors import FormatError, some

try:
    from rdata.parser import DEFAULT_ALTREP_MAP, RObjectInfo
    from rdata.parser import RObjectType as Kind
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("reading R data files needs the package rdata: pip install 'scduet[r]'") from error


@dataclass(frozen=True)
class Node:
    """One R object."""

    raw: Any

    @property
    def kind(self) -> Kind:
        return self.raw.info.type

    @property
    def slots(self) -> dict[str, Node]:
        """Attributes of the object, which for S4 objects are its slots."""
        return dict(_pairs(self.raw.attributes))

    def slot(self, name: str) -> Node:
        if name not in self.slots:
            raise FormatError(f"an R object of class {self.classes} has no part {name!r}", "is the file complete?")
        return self.slots[name]

    @property
    def classes(self) -> list[str]:
        return self.slots["class"].text() if "class" in self.slots else []

    @property
    def items(self) -> dict[str, Node]:
        """Elements of a named list, a SimpleList, or an environment."""
        if "listData" in self.slots:
            return self.slot("listData").items
        if self.kind == Kind.ENV:
            return _in_environment(self.raw)
        if self.kind != Kind.VEC or "names" not in self.slots:
            return {}
        return dict(zip(self.slot("names").text(), map(_node, self.raw.value), strict=True))

    @property
    def elements(self) -> list[Node]:
        """Elements of a list, named or not."""
        return [_node(raw) for raw in self.raw.value] if self.kind == Kind.VEC else []

    def text(self) -> list[str]:
        """Strings; a missing one is None."""
        if self.kind != Kind.STR:
            return []
        return [None if s.value is None else _decoded(s) for s in self.raw.value]  # type: ignore[misc]

    def is_empty(self) -> bool:
        return self.raw.value is None or self.kind in (Kind.NILVALUE, Kind.SYM) or np.size(self.raw.value) == 0

    @property
    def is_column(self) -> bool:
        """Whether `vector` can read it: a vector, an array of one dimension, or one that is run-length encoded."""
        if "lengths" in self.slots and "values" in self.slots:
            return self.slot("values").is_column
        flat = "dim" not in self.slots or np.size(self.slot("dim").raw.value) == 1
        return self.kind in COLUMNS and flat and not set(self.classes) & STRANGE

    def vector(self):
        """A column: numbers, text, times or a factor, with its missing values."""
        if "lengths" in self.slots:  # an Rle
            values = pd.Series(self.slot("values").vector())
            return values.repeat(np.asarray(self.slot("lengths").raw.value)).array
        if "levels" in self.slots:
            codes = np.ma.filled(np.ma.asarray(self.raw.value), 0).astype(int)
            codes[codes < 0] = 0  # R's NA
            ordered = "ordered" in self.classes
            return pd.Categorical.from_codes(codes - 1, self.slot("levels").text(), ordered=ordered)
        if self.kind == Kind.STR:
            return np.array(self.text(), dtype=object)
        values = np.ma.asarray(self.raw.value)
        if set(self.classes) & {"Date", "POSIXct"}:
            return self._times(np.ma.filled(values.astype(float), np.nan))
        missing = np.ma.getmaskarray(values)
        if self.kind == Kind.LGL:
            flags = values.filled(0).astype(bool)
            return pd.arrays.BooleanArray(flags, missing) if missing.any() else flags
        if self.kind == Kind.INT and missing.any():
            return pd.arrays.IntegerArray(values.filled(0).astype(np.int32), missing)
        return np.asarray(values)

    def _times(self, numbers: np.ndarray):
        """Days, or seconds in a zone, since 1970."""
        if "Date" in self.classes:
            return pd.to_datetime(pd.Series(numbers), unit="D").array
        zone = (self.slots["tzone"].text() or [None])[0] if "tzone" in self.slots else None
        times = pd.to_datetime(pd.Series(numbers), unit="s", utc=True)
        try:
            return times.dt.tz_convert(zone or "UTC").array
        except (KeyError, ValueError, OSError):  # R knows zones that Python does not; the instant is the same
            return times.array

    def matrix(self) -> tuple[Any, list[str], list[str]]:
        """A matrix turned to columns x rows (cells x genes of R's genes x cells), its row names and column names."""
        if "p" in self.slots:
            shape = [int(n) for n in np.asarray(self.slot("Dim").raw.value)]
            arrays = tuple(np.asarray(self.slot(name).raw.value) for name in ("x", "i", "p"))
            value = sparse.csr_matrix(arrays, shape=(shape[1], shape[0]))
            return value, *_names(self.slots.get("Dimnames"))
        if "j" in self.slots:  # triplets
            shape = [int(n) for n in np.asarray(self.slot("Dim").raw.value)]
            x, row, column = (np.asarray(self.slot(name).raw.value) for name in ("x", "i", "j"))
            return sparse.csr_matrix((x, (column, row)), shape=shape[::-1]), *_names(self.slots.get("Dimnames"))
        if "seed" in self.slots:
            return self._delayed()
        if "dim" not in self.slots or "filepath" in self.slots:  # of a file elsewhere
            where = self.slots["filepath"].text()[:1] if "filepath" in self.slots else []
            kind = " ".join([*self.classes, *(f"({place})" for place in where)])
            raise FormatError(f"a matrix of class {kind} cannot be read", "in R, make it a dgCMatrix and save again")
        rows, columns = (int(n) for n in np.asarray(self.slot("dim").raw.value))
        return np.asarray(self.raw.value).reshape(columns, rows), *_names(self.slots.get("dimnames"))

    def _delayed(self) -> tuple[Any, list[str], list[str]]:
        """A DelayedMatrix whose values are in the file: the same as another one, a part of it, or with other names."""
        value, rows, columns = self.slot("seed").matrix()
        if "DelayedSubset" in self.classes:
            index = [_node(raw) for raw in self.slot("index").raw.value]
            for axis, wanted in ((1, index[0]), (0, index[1])):  # of R's rows, of R's columns
                if not wanted.is_empty():
                    place = np.asarray(wanted.raw.value).astype(int) - 1
                    value = value[:, place] if axis else value[place]
                    rows = [rows[i] for i in place] if axis and rows else rows
                    columns = [columns[i] for i in place] if not axis and columns else columns
        elif "DelayedAperm" in self.classes:
            if np.asarray(self.slot("perm").raw.value).tolist() == [2, 1]:
                value, rows, columns = value.T, columns, rows
        elif "DelayedSetDimnames" in self.classes:
            given = [_node(raw).text() for raw in self.slot("dimnames").raw.value]
            rows, columns = given[0] or rows, given[1] or columns
        elif set(self.classes) & DELAYED:
            raise FormatError(
                f"a delayed {some(self.classes)} cannot be read", "in R, make it a dgCMatrix and save again"
            )
        return value, rows, columns

    def left_out(self) -> list[str]:
        """Columns of a data frame that `frame` does not give."""
        return [name for name, item in self.items.items() if not item.is_column]

    def frame(self) -> pd.DataFrame:
        """A data frame, or a DataFrame of Bioconductor; without the columns of `left_out`."""
        index = self.slots.get("row.names", self.slots.get("rownames"))
        n = int(np.asarray(self.slot("nrows").raw.value)[0]) if "nrows" in self.slots else None
        columns = {name: item.vector() for name, item in self.items.items() if item.is_column}
        names = index.text() if index is not None else []
        length = len(names) or n or max((len(c) for c in columns.values()), default=0)
        return pd.DataFrame(columns, index=pd.Index(names or [str(i) for i in range(length)], dtype=object))


COLUMNS = (Kind.STR, Kind.INT, Kind.LGL, Kind.REAL)
STRANGE = {"difftime", "integer64"}  # whose numbers do not mean what they are
DELAYED = {
    "DelayedUnaryIsoOpStack",
    "DelayedUnaryIsoOpWithArgs",
    "DelayedNaryIsoOp",
    "DelayedAbind",
    "DelayedSubassign",
}
LATIN1 = 1 << 2  # a flag of R's strings


def open_file(path: str) -> dict[str, Node]:
    """The objects in an .rds, .rda or .RData file by name; that of an .rds is called "". Raises FormatError."""
    import rdata

    try:
        top = rdata.parser.parse_file(path, altrep_constructor_dict=ALTREP).object
    except FileNotFoundError as error:
        raise FormatError(f"there is no file {path!r}", "look at the path") from error
    except Exception as error:
        remedy = "is it complete? R functions in it, e.g. of a delayed log1p(), cannot be read: save matrices instead"
        raise FormatError(f"{path!r} cannot be read as an R data file: {error}", remedy) from error
    return dict(_pairs(top)) if top.info.type == Kind.LIST else {"": _node(top)}


def _node(raw) -> Node:
    return Node(raw.referenced_object if raw.info.type == Kind.REF else raw)


def _integers(state) -> tuple[Any, np.ndarray]:
    """A sequence such as 9:1, which R keeps as length, start and step. rdata 1.1 cuts those that go down short."""
    n, start, step = (int(number) for number in state.value)
    return RObjectInfo(Kind.INT, False, False, False, 0, 0), start + step * np.arange(n, dtype=np.int32)


ALTREP = {**DEFAULT_ALTREP_MAP, b"compact_intseq": _integers}


def _decoded(string) -> str:
    if string.info.gp & LATIN1:
        return string.value.decode("latin-1")
    try:
        return string.value.decode("utf-8")
    except UnicodeDecodeError:  # in the encoding of the machine that wrote it, which is not in the string
        return string.value.decode("latin-1")


def _pairs(raw):
    """Tag and value of each cell of a pairlist."""
    while raw is not None and raw.info.type == Kind.LIST:
        tag = raw.tag.referenced_object if raw.tag.info.type == Kind.REF else raw.tag
        yield tag.value.value.decode(), _node(raw.value[0])
        raw = raw.value[1]


def _in_environment(raw) -> dict[str, Node]:
    tables = [raw.value.frame]
    if raw.value.hash_table is not None and raw.value.hash_table.info.type == Kind.VEC:
        tables += list(raw.value.hash_table.value)
    return {name: node for table in tables for name, node in _pairs(table)}


def _names(dimnames: Node | None) -> tuple[list[str], list[str]]:
    if dimnames is None or dimnames.kind != Kind.VEC:
        return [], []
    rows, columns = (_node(raw).text() for raw in dimnames.raw.value)
    return rows, columns
