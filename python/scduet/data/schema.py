"""AnnData or MuData -> arrays. `Fields` says where to look; `Schema` remembers what was found there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scduet.contract import Input, Reference
from scduet.data import checks, feature_names, locate
from scduet.data.found import Found
from scduet.data.gene_choice import genes_of, has_main, in_inputs, place_for
from scduet.data.inputs import Names, arrays_of_features, columns_of, nothing, rows_of_cells, tables, where_counted
from scduet.data.levels import absent, coded, kind_of, places_of, refuse_missing, values_of
from scduet.data.sources import Cells, Source
from scduet.data.stores import opened_store, together
from scduet.errors import DataError, FormatError, some


@dataclass(frozen=True)
class Fields:
    layer: str | None = None
    """Layer, or place such as raw or mod/rna, of the matrix the model needs (raw counts for scVI); None for X."""
    batch_key: str | None = None
    """Column of obs with the technical batch to correct for, e.g. donor, run, technology."""
    labels_key: str | None = None
    """Column of obs with the cell types, for models that use them."""
    unlabeled_category: str = "Unknown"
    """Value of labels_key that means that the type is not known; missing values mean the same."""
    genes: str | tuple[str, ...] | None = None
    """Genes to use: names, or a boolean column of var; None for var["highly_variable"] if it is there, else all."""
    categorical_covariate_keys: tuple[str, ...] = ()
    """Columns of obs with further categories to correct for."""
    continuous_covariate_keys: tuple[str, ...] = ()
    """Columns of obs with further numbers to correct for."""
    size_factor_key: str | None = None
    """Column of obs with a size factor for each cell, used instead of its total count."""
    allow_non_integer: bool = False
    """Accept estimated counts that are not whole numbers."""
    allow_empty_cells: bool = False
    """Accept cells without a single count, of which the model learns nothing."""


@dataclass(frozen=True)
class Schema:
    """What was found in the data a model was trained on: genes, and the levels of every category. JSON-able."""

    fields: Fields
    genes: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # column of obs -> its levels, in code order
    expects: str = "counts"
    inputs: Mapping[str, Input] = field(default_factory=dict)  # what the model reads; "x": the main matrix
    features: Mapping[str, Names] = field(default_factory=dict)  # columns of the further inputs
    cells: str | None = None  # mark of the names of the cells, where the model has parameters for each of them
    kinds: Mapping[str, str] = field(default_factory=dict)  # columns whose levels are no text: "int", "float", "bool"

    @classmethod
    def learn(
        cls,
        adata,
        fields: Fields,
        expects: str = "counts",
        declared: Mapping[str, Input] | None = None,
        modality: str = "rna",
    ) -> Schema:
        """Record genes and levels of `adata` (AnnData, MuData or a path), and the columns of the inputs `declared`.

        modality: what the main matrix is; where var["feature_types"] tells several kinds, those of other kinds are not
        used. Refuses what no model could use.
        """
        adata = on_disk(adata)
        fields = replace(fields, layer=place_for(locate.modalities_of(adata), fields.layer, modality))
        var = locate.var_of_main(adata, fields.layer)
        checks.check_names(adata.obs_names, "cell")
        checks.check_names(var.index, "gene")
        checks.check_size(adata.n_obs)
        further = _without_main(declared or {})
        levels, kinds = levels_of(adata, fields)
        for key in fields.continuous_covariate_keys:
            checks.check_scale(key, _numbers(adata, key))
        refuse_one_batch(fields, levels)
        genes = genes_of(var, fields.genes, in_inputs(adata, fields, further) if further else {}, modality)
        features = columns_of(adata, fields, further, genes) if further else {}
        return cls(fields, genes, levels, expects, dict(declared or {}), features, kinds=kinds)

    def encode(self, adata, max_missing: float = 0.0, unknown_labels: bool = False) -> Cells:
        """The cells of `adata` (AnnData, MuData, or the path of a file to leave on disk) as arrays.

        Genes may come in any order and be more than needed. max_missing: share of them that may be missing, and is then
        taken for zero. unknown_labels: cells with labels that were not seen in training count as unlabeled.

        Raises DataError naming genes, levels or cells that do not fit.
        """
        f, adata = self.fields, on_disk(adata)
        checks.check_some(adata.n_obs)
        checks.check_marked(self.cells, adata.obs_names)
        source, known = self._main_rows(adata, max_missing)
        totals = source.totals()
        extra, measured = self._rows_of_further(adata)
        if self.expects == "counts" and not f.allow_empty_cells:
            self._check_empty(totals, extra, known, adata.obs_names)
        known = where_counted(self.main, source, known) if self.main.may_miss else known
        measured = measured if known is None else {**measured, "x": known}
        return replace(self.annotated(adata, source, totals, unknown_labels), extra=extra, measured=measured)

    def annotated(self, adata, source: Source, totals: np.ndarray, unknown_labels: bool = False) -> Cells:
        """The rows of `source`, whose sums are `totals`, with what obs of `adata` says of these cells."""
        f = self.fields
        return Cells(
            counts=source,
            total=totals,
            batch=np.zeros(adata.n_obs, np.int64) if f.batch_key is None else self._codes(adata, f.batch_key),
            label=None if f.labels_key is None else self._labels(adata, f.labels_key, unknown_labels),
            categorical=_stack([self._codes(adata, key) for key in f.categorical_covariate_keys], np.int64),
            continuous=_stack([_numbers(adata, key) for key in f.continuous_covariate_keys], np.float32),
            size_factor=None if f.size_factor_key is None else _numbers(adata, f.size_factor_key, positive=True),
        )

    def totals(self, adata) -> np.ndarray:
        """Total count of each cell over all genes of `adata`, also those that the schema does not know."""
        adata = on_disk(adata)
        source, _ = locate.as_source(locate.locate_main(adata, self.fields.layer), adata.obs_names, None, self.main)
        return source.totals()

    def as_in(self, other: Schema) -> Schema:
        """The schema with levels and columns of inputs in the order of another one, of a model to start from."""
        checks.check_same_cells(self.cells, other.cells)
        features = {name: other.features.get(name, names) for name, names in self.features.items()}
        kinds = {**self.kinds, **{key: other.kinds.get(key, "text") for key in other.levels}}
        return replace(self, levels={**self.levels, **other.levels}, features=features, kinds=kinds)

    def values(self, key: str) -> pd.Index:
        """The levels of a column as the user has them: numbers of a column of numbers."""
        return values_of(self.levels[key], self.kinds.get(key, "text"))

    @property
    def main(self) -> Input:
        """What the model says of the main matrix."""
        return self.inputs.get("x", SPARSE)

    @property
    def further(self) -> dict[str, Input]:
        """What the model reads beside it."""
        return _without_main(self.inputs)

    def _main_rows(self, adata, max_missing: float) -> tuple[Source, np.ndarray | None]:
        """The main matrix, all its values checked, and which of the cells have it; None for all."""
        if self.main.may_miss and not has_main(locate.modalities_of(adata), self.fields.layer):
            return nothing(adata, self.genes, self.main)
        main = locate.locate_main(adata, self.fields.layer)
        columns = self.columns(main.columns, max_missing)
        return self.checked(main, adata.obs_names, columns, lambda: checks.holding_counts(adata))

    def checked(
        self, main: Found, cells: pd.Index, columns: np.ndarray | None, elsewhere: Callable[[], Sequence[str]] = tuple
    ) -> tuple[Source, np.ndarray | None]:
        """The rows of `main` for these cells, with every value checked, and which of the cells have it; None for all.

        columns: see `columns`. elsewhere: finds the names of layers that hold counts.
        """
        source, known = locate.as_source(main, cells, columns, self.main)
        for start, piece in source.pieces():
            how = (self.expects, self.fields.allow_non_integer, self.main.may_miss)
            checks.check_values(piece, cells[start : start + piece.shape[0]], main.where, *how, elsewhere=elsewhere)
        return source, known

    def _check_empty(self, totals: np.ndarray, extra: Mapping[str, Source], known: np.ndarray | None, names) -> None:
        """Refuse cells without a count in the main matrix, or where that may miss, in any matrix of counts."""
        if self.main.may_miss and self.main.sparse:
            counted = [name for name, given in self.further.items() if name in extra and given.values == "counts"]
            totals = np.sum([totals, *(extra[name].totals() for name in counted)], 0)
            checks.check_empty(totals, names, "any modality")
        else:
            checks.check_empty(totals if known is None else np.where(known, totals, 1), names)

    def _rows_of_further(self, adata) -> tuple[dict, dict]:
        """The inputs beside the main matrix, by cell; and which cells have them."""
        given = adata, self.fields, self.further, self.features, self.fields.allow_non_integer
        return rows_of_cells(*given) if self.further else ({}, {})

    def about_features(self, adata) -> tuple[dict, dict]:
        """The inputs that are not about cells: arrays by gene, and tables."""
        if not self.further:
            return {}, {}
        adata = on_disk(adata)
        arrays = arrays_of_features(adata, self.fields, self.further, self.genes)
        return arrays, tables(adata, self.fields, self.further, self.genes, self.features)

    def reference(self, cells: Cells) -> Reference:
        """The sizes that a module may know of these cells."""
        f, n = self.fields, {key: len(levels) for key, levels in self.levels.items()}
        return Reference(
            n_genes=len(self.genes),
            n_batches=1 if f.batch_key is None else n[f.batch_key],
            n_labels=0 if f.labels_key is None else n[f.labels_key],
            n_categories=tuple(n[key] for key in f.categorical_covariate_keys),
            n_continuous=len(f.continuous_covariate_keys),
            size_factor=f.size_factor_key is not None,
            n_cells=len(cells),
            n_extra={name: names if isinstance(names, int) else len(names) for name, names in self.features.items()},
        )

    def to_json(self) -> dict:
        state = dataclasses.asdict(self)
        given = {name: None if isinstance(v, (pd.DataFrame, Mapping)) else v for name, v in vars(self.fields).items()}
        return {**state, "fields": {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}}

    @classmethod
    def from_json(cls, state: dict, fields: type[Fields] = Fields) -> Schema:
        """Raises FormatError for a state that a newer version wrote."""
        refuse_newer(state, {f.name for f in dataclasses.fields(cls)}, "schema")
        refuse_newer(state["fields"], {f.name for f in dataclasses.fields(fields)}, "data")
        levels = {key: tuple(values) for key, values in state["levels"].items()}
        features = {name: _tuple(names) for name, names in state.get("features", {}).items()}
        made = {name: _input(given) for name, given in state.get("inputs", {}).items()}
        given = fields(**{k: _tuple(v) for k, v in state["fields"].items()})
        further = made, features, state.get("cells"), state.get("kinds", {})
        return cls(given, tuple(state["genes"]), levels, state["expects"], *further)

    def columns(self, names: pd.Index, max_missing: float = 0.0) -> np.ndarray | None:
        """Column of each gene of the schema among `names`; None where they are the same already."""
        checks.check_names(names, "gene")
        column = feature_names.places_of(pd.Index(self.genes), names)
        if (column < 0).sum() > max_missing * len(column):
            missing = [gene for gene, place in zip(self.genes, column, strict=True) if place < 0]
            remedy = "every gene is needed; are names symbols in one and Ensembl ids in the other?"
            raise DataError(f"{len(missing)} of {len(column)} genes are missing from the data: {some(missing)}", remedy)
        return None if len(names) == len(column) and (column == np.arange(len(column))).all() else column

    def _labels(self, adata, key: str, unknown: bool) -> np.ndarray:
        """Code of each cell's label; without the column, as in cells that are to be labeled, all are unlabeled."""
        return self._codes(adata, key, unknown) if locate.has_column(adata, key) else np.full(adata.n_obs, -1)

    def _codes(self, adata, key: str, unknown: bool = False) -> np.ndarray:
        """Code of each cell's level; -1 for cells without a label, and for `unknown` levels if these are allowed."""
        values = coded(locate.column(adata, key), key, required=key != self.fields.labels_key)
        place = places_of(values.names, self.levels[key])
        may_miss = {self.fields.unlabeled_category} if key == self.fields.labels_key else set()
        unseen = [name for name in absent(values.names, self.levels[key]) if name not in may_miss]
        if len(unseen) and not unknown:
            remedy = f"the model knows {some(self.levels[key])}; map_query() adds new batches to a model"
            raise DataError(f"{len(unseen)} levels of {key!r} were not seen in training: {some(unseen)}", remedy)
        return np.append(place, -1)[values.code]


