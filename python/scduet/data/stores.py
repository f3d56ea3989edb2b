"""Several files of cells as one data set: rows from each file in turn, genes matched by their names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from scduet.data.checks import check_names
from scduet.data.on_disk import ENTRIES_AT_ONCE, CellsOnDisk, FileSource, collection_in, opened
from scduet.data.remote import location
from scduet.data.sources import joined
from scduet.errors import DataError, OptionError, some

STORE = "store"  # column of obs with the name of the file, unless the files have such a column


@dataclass
class StoresSource:
    """Rows of matrices in several files, one after the other, with columns in one order."""

    sources: tuple[FileSource, ...]
    genes: np.ndarray | None = None  # of the columns that the sources share, -1 for one that is not there
    dense: bool = False
    _parts: list[FileSource] = field(init=False, repr=False)

    entries_at_once = ENTRIES_AT_ONCE

    def __post_init__(self) -> None:
        self._parts = [replace(s, genes=_columns(s, self.genes), dense=self.dense) for s in self.sources]

    @property
    def shape(self) -> tuple[int, int]:
        return self.n_cells, self.n_genes

    @property
    def n_cells(self) -> int:
        return sum(part.n_cells for part in self._parts)

    @property
    def n_genes(self) -> int:
        return self._parts[0].n_genes

    @property
    def mean_entries(self) -> float:
        return sum(part.mean_entries * part.n_cells for part in self._parts) / max(1, self.n_cells)

    @property
    def block(self) -> int:
        return max(part.block for part in self._parts)

    def rows(self, index: np.ndarray) -> Any:
        part_of = np.searchsorted(self._ends, index, side="right")
        order = np.argsort(part_of, kind="stable")
        read = []
        for place in np.unique(part_of):
            inside = index[order[part_of[order] == place]] - self._starts[place]
            read.append(self._parts[place].rows(inside))
        if not read:
            return self._parts[0].rows(index)
        whole = np.concatenate(read) if self.dense else joined(read)
        return whole[np.argsort(order, kind="stable")]

    def pieces(self) -> Iterator[tuple[int, Any]]:
        for first, part in zip(self._starts, self._parts, strict=True):
            for start, piece in part.pieces():
                yield int(first) + start, piece

    def totals(self) -> np.ndarray:
        return np.concatenate([part.totals() for part in self._parts])

    @property
    def _ends(self) -> np.ndarray:
        return np.cumsum([part.n_cells for part in self._parts])

    @property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], self._ends[:-1]])


@dataclass(frozen=True)
class StoresOnDisk(CellsOnDisk):
    """Several files as one; var holds the features that all of them have, in the order of the first."""

    parts: tuple[CellsOnDisk, ...] = ()

    def keys(self, store: str) -> list[str]:
        """What all files have in layers or obsm; nothing of what would differ between them."""
        if store not in ("layers", "obsm"):
            return []
        return sorted(set.intersection(*(set(part.keys(store)) for part in self.parts)))

    @property
    def has_raw(self) -> bool:
        return False

    def stored(self, place: str) -> StoresSource:
        found = [part.stored(place) for part in self.parts]
        other = next((p for p, f in zip(self.parts, found, strict=True) if not isinstance(f, FileSource)), None)
        if other is not None:
            raise DataError(f"{place} of {other.path} cannot be read by rows", "write it as CSR or as an array")
        if place.startswith("obsm/"):
            if len({source.n_genes for source in found}) > 1:
                raise DataError(
                    f"{place} has {some([s.n_genes for s in found])} columns in the files", "make them alike"
                )
            return StoresSource(tuple(found))
        places = [part.var_names.get_indexer(self.var_names) for part in self.parts]
        return StoresSource(tuple(replace(s, genes=place) for s, place in zip(found, places, strict=True)))


def opened_store(data: Any) -> CellsOnDisk:
    """The cells of a path or a backed AnnData; of a store that holds several AnnData (annbatch's), all of them."""
    groups = collection_in(location(data)) if isinstance(data, (str, os.PathLike)) else []
    return together([opened(data, group) for group in groups]) if groups else opened(data)


def together(paths: Sequence[Any]) -> CellsOnDisk:
    """Several files of cells (paths, or what is opened already) as one.

    obs has the columns that any file has, and "store" with the name of the file; cells whose names are in several files
    get the number of the file as an ending ("-0", "-1", ...). Raises DataError for files that share no feature.
    """
    if not paths:
        raise OptionError("the list of files is empty", "give one path or more")
    other = next((p for p in paths if not isinstance(p, (str, os.PathLike, CellsOnDisk))), None)
    if other is not None:
        raise DataError(f"a list of files holds a {type(other).__name__}", "join cells in memory: anndata.concat")
    parts = tuple(path if isinstance(path, CellsOnDisk) else opened_store(path) for path in paths)
    for part in parts:
        if part.modalities:
            raise DataError(f"{part.path} is a MuData: several can be used in memory only", "read and join them first")
        check_names(part.var_names, "gene")
    shared = parts[0].var_names
    for part in parts[1:]:
        shared = shared[shared.isin(part.var_names)]
        if not len(shared):
            raise DataError(f"{part.path} shares no gene with {parts[0].path}", "are names symbols in one file alone?")
    return StoresOnDisk(parts[0].path, _obs(parts), parts[0].var.loc[shared], parts=parts)


def _obs(parts: Sequence[CellsOnDisk]) -> pd.DataFrame:
    tables = [part.obs.copy() for part in parts]
    names = np.concatenate([np.asarray(table.index, dtype=object) for table in tables])
    if pd.Index(names).has_duplicates:
        for number, table in enumerate(tables):
            table.index = table.index.astype(str) + f"-{number}"
    if not any(STORE in table for table in tables):
        stems = [part.group.strip("/") or part.path.stem for part in parts]
        for number, (table, stem) in enumerate(zip(tables, stems, strict=True)):
            table[STORE] = stem if stems.count(stem) == 1 else f"{stem}-{number}"
    obs = pd.concat(tables)
    for name in obs:
        if obs[name].dtype == object and any(
            isinstance(t[name].dtype, pd.CategoricalDtype) for t in tables if name in t
        ):
            obs[name] = obs[name].astype("category")  # files knew other levels
    return obs


def _columns(source: FileSource, genes: np.ndarray | None) -> np.ndarray | None:
    """The columns of the file, of columns of what all files share."""
    if genes is None or source.genes is None:
        return source.genes if genes is None else genes
    return np.where(genes < 0, -1, source.genes[genes])
