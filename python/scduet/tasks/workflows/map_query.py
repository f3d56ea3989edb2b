"""Places new cells in the space of a trained model, whose weights stay as they are (scArches).

Source: Lotfollahi et al. 2022, Nature Biotechnology 40:121. New batches and levels get new rows at the end of their own
tables; these rows are the only weights that training changes, so reference cells keep their place to the last bit.
"""

from __future__ import annotations

from scduet._torch import torch

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from torch import Tensor, nn
from torch.func import functional_call

from scduet import api
from scduet.api import Model
from scduet.capabilities import HasPrograms
from scduet.contract import CellBatch, Expects, Loss, Reference, Step
from scduet.data import checks, feature_names
from scduet.data.gene_choice import has_main
from scduet.data.levels import absent, coded, places_of
from scduet.data.locate import column, has_column, locate_main, main_part, modalities_of, var_of_main
from scduet.data.main_matrix import with_modality
from scduet.data.schema import Schema, levels_of, on_disk
from scduet.data.sources import Cells
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.events import Listener
from scduet.nn.random import own_random_numbers
from scduet.options import build, check_arguments, options_of, refuse_unknown
from scduet.tasks.quality.provenance import made_by, note
from scduet.train.config import TrainConfig
from scduet.train.group import reporter
from scduet.train.loop import Rows, TrainingResult


def map_query(
    query,
    model: Model,
    *,
    train: bool = True,
    max_missing: float = 0.2,
    key_added: str | None = None,
    n_new_terms: int = 0,
    callback: Listener | None = None,
    **options,
) -> Model:
    """Embed `query` with `model`, batches and levels that the model has not seen included.

    query: AnnData or MuData with counts and further inputs where the model had them; gains obsm[key_added], float32
        (cell, latent). Or the path of an .h5ad, .h5mu or .zarr, which is not changed. An input that may miss, e.g.
        proteins, may be absent.
    train: learn the rows of new batches and levels. Without training they are the mean of the known ones, which is
        exact for the embedding where the encoder does not see covariates (scVI's default).
    max_missing: share of the model's genes that may be missing from the query; they are taken for zero.
    key_added: None for the field's name, e.g. "X_scVI".
    n_new_terms: of expiMap: further terms without a gene set, learned for what its terms do not explain in the query.
    options: of training, e.g. max_epochs, seed.

    Returns a model that knows the new levels and gives reference cells the same numbers, bit for bit, as `model`. Where
    every level of the query is known already it is `model` itself, with the cells of the query. Raises DataError when
    too many genes are missing, or a column of obs is.
    """
    check_arguments(max_missing=max_missing)
    if not model.needs_mapping:
        raise OptionError(f"{model.name!r} takes cells of any batch as they are", "use its embed() or predict()")
    refuse_unknown(options, [o.name for o in options_of(model.name) if o.group == "training"], "map_query")
    data, config = on_disk(query), _with_terms(model, n_new_terms)
    if not model.schema.main.may_miss or has_main(modalities_of(data), model.schema.fields.layer):
        _check_genes(data, model, max_missing)
    schema = _extended(model.schema, data)
    cells = schema.encode(data, max_missing, unknown_labels=True).marked()
    grows = schema != model.schema or config != model.config
    mapped = _extend_model(model, schema, cells, config) if grows else replace(model, cells=cells)
    if train and grows:
        mapped = train_new_rows(model, mapped, build(TrainConfig, {"weight_decay": 0.0, **options}), callback)
    key = key_added or model.key
    if data is query:
        query.obsm[key] = mapped.embed()
        note(query, key, made_by(mapped))
    return mapped


def prepare_query(query, model: Model, *, max_missing: float = 0.2):
    """A copy of `query` with the genes of `model`, in its order; missing ones are zero, missing labels "unlabeled".

    query: AnnData, or MuData, of which the modality with the main matrix is changed. Further inputs of the model in
    obsm and in other modalities are copied as they are. Warns about missing genes. Raises DataError when their share is
    above `max_missing` (0 to 1), and for a model whose main matrix is neither X nor a layer.
    """
    check_arguments(max_missing=max_missing)
    checks.check_cells(query)
    names, fields = pd.Index(model.genes), model.schema.fields
    name, layer = main_part(query, fields.layer)
    main = query if name is None else query.mod[name]
    if layer is not None and layer not in main.layers:
        raise DataError("prepare_query copies cells with counts in X or a layer", "use map_query")
    _check_genes(query, model, max_missing)
    matrix = _picked(locate_main(query, fields.layer).values, feature_names.places_of(names, main.var_names))
    layers = {} if layer is None else {layer: matrix}
    prepared = AnnData(matrix, obs=main.obs.copy(), var=pd.DataFrame(index=names), layers=layers)
    if model.schema.inputs:
        prepared.obsm, prepared.uns = dict(main.obsm), dict(main.uns)
    prepared = prepared if name is None else with_modality(query, name, prepared)
    if fields.labels_key is not None:
        prepared.obs[fields.labels_key] = _known_labels(query, fields.labels_key, model.schema)
    return prepared