SPARSE = Input("layer", sparse=True)  # the main matrix of a model that says nothing of it


def levels_of(adata, fields: Fields) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The levels of each category that `fields` name, and the kind of those that are no text."""
    covariates = [("categorical_covariate_keys", key) for key in fields.categorical_covariate_keys]
    levels, kinds = {}, {}
    for option, key in (("batch_key", fields.batch_key), ("labels_key", fields.labels_key), *covariates):
        if key is not None:
            values = locate.column(adata, key)
            levels[key], kinds[key] = levels_in(values, key, fields)
            checks.check_levels(option, key, values)
    return levels, {key: kind for key, kind in kinds.items() if kind != "text"}


def refuse_one_batch(fields: Fields, levels: Mapping[str, tuple[str, ...]]) -> None:
    """Raise DataError where the batches of the cells are one."""
    if fields.batch_key is not None and len(levels[fields.batch_key]) < 2:
        only = levels[fields.batch_key]
        raise DataError(f"batch_key {fields.batch_key!r} has one batch only: {some(only)}", "leave batch_key out")


def _without_main(inputs: Mapping[str, Input]) -> dict[str, Input]:
    return {name: given for name, given in inputs.items() if name != "x"}


def levels_in(values: pd.Series, key: str, fields: Fields) -> tuple[tuple[str, ...], str]:
    """The levels that occur, without the unlabeled one, and their kind."""
    found = coded(values, key, required=key != fields.labels_key)
    own = {n: v for n, v in found.own.items() if key != fields.labels_key or n != fields.unlabeled_category}
    return tuple(own), kind_of(own.values())


def _numbers(adata, key: str, positive: bool = False) -> np.ndarray:
    values = locate.column(adata, key)
    if not pd.api.types.is_numeric_dtype(values):
        raise DataError(f"column {key!r} of obs is not numbers but {values.dtype}", "use categorical_covariate_keys")
    refuse_missing(values.where(np.isfinite(values.astype(float))), key)
    if positive and (values <= 0).any():
        cells = adata.obs_names[values <= 0]
        raise DataError(f"{len(cells)} size factors are not above zero: {some(cells)}", f"mend obs[{key!r}]")
    return values.to_numpy(np.float32)


def _stack(columns: list[np.ndarray], dtype) -> np.ndarray | None:
    return np.stack(columns, axis=1).astype(dtype) if columns else None


def refuse_newer(state: Mapping[str, Any], known: set[str], what: str) -> None:
    """Raise FormatError for entries that this version does not know."""
    more = sorted(set(state) - known)
    if more:
        raise FormatError(f"unknown entries in the {what} of the model: {some(more)}", "update scduet")


def _input(state: dict) -> Input:
    refuse_newer(state, {f.name for f in dataclasses.fields(Input)}, "inputs")
    return Input(**{key: _tuple(value) for key, value in state.items()})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def on_disk(data: Any) -> Any:
    """`data` as it is when it is in memory; a path or a backed AnnData as `scduet.data.on_disk.CellsOnDisk`, a list of
    paths as one of these (`scduet.data.stores`).

    Raises DataError for a file that is missing, damaged, or none of .h5ad, .h5mu and zarr, and for what is no AnnData.
    """
    if isinstance(data, (str, os.PathLike)) or getattr(data, "isbacked", False):
        return opened_store(data)
    if isinstance(data, (list, tuple)):
        return together(data)
    checks.check_cells(data)
    return data
