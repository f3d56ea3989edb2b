"""AnnData -> arrays. `Fields` says where to look; `Schema` remembers what was found and encodes new cells by it."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from scduet.contract import Reference
from scduet.data import checks
from scduet.data.cells import Cells, library_moments
from scduet.data.files import CellsOnDisk
from scduet.data.sources import Source, in_memory, on_disk
from scduet.errors import DataError, ScduetWarning, some


@dataclass(frozen=True)
class Fields:
    layer: str | None = None
    """Layer that holds the matrix the model needs (raw counts for scVI); None for X."""
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


@dataclass(frozen=True)
class Schema:
    """What was found in the data a model was trained on: genes, and the levels of every category. JSON-able."""

    fields: Fields
    genes: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # column of obs -> its levels, in code order
    expects: str = "counts"

    @classmethod
    def learn(cls, adata, fields: Fields, expects: str = "counts") -> Schema:
        """Record genes and levels of `adata`; refuses what no model could use."""
        adata = on_disk(adata)
        checks.check_names(adata.obs_names, "cell")
        checks.check_names(adata.var_names, "gene")
        checks.check_size(adata.n_obs)
        levels, covariates = {}, [("categorical_covariate_keys", key) for key in fields.categorical_covariate_keys]
        for option, key in (("batch_key", fields.batch_key), ("labels_key", fields.labels_key), *covariates):
            if key is not None:
                levels[key] = _levels(_column(adata, key), key, fields)
                checks.check_levels(option, key, adata.obs[key])
        if fields.batch_key is not None and len(levels[fields.batch_key]) < 2:
            only = levels[fields.batch_key]
            raise DataError(f"batch_key {fields.batch_key!r} has one batch only: {some(only)}", "leave batch_key out")
        return cls(fields, _genes(adata, fields.genes), levels, expects)

    def encode(self, adata) -> Cells:
        """The cells of `adata` (AnnData, or the path of a file to leave on disk) as arrays.

        Genes may come in any order and be more than needed.

        Raises DataError naming genes, levels or cells that do not fit.
        """
        f = self.fields
        where = "X" if f.layer is None else f"layers[{f.layer!r}]"
        adata = on_disk(adata)
        source = _source(adata, f.layer, self._columns(adata.var_names))
        for start, piece in source.pieces():
            names = adata.obs_names[start : start + piece.shape[0]]
            checks.check_values(piece, names, where, self.expects, f.allow_non_integer)
        totals = source.totals()
        if self.expects == "counts":
            checks.check_empty(totals, adata.obs_names)
        return Cells(
            counts=source,
            total=totals,
            batch=np.zeros(adata.n_obs, np.int64) if f.batch_key is None else self._codes(adata, f.batch_key),
            label=None if f.labels_key is None else self._labels(adata, f.labels_key),
            categorical=_stack([self._codes(adata, key) for key in f.categorical_covariate_keys], np.int64),
            continuous=_stack([_numbers(adata, key) for key in f.continuous_covariate_keys], np.float32),
            size_factor=None if f.size_factor_key is None else _numbers(adata, f.size_factor_key, positive=True),
        )

    def totals(self, adata) -> np.ndarray:
        """Total count of each cell over all genes of `adata`, also those that the schema does not know."""
        return _source(on_disk(adata), self.fields.layer, None).totals()

    def reference(self, cells: Cells) -> Reference:
        """What a module may know of these cells."""
        f, n = self.fields, {key: len(levels) for key, levels in self.levels.items()}
        return Reference(
            n_genes=len(self.genes),
            n_batches=1 if f.batch_key is None else n[f.batch_key],
            n_labels=0 if f.labels_key is None else n[f.labels_key],
            n_categories=tuple(n[key] for key in f.categorical_covariate_keys),
            n_continuous=len(f.continuous_covariate_keys),
            size_factor=f.size_factor_key is not None,
            n_cells=len(cells),
            arrays=library_moments(cells, 1 if f.batch_key is None else n[f.batch_key]),
        )

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, state: dict) -> Schema:
        lists_to_tuples: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in state["fields"].items()
        }
        levels = {key: tuple(values) for key, values in state["levels"].items()}
        return cls(Fields(**lists_to_tuples), tuple(state["genes"]), levels, state["expects"])

    def _columns(self, names: pd.Index) -> np.ndarray | None:
        """Column of each gene of the schema among `names`; None where they are the same already."""
        checks.check_names(names, "gene")
        column = names.get_indexer(pd.Index(self.genes))
        if (column < 0).any():
            missing = [gene for gene, place in zip(self.genes, column, strict=True) if place < 0]
            remedy = "every gene is needed; are names symbols in one and Ensembl ids in the other?"
            raise DataError(f"{len(missing)} of {len(column)} genes are missing from the data: {some(missing)}", remedy)
        return None if len(names) == len(column) and (column == np.arange(len(column))).all() else column

    def _labels(self, adata, key: str) -> np.ndarray:
        """Code of each cell's label; without the column, as in cells that are to be labeled, all are unlabeled."""
        return self._codes(adata, key) if key in adata.obs else np.full(adata.n_obs, -1)

    def _codes(self, adata, key: str) -> np.ndarray:
        """Code of each cell's level; -1 for cells without a label."""
        values = _column(adata, key)
        number, names = _factors(values)
        place = pd.Index(self.levels[key]).get_indexer(names)
        may_miss = (names == self.fields.unlabeled_category) & (key == self.fields.labels_key)
        occurs = np.bincount(number + 1, minlength=len(names) + 1)[1:] > 0
        unseen = np.unique(names[(place < 0) & ~may_miss & occurs].astype(str))
        if len(unseen):
            remedy = f"the model knows {some(self.levels[key])}; map_query() adds new batches to a model"
            raise DataError(f"{len(unseen)} levels of {key!r} were not seen in training: {some(unseen)}", remedy)
        if key != self.fields.labels_key:
            _refuse_missing(values, key)
        return np.append(place, -1)[number].astype(np.int64)


