"""Cells from any iterable of minibatches: what must be declared of them, and how a schema reads them."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scduet.contract import Input
from scduet.data import checks
from scduet.data.found import Found
from scduet.data.gene_choice import genes_of
from scduet.data.loader_source import LoaderSource
from scduet.data.schema import Fields, Schema, levels_in, refuse_one_batch
from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError, some
from scduet.options import check_arguments

Minibatches = Iterable[Any] | Callable[[], Iterable[Any]]


@dataclass(frozen=True)
class CellLoader:
    """Minibatches of cells from any iterable, with what a model must know before the first: `fit(loader=)`, `embed`.

    Each item is a pair (rows, obs), or a mapping with "X" and "obs" as annbatch's Loader gives. rows (cell, gene):
    scipy CSR, a numpy array, or a torch tensor. obs: a DataFrame, or a mapping with one value a cell, of the columns
    that the model reads; it may be absent when it reads none. Items may be of any size: they are cut and joined to
    minibatches of `batch_size` cells. Their order is the loader's own: it should shuffle.

    batches: gives the cells anew each time it is iterated (a list, a torch DataLoader, annbatch's Loader), or a
        function without arguments that returns an iterator. Cells are read once before training, to check all values,
        and once an epoch.
    genes: names of the columns of rows. The option `genes` of `fit` may choose some of them.
    levels: column of obs -> all its levels, for each of batch_key, labels_key and categorical_covariate_keys.
    n_cells: where a pass ends, for iterables that give more, or are endless; None: with the iterable.
    validation: likewise, the cells to hold out.
    """

    batches: Minibatches = field(repr=False)
    genes: Sequence[str] = field(repr=False)
    levels: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    n_cells: int | None = None
    validation: Minibatches | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.genes, str):
            raise OptionError(f"option 'genes' cannot be {self.genes!r}", "list the names of all columns of the rows")
        if self.n_cells is not None:
            check_arguments(n_cells=self.n_cells)
        for batches in (self.batches, self.validation):
            if batches is not None and (
                isinstance(batches, str) or not (hasattr(batches, "__iter__") or callable(batches))
            ):
                raise DataError(f"a loader cannot be {batches!r}", "pass an iterable of (rows, obs), or a function")
        checks.check_names(self.var.index, "gene")

    @property
    def var(self) -> pd.DataFrame:
        """The genes, as the index of a table without columns."""
        return pd.DataFrame(index=pd.Index([str(gene) for gene in self.genes]))


def given(adata: Any, loader: Any) -> CellLoader:
    """The loader. Raises OptionError where `adata` was given too, DataError for what is no loader."""
    if adata is not None:
        raise OptionError("adata and loader= are both given", "pass one of them")
    if not isinstance(loader, CellLoader):
        raise DataError(f"loader= cannot be a {type(loader).__name__}", "wrap it: CellLoader(batches, genes=, levels=)")
    return loader


def refuse(why: str) -> NoReturn:
    """Raise OptionError that says why a loader will not do."""
    raise OptionError(f"{why}, which a loader cannot give", "pass an AnnData, or files (a path, a list of paths)")


def learned(
    loader: CellLoader, fields: Fields, expects: str, declared: Mapping[str, Input] | None, modality: str
) -> Schema:
    """As `Schema.learn`, from what `loader` declares.

    Raises OptionError for fields, and inputs of a model, that a loader cannot give, DataError for levels that it does
    not declare.
    """
    further = {name: given for name, given in (declared or {}).items() if name != "x"}
    read = [given.option for given in further.values() if given.required or getattr(fields, given.option) is not None]
    if read or (declared or {}).get("x", Input("layer")).may_miss:
        refuse(f"the model reads {some(read or ['several modalities'])}")
    if fields.layer is not None:
        raise OptionError(f"layer={fields.layer!r} has no meaning for a loader", "have it give the rows of that layer")
    levels, kinds = {}, {}
    for key in (fields.batch_key, fields.labels_key, *fields.categorical_covariate_keys):
        if key is not None:
            if key not in loader.levels:
                known = f"it declares {some(loader.levels)}" if loader.levels else "it declares none"
                raise DataError(f"the loader declares no levels of {key!r}", f"pass levels={{{key!r}: [...]}}; {known}")
            levels[key], kinds[key] = levels_in(pd.Series(list(loader.levels[key])), key, fields)
    refuse_one_batch(fields, levels)
    genes = genes_of(loader.var, fields.genes, {}, modality)
    kinds = {key: kind for key, kind in kinds.items() if kind != "text"}
    return Schema(fields, genes, levels, expects, dict(declared or {}), {}, kinds=kinds)


def encoded(schema: Schema, loader: CellLoader) -> Cells:
    """The cells of `loader`, read once, as are those that it holds out.

    Raises DataError for values, names and levels that do not fit.
    """
    if hasattr(loader.batches, "__next__") and loader.n_cells is None:
        remedy = "pass a list, or a function that makes it anew; n_cells= where it is endless"
        raise DataError("the loader is an iterator, which gives its cells once", remedy)
    held = None if loader.validation is None else source_of(schema, loader, loader.validation, None).seen().counts
    return source_of(schema, loader, loader.batches, loader.n_cells, held).seen()  # pyright: ignore[reportArgumentType]


def source_of(
    schema: Schema,
    loader: CellLoader,
    batches: Minibatches | None = None,
    most: int | None = None,
    held_out: LoaderSource | None = None,
) -> LoaderSource:
    """The cells of `loader`, not yet looked at. batches: in place of those to train on."""
    names = loader.var.index
    read = partial(_read, schema, names, schema.columns(names))
    return LoaderSource(loader.batches if batches is None else batches, len(schema.genes), read, most, held_out)


def _read(schema: Schema, names: pd.Index, columns: np.ndarray | None, item: Any) -> Cells:
    """The cells of one item."""
    rows, obs = (item["X"], item.get("obs")) if isinstance(item, Mapping) else item
    matrix = _matrix(rows)
    if matrix.shape[1] != len(names):
        raise DataError(
            f"the loader gives rows of {matrix.shape[1]} columns, and names {len(names)} genes", "name each"
        )
    obs = _table(obs, matrix.shape[0])
    where = "the rows of the loader"
    source, _ = schema.checked(Found(matrix, obs.index, names, where), obs.index, columns)
    totals = source.totals()
    if schema.expects == "counts" and not schema.fields.allow_empty_cells:
        checks.check_empty(totals, obs.index)
    return schema.annotated(SimpleNamespace(obs=obs, obs_names=obs.index, n_obs=len(obs)), source, totals)


def _matrix(rows: Any) -> Any:
    """CSR or an array of what a loader may give."""
    if isinstance(rows, torch.Tensor):
        rows = rows.detach().cpu()
        if rows.layout == torch.sparse_csr:
            parts = rows.values(), rows.col_indices(), rows.crow_indices()
            return sp.csr_matrix(tuple(tensor.numpy() for tensor in parts), shape=tuple(rows.shape))
        rows = rows.to_dense().numpy()
    matrix = sp.csr_matrix(rows) if sp.issparse(rows) else np.asarray(rows)
    if len(matrix.shape) != 2:
        raise DataError(f"the loader gives rows of shape {matrix.shape}", "give a matrix (cell, gene)")
    return matrix


def _table(obs: Any, n_cells: int) -> pd.DataFrame:
    """obs with a row a cell."""
    if obs is None:
        return pd.DataFrame(index=pd.RangeIndex(n_cells).astype(str))
    table = obs if isinstance(obs, pd.DataFrame) else pd.DataFrame({key: np.asarray(obs[key]).ravel() for key in obs})
    if len(table) != n_cells:
        raise DataError(f"the loader gives {n_cells} rows with an obs of {len(table)}", "give one row of obs a cell")
    return table