def _check_genes(data, model: Model, max_missing: float) -> None:
    """Warn about genes of the model that are missing, and raise DataError where these are too many."""
    names, var = pd.Index(model.genes), var_of_main(data, model.schema.fields.layer)
    checks.check_names(var.index, "gene")
    missing = names[feature_names.places_of(names, var.index) < 0]
    _refuse_missing(var, missing, len(names), max_missing)


class SurgeryModule(nn.Module):
    """The rows that a module's tables gained, as the only weights that can change."""

    players = ("model",)

    def __init__(self, module: nn.Module, n_known: dict[str, int]):
        super().__init__()
        self.module = module.requires_grad_(False)
        self.n_known = n_known
        self.new = nn.ParameterList([module.get_parameter(name)[n:].clone() for name, n in n_known.items()])
        self.expects: Expects = module.expects  # type: ignore[assignment]

    def forward(self, cells: CellBatch, step: Step) -> Loss:
        return functional_call(self.module, self.joined(), (cells, step))

    def joined(self) -> dict[str, Tensor]:
        """Each table whole again."""
        pairs = zip(self.n_known.items(), self.new, strict=True)
        return {name: torch.cat([self.module.get_parameter(name)[:n], new]) for (name, n), new in pairs}

    def train(self, mode: bool = True) -> SurgeryModule:
        """The module inside always evaluates: its batch statistics are the reference's."""
        super().train(mode)
        self.module.eval()
        return self


def _extended(schema: Schema, adata) -> Schema:
    """The schema with the levels of `adata` that it does not know at the end of their columns."""
    keys = [key for key in (schema.fields.batch_key, *schema.fields.categorical_covariate_keys) if key is not None]
    as_covariates = replace(schema.fields, batch_key=None, labels_key=None, categorical_covariate_keys=tuple(keys))
    checks.check_names(adata.obs_names, "cell")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScduetWarning)  # that a query has few cells of a level does not matter
        found, found_kinds = levels_of(adata, as_covariates)
    more, kinds = {}, dict(schema.kinds)
    for key in keys:
        new = absent(found[key], schema.levels[key])
        more[key] = (*schema.levels[key], *new)
        pair = {found_kinds.get(key, "text"), schema.kinds.get(key, "text")}
        if new and len(pair) > 1:  # numbers of both kinds are numbers; of a number and a text, both are text
            kinds[key] = "float" if pair == {"int", "float"} else "text"
    return replace(schema, levels={**schema.levels, **more}, kinds=kinds)


def _with_terms(model: Model, n_new: int) -> Any:
    """The options of the model with further free terms. Raises OptionError for a model that cannot have these."""
    if isinstance(n_new, bool) or not isinstance(n_new, int) or n_new < 0:
        raise OptionError(f"option 'n_new_terms' cannot be {n_new!r}", "it is a whole number from 0 up")
    if n_new and not isinstance(model.module, HasPrograms):
        raise OptionError(f"{model.name!r} has no terms to add to", "n_new_terms= is for expimap")
    return replace(model.config, n_free=model.config.n_free + n_new) if n_new else model.config