def _source(adata, layer: str | None, genes: np.ndarray | None) -> Source:
    """The counts, in memory or on disk."""
    if isinstance(adata, CellsOnDisk) and layer not in adata.layers:
        return adata.source(layer, genes)
    return in_memory(_matrix(adata, layer), genes)


def _matrix(adata, layer: str | None):
    if layer is not None and layer not in adata.layers:
        raise DataError(f"no layer {layer!r}", f"adata.layers has {sorted(adata.layers)}; leave layer out for X")
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise DataError("adata.X is empty", "pass layer= with the name of the layer that holds the counts")
    return matrix.to_memory() if hasattr(matrix, "to_memory") else matrix


def _column(adata, key: str) -> pd.Series:
    if key not in adata.obs:
        raise DataError(f"no column {key!r} in adata.obs", f"it has {some(adata.obs.columns, 12)}")
    return adata.obs[key]


def _factors(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """For each value the number of its level, -1 for missing ones; and the levels as text, perhaps with unused ones."""
    if not isinstance(values.dtype, pd.CategoricalDtype):
        number, names = pd.factorize(_text(values))
        return number, names.to_numpy(object)
    return values.cat.codes.to_numpy(np.int64), _text(pd.Series(values.cat.categories)).to_numpy(object)


def _text(values: pd.Series) -> pd.Series:
    """Levels as text, missing ones kept missing; whole floats as whole numbers, so that 1.0 and 1 are one level."""
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    return values.astype("string").astype(object).where(values.notna(), None)


def _levels(values: pd.Series, key: str, fields: Fields) -> tuple[str, ...]:
    """The levels that occur: in the order of the categories, or sorted; without the unlabeled one."""
    if key != fields.labels_key:
        _refuse_missing(values, key)
    categorical = isinstance(values.dtype, pd.CategoricalDtype)
    present = values.cat.remove_unused_categories().cat.categories if categorical else np.unique(values.dropna())
    named = [str(level) for level in _text(pd.Series(present))]
    return tuple(level for level in named if key != fields.labels_key or level != fields.unlabeled_category)


def _numbers(adata, key: str, positive: bool = False) -> np.ndarray:
    values = _column(adata, key)
    if not pd.api.types.is_numeric_dtype(values):
        raise DataError(f"column {key!r} of obs is not numbers but {values.dtype}", "use categorical_covariate_keys")
    _refuse_missing(values.where(np.isfinite(values.astype(float))), key)
    if positive and (values <= 0).any():
        cells = adata.obs_names[values <= 0]
        raise DataError(f"{len(cells)} size factors are not above zero: {some(cells)}", f"mend obs[{key!r}]")
    return values.to_numpy(np.float32)


def _refuse_missing(values: pd.Series, key: str) -> None:
    missing = values.index[values.isna().to_numpy()]  # a Series would have pandas hash the names of all cells
    if len(missing):
        remedy = f"fill obs[{key!r}] or remove these cells"
        raise DataError(f"{len(missing)} cells have no value in {key!r}: {some(missing)}", remedy)


def _genes(adata, wanted: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Names of the genes to use, in the order of the data (or as listed)."""
    if wanted is None:
        wanted = "highly_variable" if "highly_variable" in adata.var else tuple(adata.var_names)
    if not isinstance(wanted, str):
        repeated = [gene for gene, n in Counter(wanted).items() if n > 1]
        if repeated:
            raise DataError(f"genes= lists {some(repeated)} more than once", "list each gene once")
        return tuple(str(gene) for gene in wanted)
    if wanted not in adata.var or adata.var[wanted].dtype != bool:
        raise DataError(f"genes={wanted!r} is not a boolean column of adata.var", "pass such a column, or gene names")
    chosen = tuple(adata.var_names[adata.var[wanted]])
    if not chosen:
        raise DataError(f"var[{wanted!r}] chooses no gene", "pass genes= with names")
    return chosen


def _stack(columns: list[np.ndarray], dtype) -> np.ndarray | None:
    return np.stack(columns, axis=1).astype(dtype) if columns else None


def describe_genes(schema: Schema, adata) -> str:
    """One line that says which genes are used and why."""
    n, of = len(schema.genes), adata.n_vars
    if schema.fields.genes is None and "highly_variable" in adata.var:
        return f"using {n} highly variable genes of {of} (var['highly_variable'])"
    if schema.fields.genes is None and of > 10_000:
        text = f"using all {of} genes; 1,000 to 10,000 highly variable genes usually integrate better and train faster"
        warnings.warn(text, ScduetWarning, stacklevel=3)
    return f"using {n} of {of} genes"
