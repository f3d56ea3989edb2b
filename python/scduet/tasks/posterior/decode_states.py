"""States of the latent space that are given as points, not as cells: what a model decodes of them."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float
from torch import Tensor

from scduet.api import Model
from scduet.contract import CellBatch, Input
from scduet.data.inputs import Names
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.data.sources import Cells, DenseSource, Source, in_memory
from scduet.errors import DataError, OptionError, some
from scduet.tasks.posterior.latent import BATCH_SIZE, batch_codes, modality_of


def interpolate(
    start: Float[np.ndarray, " latent"], end: Float[np.ndarray, " latent"], n: int = 10
) -> Float[np.ndarray, "step latent"]:
    """`n` states on the straight line from `start` to `end`, both included."""
    share = np.linspace(0, 1, n, dtype=np.float32)[:, None]
    return (1 - share) * np.asarray(start, np.float32) + share * np.asarray(end, np.float32)


@torch.inference_mode()
def decode_states(
    model: Model, states, *, batch=None, modality: str | None = None, inputs: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Expected share of each gene (state x gene, rows sum to 1) for states of the latent space, e.g. interpolated ones.

    modality: another matrix that the model decodes, e.g. "protein", whose expected values are given.
    batch: name of the batch to decode as; None for the first. inputs: of a model whose decoder reads further inputs,
    by name: an array (state, column), or a DataFrame with columns in any order.

    Raises DataError for models with further covariates, and where an input is needed.

    To compare with log-normalized cells, draw counts with `sample_states` first: the logarithm of a mean is above the
    mean of logarithms, most for genes with few counts.
    """
    chosen = modality_of(model, modality)
    found = [chosen.normalized(z, cells).cpu().numpy() for z, cells in cells_in_states(model, states, batch, inputs)]
    values = np.concatenate(found)
    if np.isnan(values).any():
        needed = f"the decoder needs every column of {some(model.schema.features)}"
        raise DataError(needed, "pass inputs= with a row for each state")
    return pd.DataFrame(values, columns=pd.Index(chosen.features))


def cells_in_states(
    model: Model, states, batch, inputs: Mapping[str, Any] | None = None, batch_size: int = BATCH_SIZE
) -> Iterator[tuple[Float[Tensor, "state latent"], CellBatch]]:
    """States as the decoder wants them, with cells in them that have no counts, in minibatches."""
    schema = model.schema
    if schema.fields.categorical_covariate_keys or schema.fields.continuous_covariate_keys:
        raise DataError("states alone do not say the covariates of the cells", "use a model without covariate keys")
    unknown = [name for name in inputs or {} if name not in schema.features]
    if unknown:
        raise OptionError(f"{model.name!r} reads no input {some(unknown)}", f"it reads {some(schema.features, 9)}")
    model.module.eval()
    z = torch.from_numpy(_points(states, getattr(model.config, "n_latent", None))).to(model.device)
    code, n = batch_codes(model, batch)[0] or 0, len(z)
    further = [name for name, given in schema.further.items() if given.axis == "cell" and name in schema.features]
    extra = {name: _rows_of_states((inputs or {}).get(name), schema.features[name], n, name) for name in further}
    nothing = Cells(
        counts=_as_source(sp.csr_matrix((n, len(model.genes)), dtype=np.float32), schema.main),
        total=np.zeros(n),
        batch=np.full(n, code),
        extra={name: _as_source(rows, schema.inputs[name]) for name, rows in extra.items()},
        measured={name: np.full(n, name in (inputs or {})) for name in further},
    )
    for cells in minibatches(nothing, sequential(n), batch_size):
        assert isinstance(cells, CellBatch)
        yield z[cells.index.to(z.device)], cells.to(model.device)


def _points(states, width: int | None) -> Float[np.ndarray, "state latent"]:
    try:
        points = np.ascontiguousarray(states, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"states are not numbers: {error}", "give an array (state, latent)") from None
    if points.ndim != 2 or points.shape[1] != (width or points.shape[1]) or not len(points):
        raise DataError(f"states have the shape {points.shape}", f"give an array (state, {width or 'latent'})")
    return points


def _rows_of_states(given: Any, columns: Names, n: int, name: str) -> np.ndarray | sp.csr_matrix:
    """An input of states, with the columns of the model; NaN for one that was not given."""
    width = columns if isinstance(columns, int) else len(columns)
    if given is None:
        return np.broadcast_to(np.float32(np.nan), (n, width))
    if isinstance(given, pd.DataFrame) and not isinstance(columns, int):
        given = given.reindex(columns=list(columns))
    rows = np.asarray(given, dtype=np.float32)
    if rows.shape != (n, width):
        raise DataError(f"inputs[{name!r}] is {rows.shape}, not {(n, width)}", "give a row for each state")
    return rows


def _as_source(rows: np.ndarray | sp.csr_matrix, given: Input) -> Source:
    return in_memory(rows if sp.issparse(rows) else np.nan_to_num(rows)) if given.sparse else DenseSource(rows)
