"""Where users keep matrices, and the one way to get at them: `locate(data, place)`.

A place is written as in an .h5ad file: "X", "raw", "layers/spliced", "obsm/protein", "varm/programs", "varp/graph",
"obsp/graph", "uns/edges"; "obs/panel" for a category as a column of zeros and ones for each level; in a modality of a
MuData "mod/rna", "mod/rna/layers/counts"; "var/feature_types=Peaks" for the features of one kind in X, for which the
bare "Peaks" will do; the path of a .gmt, .csv or .tsv file; or a DataFrame or dict of sets. `data`: AnnData, MuData, or
a file on disk (`schema.on_disk`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scduet.contract import Input
from scduet.data.found import Found, in_table, names_in, row_order
from scduet.data.on_disk import CellsOnDisk, FileSource
from scduet.data.ordered_rows import OrderedRows
from scduet.data.raw import var_of_raw
from scduet.data.sources import DenseSource, Source, in_memory, reordered
from scduet.data.stores import StoresSource
from scduet.data.tables import filled, read_table
from scduet.errors import DataError, OptionError, some

Place = str | Path | pd.DataFrame | dict  # what users may give; a bare name is looked up, see `resolve`
STORES = ("layers", "obsm", "varm", "varp", "obsp", "uns")
LOOK_IN: Mapping[str, tuple[str, ...]] = {  # stores in which a bare name is looked up, unless the input says otherwise
    "cell": ("obsm", "mod"),
    "feature": ("varm", "var"),
    "feature-feature": ("varp",),
    "cell-cell": ("obsp",),
    "table": ("uns",),
}
FEATURE_TYPES = "feature_types"  # column of var that says of what kind a feature is: that of 10x and scanpy
RAW = ("raw", "raw/X")  # adata.raw, by its name or its place in an .h5ad
TABLES = (".gmt", ".gmt.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz")


def locate(data: Any, place: Place) -> Found:
    """The matrix at `place` of `data`. Raises DataError that lists what there is."""
    if not isinstance(place, (str, Path)):
        return in_table(place, "the table given")
    if str(place).endswith(TABLES):
        return in_table(read_table(Path(place)), str(place))
    store, _, key = str(place).partition("/")
    if store == "mod":
        name, _, inner = key.partition("/")
        found = locate(modality(data, name), inner or "X")
        return replace(found, where=f"mod[{name!r}].{found.where}")
    if store == "obs":
        return _levels_of_obs(data, key)
    if store == "var":
        name, _, kind = key.partition("=")
        if name not in data.var:
            raise DataError(f"no column {name!r} in var", f"it has {some(data.var.columns, 12)}")
        return _of_one_kind(data, name, kind) if kind else _column_of_var(data, name)
    if store == "X" and not key:
        return Found(_matrix(data, "X"), data.obs_names, data.var_names, "X", data.var)
    if str(place) in RAW:
        var = var_of_raw(data)
        return Found(_matrix(data, "raw/X"), data.obs_names, var.index, "raw", var)
    if store not in STORES:
        raise DataError(f"{place!r} is no place in the data", f"write e.g. obsm/NAME; {listed(data, STORES)}")
    if key not in _keys(data, store):
        raise DataError(f"no {store}[{key!r}]", listed(data, (store, "mod")))
    return _in_store(data, store, key)


def locate_main(data: Any, layer: str | None) -> Found:
    """The main matrix of `data`: X, a layer by its name, or any place.

    Of a MuData that of the modality "rna", if the place does not name another one, or of the only modality.
    """
    return locate(data, _place_of_main(data, layer))


def var_of_main(data: Any, layer: str | None) -> pd.DataFrame:
    """What is known of the columns of the main matrix, by their names; reads no matrix where that can be."""
    store = _place_of_main(data, layer).split("/")
    inner = store[2:] if store[0] == "mod" else store
    holder = modality(data, store[1]) if store[0] == "mod" else data
    if not inner or inner[0] in ("X", "layers"):
        return holder.var
    if inner[0] == "raw":
        return var_of_raw(holder)
    main = locate_main(data, layer)
    return pd.DataFrame(index=main.columns) if main.var is None else main.var


def resolve(data: Any, name: Place, given: Input) -> Place:
    """The place that the user's `name` stands for: looked up in the stores that the input says, in their order.

    Raises DataError that lists what these stores hold.
    """
    if not isinstance(name, str) or _is_place(name):
        return name
    place, stores = _looked_up(data, name, given), given.look_in or LOOK_IN[given.axis]
    if place is not None:
        return place
    there, kinds = listed(data, stores), _kinds(data) if given.axis == "cell" else []
    there += f", var[{FEATURE_TYPES!r}] has {kinds}" if kinds else ""
    raise DataError(f"no {stores[0]}[{name!r}]", f"{there}; pass {given.option}= with one of these, or a place")


def is_there(data: Any, name: Place | None, given: Input) -> bool:
    """Whether anything is where the user's `name` points."""
    if not isinstance(name, str):
        return name is not None
    if not _is_place(name):
        return _looked_up(data, name, given) is not None
    store, _, key = name.partition("/")
    if store == "mod":
        first, _, inner = key.partition("/")
        return first in modalities_of(data) and is_there(modality(data, first), inner or "X", given)
    return store not in STORES or key in _keys(data, store)