def _extend_model(model: Model, schema: Schema, cells: Cells, config: Any = None) -> Model:
    """The model with new rows in its tables, each the mean of the known ones; all else as it was.

    config: options with further terms, whose rows start at random.
    """
    cls, config = type(model.module), config or model.config
    reference = _extend_reference(cls, model.reference, schema.reference(cells), cells)
    with own_random_numbers():
        module = cls(reference, config, **model.holds)
    known = model.module.state_dict()
    own = getattr(module, "rows_of_terms", ())
    weights = {
        name: _extend_rows(name, known.get(name), value, reference, random=name.startswith(own) if own else False)
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(weights)
    made = {"module": module.to(model.device).eval(), "schema": schema, "reference": reference, "config": config}
    return replace(model, **made, cells=cells)


def _extend_rows(name: str, known: Tensor | None, wanted: Tensor, reference: Reference, random: bool = False) -> Tensor:
    """The `known` rows of a weight, then as many more as `wanted` has: its own, if these are random."""
    if random and known is not None:
        return torch.cat([known, wanted[len(known) :].to(known.device)])
    known = wanted.new_zeros(1, *wanted.shape[1:]) if known is None else known  # one level had no table: it adds zero
    if known.shape == wanted.shape:
        return known
    if known.shape[1:] != wanted.shape[1:]:
        remedy = "train it again with these cells, or without batch_key"
        raise OptionError("this model cannot be extended to new batches or levels", remedy)
    array = name.rpartition(".")[2]
    if array in reference.axes:
        return torch.tensor(reference.arrays[array])
    return torch.cat([known, known.mean(0, keepdim=True).expand(len(wanted) - len(known), *known.shape[1:])])


def _extend_reference(cls: type, known: Reference, query: Reference, cells: Cells) -> Reference:
    """Sizes with the new levels; what is measured in each batch is, of the new ones, that of the query."""
    larger = replace(known, n_batches=query.n_batches, n_categories=query.n_categories)
    if not known.axes:
        return larger
    found = api.measured(cls, larger, cells).arrays
    rows = {name: np.concatenate([known.arrays[name], found[name][len(known.arrays[name]) :]]) for name in known.axes}
    return replace(larger, arrays={**known.arrays, **rows})


def train_new_rows(
    model: Model, mapped: Model, training: TrainConfig, callback: Listener | None = None, split: Rows | None = None
) -> Model:
    """`mapped`, a query mapped onto `model`, after training its new rows on the cells of the query.

    split: rows of the cells to train on and of those held out.
    """
    before = dict(model.module.named_parameters())
    n_known = {
        name: len(before[name]) if name in before else 1
        for name, value in mapped.module.named_parameters()
        if name not in before or before[name].shape != value.shape
    }
    if not n_known or mapped.cells is None:
        return mapped
    rows, listener = SurgeryModule(mapped.module, n_known), reporter(callback)
    trained = api.train(replace(mapped, module=rows, outcome=TrainingResult()), mapped.cells, training, listener, split)
    mapped.module.load_state_dict({**mapped.module.state_dict(), **rows.joined()})
    return listener.handed_over(replace(trained, module=mapped.module.requires_grad_(True).eval()))


def _known_labels(query, key: str, schema: Schema) -> pd.Series:
    """The labels of the query that the model knows; the rest are unlabeled."""
    unlabeled = schema.fields.unlabeled_category
    if not has_column(query, key):
        return pd.Series(unlabeled, index=query.obs_names)
    values = column(query, key)
    labels = coded(values, key)
    known = np.append(places_of(labels.names, schema.levels[key]), -1) >= 0
    return values.astype(object).where(known[labels.code], unlabeled)


def _refuse_missing(var: pd.DataFrame, missing: pd.Index, of: int, most: float) -> None:
    if len(missing) == 0:
        return
    share = f"{len(missing)} of {of} genes ({len(missing) / of:.0%})"
    if len(missing) > most * of:
        remedy = _other_names(var, missing) or "set max_missing higher only if you know why they are missing"
        raise DataError(f"{share} of the model are missing from the query: {some(missing)}", remedy)
    text = f"{share} of the model are missing from the query and taken for zero: {some(missing)}"
    warnings.warn(text, ScduetWarning, stacklevel=4)


def _other_names(var: pd.DataFrame, missing: pd.Index) -> str:
    """A hint, where a column of var holds the names that are missing."""
    for key in var.columns:
        share = missing.isin(var[key].astype(str)).mean()
        if share > 0.5:
            return f"var[{key!r}] has {share:.0%} of them: set adata.var_names = adata.var[{key!r}]"
    ensembl = missing.str.match(r"ENS[A-Z]*G\d{8,}").mean() > 0.5
    return "the model's genes are Ensembl ids and the query's are not: set var_names to Ensembl ids" if ensembl else ""


def _picked(matrix, place: np.ndarray) -> sp.csr_matrix:
    """Columns of `matrix` by `place`; -1 is a column of zeros. Stays sparse."""
    rows = sp.csr_matrix(matrix)
    there = np.flatnonzero(place >= 0)
    pick = sp.csr_matrix((np.ones(len(there), rows.dtype), (place[there], there)), shape=(rows.shape[1], len(place)))
    return sp.csr_matrix(rows @ pick)
