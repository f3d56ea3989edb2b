"""Rows that an iterable gives in its own order, pass after pass: a `CellLoader` as read by a schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scduet.data.loader import minibatches
from scduet.data.on_disk import ENTRIES_AT_ONCE
from scduet.data.samplers import evenly_spaced
from scduet.data.sources import Cells, DenseSource, MemorySource, Source, between, gathered, joined
from scduet.errors import DataError

LEAST = 3  # cells of a minibatch: batch norm needs more than one, and `samplers.boundaries` joins a rest of two
_BY_CELL = ("total", "batch", "label", "categorical", "continuous", "size_factor")


@dataclass(frozen=True)
class LoaderSource:
    """Rows in the order in which they come. They can be walked through, any number of times, but not be asked for."""

    batches: Any  # an iterable, or a function that returns one
    n_genes: int
    read: Callable[[Any], Cells]  # cells of one item of the iterable, in memory
    most: int | None = None  # cells of a pass, if the iterable may give more
    held_out: LoaderSource | None = None
    n_cells: int = 0  # as counted in the first pass, like the following
    mean_entries: float = 0.0
    sums: np.ndarray | None = None

    entries_at_once = ENTRIES_AT_ONCE
    block = 1

    def walk(self) -> Iterator[Cells]:
        """One pass: the cells of each item, with every value checked. Raises DataError where there are none."""
        n = 0
        for item in self.batches if hasattr(self.batches, "__iter__") else self.batches():
            cells = self.read(item)
            if self.most is not None and n + len(cells) > self.most:
                cells = part(cells, 0, self.most - n)
            n += len(cells)
            yield cells
            if n == self.most:
                return
        if n == 0:
            remedy = "an iterator gives its cells once: pass a list, or a function that makes it anew"
            raise DataError("the loader gave no cells", remedy)

    def seen(self) -> Cells:
        """The cells after one pass, of which the annotations are kept, in the order of that pass."""
        entries, found = 0.0, []
        for cells in self.walk():
            entries += cells.counts.mean_entries * len(cells)
            found.append([getattr(cells, name) for name in _BY_CELL])
        whole = [None if parts[0] is None else np.concatenate(parts) for parts in zip(*found, strict=True)]
        known: dict[str, Any] = dict(zip(_BY_CELL, whole, strict=True))
        n, sums = len(known["batch"]), known["total"]
        return Cells(replace(self, n_cells=n, mean_entries=entries / max(1, n), sums=sums), **known)

    def pieces(self) -> Iterator[tuple[int, Any]]:
        """All rows. Raises DataError where they come in another order than in the first pass."""
        first = 0
        for cells in self.walk():
            last = first + len(cells)
            if self.sums is not None and not np.array_equal(cells.total, self.sums[first:last]):
                remedy = "for this model, pass a loader without shuffling, or files (a list of paths)"
                raise DataError("the loader gives its cells in another order in each pass", remedy)
            yield first, gathered(cells.counts)
            first = last

    def rows(self, index: np.ndarray) -> Any:
        remedy = "fit and Model.embed take a loader; elsewhere pass an AnnData, or files (a path, or a list of paths)"
        raise DataError("a loader gives its cells in its own order, and single cells are needed here", remedy)

    def totals(self) -> np.ndarray:
        return self.seen().total if self.sums is None else self.sums


class Cutter:
    """Minibatches of cells that come in pieces of any size, each piece once."""

    def __init__(self, pieces: Iterator[Cells]):
        self.pieces, self.held, self.first = pieces, None, 0

    def __call__(self, done: int, size: int) -> Iterator[Any]:
        """The cells after the first `done`, as a CellBatch of `size` each; may be asked again where it was left."""
        if self.held is not None:
            self.held, self.first = part(self.held, done - self.first), done
        more = True
        while more:
            piece = next(self.pieces, None)
            more = piece is not None
            if piece is not None:
                self.held = piece if self.held is None else together(self.held, piece)
            if self.held is None:
                return
            n = max(0, (len(self.held) - LEAST) // size) * size if more else len(self.held)
            if n == 0 and more:
                continue
            for cells in minibatches(self.held, np.arange(n), size):
                yield replace(cells, index=cells.index + self.first)
            self.held, self.first = part(self.held, n), self.first + n


def part(cells: Cells, start: int, stop: int | None = None) -> Cells:
    """Some neighboring cells."""
    rows = gathered(cells.counts)
    stop = len(cells) if stop is None else stop
    kept = rows[start:stop] if isinstance(rows, np.ndarray) else between(rows, start, stop)
    arrays = {name: getattr(cells, name) for name in _BY_CELL}
    return replace(cells, counts=_source(kept), **{k: None if a is None else a[start:stop] for k, a in arrays.items()})


def together(first: Cells, second: Cells) -> Cells:
    """The cells of both."""
    rows = [gathered(cells.counts) for cells in (first, second)]
    counts = _source(np.concatenate(rows) if isinstance(rows[0], np.ndarray) else joined(rows))
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in _BY_CELL}
    return replace(
        first, counts=counts, **{k: None if a is None else np.concatenate((a, b)) for k, (a, b) in pairs.items()}
    )


def _source(rows: Any) -> MemorySource | DenseSource:
    return DenseSource(rows) if isinstance(rows, np.ndarray) else MemorySource(rows)


def spread_rows(source: Source, most: int) -> Any:
    """At most `most` rows, spread over the data; of a loader, those that it gives first."""
    if isinstance(source, LoaderSource):
        return gathered(next(source.walk()).counts)[:most]
    return source.rows(evenly_spaced(source.n_cells, most))


def stretches(source: Source, size: int) -> Iterator[tuple[np.ndarray, Any]]:
    """All rows, of the columns used, `size` at a time or as a loader gives them, each with its places."""
    if isinstance(source, LoaderSource):
        for first, rows in source.pieces():
            yield np.arange(first, first + rows.shape[0]), rows
        return
    for start in range(0, source.n_cells, size):
        places = np.arange(start, min(start + size, source.n_cells))
        yield places, source.rows(places)
