"""Matrices that stay on disk: rows in an .h5ad or .h5mu file or a zarr store, read in blocks while they are needed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scduet.data.found import names_in
from scduet.data.remote import Remote, location
from scduet.data.sources import MemorySource, canonical, csr, dense_columns, from_dense, joined
from scduet.data.stored_files import encoding, reading, table
from scduet.errors import DataError, some

_NOTHING = np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(1, np.int64)
ENTRIES_AT_ONCE = 8_000_000  # stored counts in memory at a time (64 MB): the pool in which rows are shuffled
BLOCKS_IN_POOL = 32  # shuffle blocks that fill the pool, when the block is ours to choose
STRETCH_ENTRIES = 2_000_000  # stored counts read with one request
GAP_ENTRIES = 50_000  # unwanted counts that are read along rather than skipped with a new request


@dataclass(frozen=True)
class CellsOnDisk:
    """A file of cells, or a modality in it: obs and var in memory, the matrices on disk. Stands in for an AnnData."""

    path: Path | Remote
    obs: pd.DataFrame = field(repr=False)
    var: pd.DataFrame = field(repr=False)
    loaded: Any = field(repr=False, default=None)  # the AnnData, if it has the matrices beside X in memory
    group: str = ""  # of a modality: its place in the file, "mod/rna/"
    modalities: tuple[str, ...] = ()  # of an .h5mu file

    @property
    def obs_names(self) -> pd.Index:
        return self.obs.index

    @property
    def var_names(self) -> pd.Index:
        return self.var.index

    @property
    def n_obs(self) -> int:
        return len(self.obs)

    @property
    def n_vars(self) -> int:
        return len(self.var)

    def modality(self, name: str) -> CellsOnDisk:
        """One of the modalities of an .h5mu file."""
        return _read_annotations(self.path, f"mod/{name}/")

    def keys(self, store: str) -> list[str]:
        """What there is in layers, obsm, varm, varp, obsp or uns."""
        if self.loaded is not None:
            return sorted(names_in(getattr(self.loaded, store)))
        with reading(self.path) as root:
            return sorted(root[self.group + store]) if self.group + store in root else []

    @property
    def has_raw(self) -> bool:
        if self.loaded is not None:
            return self.loaded.raw is not None
        with reading(self.path) as root:
            return f"{self.group}raw/X" in root or "raw.X" in root

    def stored(self, place: str) -> Any:
        """What is at `place`, e.g. "X" or "obsm/protein": rows of cells as a `FileSource`, the rest read into memory.

        Raises DataError for what cannot be read by rows.
        """
        store, _, key = place.partition("/")
        if self.loaded is not None and store not in ("X", "raw"):
            return getattr(self.loaded, store)[key]
        with reading(self.path) as root:
            if place.startswith("raw/") and "raw.X" in root:  # anndata 0.6
                place = place.replace("/", ".")
            found = root[self.group + place]
            by_rows = store in ("X", "layers", "obsm") or place in ("raw/X", "raw.X")
            if by_rows and encoding(found) not in ("dataframe", "awkward-array"):
                return _described(self, place, found)
            return table(root, found)


def opened(data: Any, group: str = "") -> CellsOnDisk:
    """The cells that a path or a backed AnnData stands for. group: of one that is a part of the file: "dataset_0/"."""
    if isinstance(data, (str, os.PathLike)):
        return _read_annotations(location(data), group)
    if data.is_view:
        raise DataError("this is a part of a backed AnnData", "use part.to_memory(), or write the part to a file")
    return CellsOnDisk(Path(data.filename), data.obs, data.var, data)


def collection_in(path: Path | Remote) -> list[str]:
    """The groups of an annbatch collection, a store of several AnnData called dataset_0, dataset_1, ...; else none."""
    if not path.is_dir():
        return []
    with reading(path) as root:
        names = [] if "obs" in root else [name for name in root if re.fullmatch(r"dataset_\d+", name)]
    return sorted((f"{name}/" for name in names), key=lambda name: int(name[8:-1]))


@dataclass
class FileSource:
    """Rows of a matrix in a file. The file is opened for each request and closed after it.

    The first walk through all rows (`pieces`) notes a mark of each; rows that later have another are refused.
    """

    path: Path | Remote
    place: str  # e.g. "X"
    shape: tuple[int, int]  # as stored
    indptr: np.ndarray  # first stored entry of each row, and the end of the last
    sparse: bool
    chunk: int  # entries that the file compresses together
    genes: np.ndarray | None = None  # columns to give, -1 for one that is not there
    dense: bool = False  # give rows as an array
    _stamp: tuple = ()
    _totals: np.ndarray | None = None
    _marks: np.ndarray | None = None

    entries_at_once = ENTRIES_AT_ONCE

    @property
    def n_cells(self) -> int:
        return self.shape[0]

    @property
    def n_genes(self) -> int:
        return self.shape[1] if self.genes is None else len(self.genes)

    @property
    def mean_entries(self) -> float:
        return float(self.indptr[-1]) / max(1, self.n_cells)

    @property
    def block(self) -> int:
        """Rows that stay together when the order is shuffled: no fewer than a chunk of the file holds."""
        entries = max(ENTRIES_AT_ONCE // BLOCKS_IN_POOL, self.chunk)
        return max(1, int(entries / max(1.0, self.mean_entries)))

    def rows(self, index: np.ndarray) -> Any:
        self._refuse_changed(stamp_of(self.path, self.place) == self._stamp)
        stored, where = np.unique(index, return_inverse=True)
        read = self._stretches(stored)
        taken = dense_columns(read[where], self.genes) if self.dense else MemorySource(read, self.genes).rows(where)
        if self._marks is not None:
            self._refuse_changed(np.array_equal(self._mark(taken), self._marks[index], equal_nan=True))
        return taken

    def pieces(self) -> Iterator[tuple[int, Any]]:
        """All rows in order, some at a time, each piece with the number of its first row."""
        size = max(1, int(ENTRIES_AT_ONCE / 2 / max(1.0, self.mean_entries)))
        self._marks, totals, marks = None, [], []
        for start in range(0, self.n_cells, size):
            piece = self.rows(np.arange(start, min(start + size, self.n_cells)))
            yield start, piece
            totals.append(np.nansum(piece, 1) if self.dense else piece @ np.ones(self.n_genes, np.float32))
            marks.append(self._mark(piece))
        self._totals, self._marks = _end_to_end(totals, np.float32), _end_to_end(marks, np.float64)

    def totals(self) -> np.ndarray:
        if self._totals is None:
            for _ in self.pieces():
                pass
        assert self._totals is not None
        return self._totals

    @cached_property
    def _weights(self) -> np.ndarray:
        """A number for each gene, so that the weighted sum of a row tells whether a value or a place differs."""
        return np.random.default_rng(0).uniform(1, 2, self.n_genes)

    def _mark(self, rows: Any) -> np.ndarray:
        return np.nan_to_num(rows) @ self._weights if self.dense else rows @ self._weights

    def _stretches(self, stored: np.ndarray) -> Any:
        """The rows `stored` (ascending), read in few long stretches, of which the rows asked for are kept at once."""
        gap = max(1, int(GAP_ENTRIES / max(1.0, self.mean_entries)))
        stretch = np.cumsum(np.diff(stored, prepend=stored[:1]) > gap)  # rows far apart are read apart
        far = self.indptr[stored] // STRETCH_ENTRIES  # and no stretch is much longer than this
        cuts = np.flatnonzero((np.diff(stretch) > 0) | (np.diff(far) > 0)) + 1
        with reading(self.path) as root:
            matrix = root[self.place]
            arrays = (matrix["data"], matrix["indices"]) if self.sparse else (matrix,)
            parts = [part for part in np.split(stored, cuts) if len(part)]
            read = [self._read(arrays, int(part[0]), int(part[-1]) + 1)[part - part[0]] for part in parts]
        if read and not sp.issparse(read[0]):
            return np.concatenate(read)
        return canonical(joined(read)) if read else csr(*_NOTHING, (0, self.shape[1]))

    def _read(self, arrays: tuple, first: int, last: int) -> Any:
        """The rows from `first` up to `last`."""
        if not self.sparse:
            return np.asarray(arrays[0][first:last]) if self.dense else from_dense(arrays[0][first:last])
        start, end = int(self.indptr[first]), int(self.indptr[last])
        values = np.asarray(arrays[0][start:end]).astype(np.float32, copy=False)
        column = np.asarray(arrays[1][start:end]).astype(np.int32, copy=False)
        if len(column) and (column.min() < 0 or column.max() >= self.shape[1]):
            raise DataError(f"{self.path} is damaged: {self.place} names columns that do not exist", "copy it again")
        return csr(values, column, self.indptr[first : last + 1] - start, (last - first, self.shape[1]))

    def _refuse_changed(self, same: bool) -> None:
        if not same:
            remedy = "leave the file alone while it is in use, and start again; checkpoint= keeps what was learned"
            raise DataError(f"{self.path} has changed, or can no longer be read, since it was first looked at", remedy)


def stamp_of(path: Path | Remote, place: str) -> tuple:
    """What the file system knows of the file (or of the folders of a zarr array) that changes with its content.

    Nothing at an address: there the marks of the rows alone tell.
    """
    if isinstance(path, Remote):
        return ()
    places = [path / place / part for part in ("", "data", "indices")] if path.is_dir() else [path]
    known = [p.stat() for p in places if p.exists()]
    return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in known)


def _described(cells: CellsOnDisk, place: str, stored: Any) -> FileSource:
    """The source over one stored matrix, told by its encoding."""
    path = cells.path
    kind = encoding(stored)
    if kind == "csc_matrix":
        raise DataError(f"{place} of {path} is stored by columns (CSC)", "write it with X as CSR: adata.X.tocsr()")
    sparse = kind == "csr_matrix"
    if not sparse and len(getattr(stored, "shape", ())) != 2:
        raise DataError(f"{place} of {path} is neither CSR nor dense but {kind!r}", "write it as CSR")
    attributes = stored.attrs
    n_rows, n_columns = map(int, attributes.get("shape", attributes.get("h5sparse_shape")) if sparse else stored.shape)
    shape = n_rows, n_columns
    named = (cells.n_obs, shape[1] if place.startswith(("obsm/", "raw")) else cells.n_vars)
    if shape != named:
        raise DataError(f"{place} of {path} is {shape}, but obs and var say {named}", "is the file damaged?")
    indptr = np.asarray(stored["indptr"][:], np.int64) if sparse else np.arange(shape[0] + 1) * shape[1]
    if sparse:
        _refuse_damaged(path, place, stored, indptr, shape[0])
    first = stored["data"] if sparse else stored
    chunk = int(np.prod(first.chunks)) if first.chunks else 0
    place = cells.group + place
    return FileSource(path, place, shape, indptr, sparse, chunk, _stamp=stamp_of(path, place))


def _refuse_damaged(path: Path | Remote, place: str, stored: Any, indptr: np.ndarray, n_cells: int) -> None:
    """Missing chunks of a zarr array would be read as zeros: count them, and see that the three arrays agree."""
    sizes = {name: stored[name].shape[0] for name in ("data", "indices")}
    whole = len(indptr) == n_cells + 1 and indptr[0] == 0 and (np.diff(indptr) >= 0).all()
    if not whole or set(sizes.values()) != {int(indptr[-1])}:
        raise DataError(f"{place} of {path} is damaged: its parts do not agree", "copy or write it again")
    listed = isinstance(path, Path) and path.is_dir()  # at an address, each chunk would be asked for
    lacking = [name for name in sizes if listed and stored[name].nchunks_initialized < stored[name].nchunks]
    if lacking:
        raise DataError(f"{place} of {path} lacks chunks of {some(lacking)}", "copy or write it again")


def _read_annotations(path: Path | Remote, group: str = "") -> CellsOnDisk:
    with reading(path) as root:
        if f"{group}obs" not in root or f"{group}var" not in root:
            raise DataError(f"{path} holds no AnnData", "write one with adata.write_h5ad or adata.write_zarr")
        obs, var = table(root, root[f"{group}obs"]), table(root, root[f"{group}var"])
        modalities = tuple(sorted(root["mod"])) if "mod" in root and not group else ()
        return CellsOnDisk(path, obs, var, group=group, modalities=modalities)


def _end_to_end(parts: list[np.ndarray], dtype) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