def features_of(data: Any, layer: str | None) -> Any:
    """What holds varm, varp and var of the features of the main matrix: the data, or a modality of it."""
    name, _ = main_part(data, layer)
    return data if name is None else modality(data, name)


def main_part(data: Any, layer: str | None) -> tuple[str | None, str | None]:
    """The modality with the main matrix, None where `data` is no MuData; and the layer within it, None for X."""
    if not modalities_of(data):
        place = _place_of_main(data, layer)
        return None, None if place == "X" else layer if layer is None or not layer.startswith("mod/") else place
    _, name, *inner = _place_of_main(data, layer).split("/", 2)
    return name, None if inner in ([], ["X"]) else inner[0].removeprefix("layers/")


def modality(data: Any, name: str) -> Any:
    """The AnnData of a modality. Raises DataError that names those there are."""
    known = modalities_of(data)
    if name not in known:
        remedy = f"the MuData has modalities {known}" if known else "this is no MuData: use obsm, layers or X"
        raise DataError(f"no modality {name!r}", remedy)
    return data.modality(name) if isinstance(data, CellsOnDisk) else data.mod[name]


def main_modality(data: Any) -> str:
    names = modalities_of(data)
    if "rna" in names or len(names) == 1:
        return "rna" if "rna" in names else names[0]
    raise DataError("which modality holds the main matrix?", f"pass layer='mod/NAME'; there are {names}")


def modalities_of(data: Any) -> list[str]:
    """Names of the modalities of a MuData or .h5mu; empty for anything else."""
    return list(data.modalities if isinstance(data, CellsOnDisk) else getattr(data, "mod", ()))


def column(data: Any, key: str | None) -> pd.Series:
    """A column of obs; of a MuData, also one that only modalities have, each of which may know other cells.

    Raises DataError where there is none, or modalities do not agree on a cell.
    """
    if key in data.obs:
        return data.obs[key]
    parts = [part.obs[key] for part in (modality(data, name) for name in modalities_of(data)) if key in part.obs]
    if not parts:
        raise DataError(f"no column {key!r} in adata.obs", f"it has {some(data.obs.columns, 12)}")
    found = parts[0].reindex(data.obs_names)
    for part in parts[1:]:
        found = filled(found, part.reindex(data.obs_names), str(key))
    return found


def has_column(data: Any, key: str | None) -> bool:
    return key in data.obs or any(key in modality(data, name).obs for name in modalities_of(data))


def as_source(found: Found, cells: pd.Index, columns: np.ndarray | None, given: Input) -> tuple[Source, Any]:
    """Rows of `found` in the order of `cells`, of the `columns` (-1: not there), as the input wants them.

    Returns the source, and which of the cells it knows (cell,), bool; None where it knows all.
    """
    values, order = found.numbers, row_order(found, cells)
    absent = None if order is None else order < 0
    if absent is not None and absent.any() and not given.may_miss:
        remedy = "keep the cells that all modalities have, e.g. mudata.pp.intersect_obs"
        raise DataError(f"{int(absent.sum())} cells are not in {found.where}: {some(cells[absent])}", remedy)
    known = None if absent is None or not absent.any() else ~absent
    if isinstance(values, (FileSource, StoresSource)):
        if values.genes is not None and columns is not None:
            columns = np.where(columns < 0, -1, values.genes[columns])
        source = replace(values, genes=values.genes if columns is None else columns, dense=not given.sparse)
        return source if order is None else OrderedRows(source, order), known
    if order is not None:
        values = reordered(values, order, given.sparse)
    if given.sparse:
        return in_memory(values, columns), known
    return DenseSource(sp.csr_matrix(values) if sp.issparse(values) else np.asarray(values), columns), known


def _in_store(data: Any, store: str, key: str) -> Found:
    where, rows = f"{store}[{key!r}]", data.obs_names if store in ("layers", "obsm", "obsp") else data.var_names
    if store == "layers":
        return Found(_matrix(data, f"layers/{key}"), rows, data.var_names, where, data.var)
    values = data.stored(f"{store}/{key}") if isinstance(data, CellsOnDisk) else getattr(data, store)[key]
    if store == "uns":
        return in_table(values, where)
    if isinstance(values, pd.DataFrame):
        return Found(values, rows, values.columns.astype(str), where)
    names = _names_beside(data, key, values.shape[1]) if store in ("obsm", "varm") else rows
    return Found(_in_memory(values), rows, names, where)


