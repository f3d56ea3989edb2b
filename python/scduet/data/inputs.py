"""What a model reads beside the main matrix: found, checked, and in the order of the cells and genes of its schema."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from scduet.contract import Input, Table
from scduet.data import checks, locate
from scduet.data.feature_names import places_of
from scduet.data.locate import Found
from scduet.data.sources import Cells, DenseSource, Source, gathered, in_memory
from scduet.errors import DataError, OptionError, ScduetWarning, some

PIECE = 4096  # cells looked at together
Inputs = Mapping[str, Input]
Names = tuple[str, ...] | int  # names of the columns, or how many there are


def find(data: Any, fields: Any, given: Input) -> Found | None:
    """The matrix of one input; None where it is not required and the user named no place.

    Raises OptionError where the place is missing, DataError where nothing is there.
    """
    place = getattr(fields, given.option)
    holder = data if given.axis in ("cell", "cell-cell") else locate.features_of(data, fields.layer)
    if place is not None:
        return locate.locate(holder, locate.resolve(holder, place, given))
    if not given.required:
        return None
    there = locate.listed(holder, given.look_in or locate.LOOK_IN[given.axis])
    raise OptionError(f"this model needs {given.option}=", there)


def columns_of(data: Any, fields: Any, inputs: Inputs, genes: tuple[str, ...]) -> dict[str, Names]:
    """The columns of each input that the data have, where these are the same for other data."""
    kinds = ("cell", "feature", "feature-feature")
    found = {name: find(data, fields, given) for name, given in inputs.items() if given.axis in kinds}
    return {name: genes if inputs[name].of_genes else _names(one) for name, one in found.items() if one is not None}


def rows_of_cells(
    data: Any, fields: Any, inputs: Inputs, features: Mapping[str, Names], allow_non_integer: bool
) -> tuple[dict[str, Source], dict[str, np.ndarray]]:
    """The inputs about cells, and of those that some cells lack, which cells have them. Looks at every value."""
    sources: dict[str, Source] = {}
    measured: dict[str, np.ndarray] = {}
    for name, given in inputs.items():
        if given.axis not in ("cell", "cell-cell") or (given.axis == "cell" and name not in features):
            continue
        if given.may_miss and not locate.is_there(data, getattr(fields, given.option), given):
            sources[name], measured[name] = nothing(data, features[name], given)
            continue
        found = find(data, fields, given)
        if found is None:
            continue
        columns = _columns(found, features[name], given) if given.axis == "cell" else None
        sources[name], known = locate.as_source(found, data.obs_names, columns, given)
        remedy = f"pass {given.option}= with the place of what this model reads"
        for start, piece in sources[name].pieces():
            cells = data.obs_names[start : start + piece.shape[0]]
            checks.check_values(piece, cells, found.where, given.values, allow_non_integer, given.may_miss, remedy)
        known = where_counted(given, sources[name], known)
        if known is not None:
            measured[name] = known
    return sources, measured


def where_counted(given: Input, source: Source, known: np.ndarray | None) -> np.ndarray | None:
    """Cells in which an input was measured, None for all: of one that is sparse and may miss, those with any count."""
    if not (given.sparse and given.may_miss and given.values == "counts"):
        return known
    counted = source.totals() > 0
    counted = counted if known is None else known & counted
    return None if counted.all() else counted


def arrays_of_features(
    data: Any, fields: Any, inputs: Inputs, genes: tuple[str, ...]
) -> dict[str, NDArray[np.float32]]:
    """The inputs about features, with rows (and columns) in the order of `genes`."""
    made = {}
    for name, given in inputs.items():
        found = find(data, fields, given) if given.axis in ("feature", "feature-feature") else None
        if found is None:
            continue
        place = _rows(found, genes, given)
        values = _taken(found.numbers, place, given.axis == "feature-feature")
        if found.others is not None or given.may_miss:
            values[place < 0] = np.nan if found.others is None else found.others
        features = pd.Index(genes)
        checks.check_values(values, features, found.where, given.values, False, given.may_miss, "mend them")
        made[name] = values
    return made


def tables(
    data: Any, fields: Any, inputs: Inputs, genes: tuple[str, ...], features: Mapping[str, Names]
) -> dict[str, Table]:
    """The tables, by columns; of gene sets the columns "set" and "feature".

    genes, features: the columns of the main matrix and of the further inputs, for `names_of`.
    """
    made: dict[str, Table] = {}
    for name, given in inputs.items():
        found = find(data, fields, given) if given.axis == "table" else None
        if found is None:
            continue
        if isinstance(found.values, pd.DataFrame):
            frame = found.values.reset_index()
            made[name] = {str(key): tuple(frame[key].tolist()) for key in frame}
        else:
            sets, rows = np.nonzero(np.asarray(found.values).T)
            made[name] = {"set": tuple(found.columns[sets]), "feature": tuple(found.rows[rows])}
        for column in given.names_of.keys() & made[name].keys():
            names = genes if given.names_of[column] == "x" else features[given.names_of[column]]
            known = pd.Index([*map(str, range(names))] if isinstance(names, int) else names)
            places = known.get_indexer([str(one) for one in made[name][column]])
            made[name] = {**made[name], f"{column}_row": tuple(places.tolist())}
    return made


def measured_by_batch(cells: Cells, name: str, n_batches: int) -> NDArray[np.float32]:
    """Share of the cells of each batch in which each column of an input ("x": the main matrix) was measured.

    (batch, column), 0 in a batch without cells. For the `measure` of a model, as `Measured(..., "batch")`.
    """
    source, known = cells.counts if name == "x" else cells.extra[name], cells.measured.get(name)
    n, found = np.bincount(cells.batch, minlength=n_batches), np.zeros((n_batches, source.n_genes), np.float32)
    for start in range(0, source.n_cells, PIECE):
        index = np.arange(start, min(start + PIECE, source.n_cells))
        rows = source.rows(index)
        there = ~np.isnan(rows) if isinstance(rows, np.ndarray) else np.ones(rows.shape, bool)
        np.add.at(found, cells.batch[index], there if known is None else there & known[index, None])
    return found / np.maximum(n, 1)[:, None].astype(np.float32)


def nothing(data: Any, names: Names, given: Input) -> tuple[Source, np.ndarray]:
    """What is known of cells in which an input was not measured at all; a warning says so."""
    what = "main matrix" if given.option == "layer" else given.option
    text = f"the cells have no {what}: what the model reads there is taken as not measured"
    warnings.warn(text, ScduetWarning, stacklevel=5)
    return not_measured((data.n_obs, names if isinstance(names, int) else len(names)), given)


def not_measured(shape: tuple[int, int], given: Input) -> tuple[Source, np.ndarray]:
    """An input that no cell has: its rows, and of each cell that it was not measured there."""
    empty = sp.csr_matrix(shape, dtype=np.float32)
    whole = in_memory(empty) if given.sparse else DenseSource(np.broadcast_to(np.float32(np.nan), shape))
    return whole, np.zeros(shape[0], bool)


def _names(found: Found) -> Names:
    if found.names is None:
        return found.n_columns
    if not found.names.is_unique:
        twice = found.names[found.names.duplicated()]
        raise DataError(f"{found.where} names columns more than once: {some(twice)}", "make their names unique")
    return tuple(str(name) for name in found.names)


def _columns(found: Found, wanted: Names, given: Input) -> np.ndarray | None:
    """The column of each of the `wanted` names, -1 for one that may be missing; None where they are the same."""
    there, n = found.n_columns, wanted if isinstance(wanted, int) else len(wanted)
    if isinstance(wanted, int) or found.names is None:
        if there != n:
            unnamed = f"{found.where} has {there} columns, the model {n}"
            raise DataError(unnamed, "give the same columns, or name them: a DataFrame in obsm")
        return None
    _names(found)  # are they unique?
    column = places_of(pd.Index(wanted), found.names)
    if (column < 0).any() and not given.may_miss:
        absent = [name for name, place in zip(wanted, column, strict=True) if place < 0]
        raise DataError(f"{found.where} lacks {len(absent)} of {n} columns: {some(absent)}", "the model needs them all")
    if (column < 0).all() and "obs" not in given.look_in:  # levels of a category may all be new
        raise DataError(f"{found.where} has none of the columns of the model: {some(wanted)}", "are they named alike?")
    return None if there == n and (column == np.arange(n)).all() else column


def _rows(found: Found, genes: tuple[str, ...], given: Input) -> np.ndarray:
    names = pd.Index(genes)
    order = locate.row_order(found, names)
    order = np.arange(len(names)) if order is None else order
    absent = names[order < 0]
    if len(absent) == len(names):
        raise DataError(f"{found.where} names none of the genes: it has {some(found.rows)}", "are they named alike?")
    if len(absent) and found.others is None and not given.may_miss:
        raise DataError(f"{found.where} lacks {len(absent)} genes: {some(absent)}", "add them, or use fewer genes")
    return order


def _taken(values: Any, place: np.ndarray, both: bool) -> NDArray[np.float32]:
    values = values.tocsr() if sp.issparse(values) else np.asarray(values)
    taken = values[place][:, place] if both else values[place]
    return np.array(taken.toarray() if sp.issparse(taken) else taken, dtype=np.float32)


def joined(parts: list[Any], fields: Any, given: Input) -> tuple[Any, pd.Index]:
    """An input of the cells of several data sets, one after the other, with the names of its columns.

    The columns are those that all data sets have; of an input that may miss, those that any has.
    """
    found = [find(data, fields, given) for data in parts]
    there = [one for one in found if one is not None]
    names = there[0].columns
    for one in there[1:]:
        names = names.union(one.columns, sort=False) if given.may_miss else names[names.isin(one.columns)]
    if len(names) == 0:
        raise DataError(f"the data sets share no column of {there[0].where}", "are they named alike?")
    rows = []
    for data, one in zip(parts, there, strict=True):
        place = places_of(names, one.columns)
        rows.append(gathered(locate.as_source(one, data.obs_names, place, given)[0]))
    return (sp.vstack(rows, format="csr") if given.sparse else np.concatenate(rows)), names