def _names_beside(data: Any, key: str, n: int) -> pd.Index | None:
    """Names of the columns of obsm[key] or varm[key], where uns[key + "_names"] keeps them."""
    beside = f"{key}_names"
    if beside not in _keys(data, "uns"):
        return None
    names = np.asarray(data.stored(f"uns/{beside}") if isinstance(data, CellsOnDisk) else data.uns[beside])
    return pd.Index([str(name) for name in names]) if names.shape == (n,) else None


def _matrix(data: Any, place: str) -> Any:
    """X or a layer."""
    if isinstance(data, CellsOnDisk):
        return _in_memory(data.stored(place))
    if place == "raw/X":
        return _in_memory(data.raw.X)
    values = data.X if place == "X" else data.layers[place.partition("/")[2]]
    if values is None:
        raise DataError("adata.X is empty", "pass layer= with the name of the layer that holds the counts")
    return _in_memory(values)


def _in_memory(values: Any) -> Any:
    return values.to_memory() if hasattr(values, "to_memory") else values


def _of_one_kind(data: Any, name: str, kind: str) -> Found:
    """The columns of X whose features are of one kind: those with the value `kind` in a column of var."""
    chosen = np.flatnonzero(data.var[name].astype(str) == kind)
    if len(chosen) == 0:
        raise DataError(f"no feature has {kind!r} in var[{name!r}]", f"it has {some(data.var[name].unique(), 12)}")
    whole, where = locate(data, "X"), f"the features with var[{name!r}] = {kind!r} of X"
    values = (
        replace(whole.values, genes=chosen)
        if isinstance(whole.values, (FileSource, StoresSource))
        else whole.values[:, chosen]
    )
    return Found(values, whole.rows, data.var_names[chosen], where, data.var.iloc[chosen])


def _levels_of_obs(data: Any, key: str) -> Found:
    """A column of obs as one column for each of its levels, 1 where a cell has it; none has a cell without a value."""
    levels = pd.get_dummies(column(data, key).astype("category").cat.remove_unused_categories(), dtype=np.float32)
    return Found(levels.to_numpy(), data.obs_names, levels.columns.astype(str), f"obs[{key!r}]")


def _column_of_var(data: Any, key: str) -> Found:
    return Found(data.var[[key]].to_numpy(np.float32), data.var_names, pd.Index([key]), f"var[{key!r}]")


def _is_place(name: str) -> bool:
    store, inside, _ = name.partition("/")
    return (
        name == "X" or name in RAW or name.endswith(TABLES) or bool(inside and store in (*STORES, "mod", "obs", "var"))
    )


def _place_of_main(data: Any, layer: str | None) -> str:
    """As an .h5ad has it. A model of a modality of a MuData also takes an AnnData, which is that modality alone."""
    if layer is not None and not isinstance(layer, str):
        raise OptionError(f"layer={layer!r}", "it is the name of a layer, or a place such as mod/rna")
    bare = layer is not None and (layer in _keys(data, "layers") or not _is_place(layer))
    place = f"layers/{layer}" if bare else layer or "X"
    if place.startswith("mod/") and not modalities_of(data):
        return place.split("/", 2)[2] if place.count("/") > 1 else "X"
    if modalities_of(data) and place.partition("/")[0] in ("X", "layers", "var", "raw"):
        return f"mod/{main_modality(data)}/{place}"
    return place


def _looked_up(data: Any, name: str, given: Input) -> str | None:
    """The place that a bare name stands for, if it is anywhere."""
    for store in given.look_in or LOOK_IN[given.axis]:
        if name in _keys(data, store):
            return f"{store}/{name}"
    return f"var/{FEATURE_TYPES}={name}" if given.axis == "cell" and name in _kinds(data) else None


def _kinds(data: Any) -> list[str]:
    """The kinds of features in X, where these are told."""
    known = FEATURE_TYPES in data.var and not modalities_of(data)
    return [str(kind) for kind in data.var[FEATURE_TYPES].unique()] if known else []


def _keys(data: Any, store: str) -> list[str]:
    if store == "mod":
        return modalities_of(data)
    if store in ("obs", "var"):
        return [str(name) for name in getattr(data, store)]
    keys = data.keys(store) if isinstance(data, CellsOnDisk) else names_in(getattr(data, store, None))
    found = sorted(map(str, keys))
    return [key for key in found if key not in modalities_of(data)]  # obsm of a MuData also says which cells these have


def listed(data: Any, stores: tuple[str, ...]) -> str:
    """What there is, for the remedy of an error."""
    told = {store: _keys(data, store) for store in stores}
    parts = [f"{store} has {names}" for store, names in told.items() if store != "mod"]
    return ", ".join([*parts, f"the MuData has modalities {told['mod']}"] if told.get("mod") else parts)
