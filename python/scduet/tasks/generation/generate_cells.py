"""Cells that a model makes: states of real cells with their posterior noise, decoded and drawn."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float, Int
from torch import Tensor

from scduet.api import Model
from scduet.capabilities import MakesCells, part_with
from scduet.contract import CellBatch
from scduet.data.levels import absent, coded
from scduet.data.loader import minibatches
from scduet.data.schema import on_disk
from scduet.errors import DataError, OptionError, some
from scduet.nn.distributions import Normal
from scduet.options import check_arguments, listed, seed_of
from scduet.tasks.posterior.latent import (
    BATCH_SIZE,
    Modality,
    as_batch,
    batch_codes,
    cell_names,
    is_minified,
    modality_of,
    seeded,
    states,
)

Parts = Iterator[tuple[Tensor, np.ndarray]]
GENERATED = "scduet_generated"  # in uns: how the cells were made


def generate_cells(
    model: Model,
    n: int,
    *,
    adata: Any = None,
    label: str | list[str] | None = None,
    labels_key: str | None = None,
    library: float | Float[np.ndarray, " cell"] | None = None,
    batch: str | None = None,
    seed: int = 0,
) -> AnnData:
    """`n` new cells: the state of a random real cell with its posterior noise, decoded, and counts drawn of it.

    adata: cells whose states are taken, an AnnData or a path; None for those trained on. label: of which type (or
    types) they are; None for all, in the shares of the data. labels_key: column with the types; None for that of the
    model. library: total counts, a number or one for each new cell; None for those of the source cells (a size factor,
    for a model with size factors; before zero inflation, for a model with that). batch: to decode as; None for that of
    the source cell. A GAN makes cells of noise; from the source cell it takes the type and the library.

    States are not drawn from the prior, which covers parts that hold no cells: of PBMC, a random forest told scVI's
    cells from real ones with an AUC of 0.50 with states of cells, and 0.78 with states from the prior. New cells can do
    no more than the model: they add no information about the data, and they are not anonymous. Judge them with
    `score_generated`.

    Returns an AnnData (n, genes of the model): counts (CSR); of a model of log-normalized values the expected values,
    not below 0, which vary less than cells. obs: "source", the name of the cell whose state was taken (its place, for
    cells trained on), and the columns of the type and the batch. Raises OptionError for models that do not decode,
    DataError for unknown types.
    """
    check_arguments(n=n)
    maker = part_with(model.module, MakesCells)
    if maker is not None:
        _check_made(model, labels_key, batch)
    chosen = None if maker else modality_of(model)
    (code,) = batch_codes(model, None if batch is None else [batch])
    adata = None if adata is None else on_disk(adata)
    cells = adata if is_minified(adata) and maker is None else model.encode(adata)
    labels, key = _labels(model, adata, labels_key, label is not None)
    seed = seed_of(seed)
    draw = np.random.default_rng(seed)
    rows = draw.choice(_sources(labels, label, len(cell_names(model, adata)), key), n)
    total = None if library is None else torch.tensor(_library(library, n))[:, None]
    with seeded(seed), torch.inference_mode():
        parts = _decoded(model, chosen, cells, rows, total, code) if chosen else _made(model, maker, cells, rows, total)
        pieces, batches = zip(*((sp.csr_matrix(x.cpu().numpy(), dtype=np.float32), b) for x, b in parts), strict=True)
    obs = pd.DataFrame({"source": cell_names(model, adata)[rows].to_numpy()}, index=[f"generated{i}" for i in range(n)])
    if key is not None and labels is not None:
        obs[key] = pd.Categorical(labels[rows])
    if model.schema.fields.batch_key is not None:
        obs[model.schema.fields.batch_key] = model.schema.values(model.schema.fields.batch_key)[np.concatenate(batches)]
    made = AnnData(sp.vstack(pieces, format="csr"), obs=obs, var=pd.DataFrame(index=pd.Index(model.genes)))
    made.uns[GENERATED] = {"model": model.name, "seed": seed}
    return made


def _decoded(model: Model, chosen: Modality, cells, rows, total: Tensor | None, code: int | None) -> Parts:
    """Values of the cells, decoded of states of those at `rows`, and their batches."""
    done = 0
    for part in states(model, cells, rows, BATCH_SIZE):
        where = as_batch(part.cells, code)
        wanted = part.log_library if total is None else total[done : done + len(where)].log().to(where.device)
        yield _values(chosen.of(part.draw(), part.cells, where, wanted)), where.cpu().numpy()
        done += len(where)


def _made(model: Model, maker: MakesCells, cells, rows, total: Tensor | None) -> Parts:
    """Counts of cells made of noise, of the types of those at `rows`, and the batches of these."""
    done = 0
    model.module.eval()
    for batch in minibatches(cells, rows, BATCH_SIZE):
        batch = batch.to(model.device)
        assert isinstance(batch, CellBatch)
        wanted = batch.x.sum()[:, None] if total is None else total[done : done + len(batch)].to(model.device)
        expected = maker.shares(batch) * wanted
        # Rounded up or down at random: the noise of the counts is in the shares, as the critic saw them.
        yield (expected + torch.rand_like(expected)).floor(), batch.batch.cpu().numpy()
        done += len(batch)


def _check_made(model: Model, labels_key: str | None, batch: str | None) -> None:
    own = model.schema.fields.labels_key
    if batch is not None:
        raise OptionError(f"{model.name!r} knows no batches", "leave batch= out")
    if labels_key not in (None, own):
        known = "it was trained without types" if own is None else f"it was trained with the types of {own!r}"
        raise OptionError(f"{model.name!r} cannot make cells by {labels_key!r}: {known}", "pass labels_key= to fit")


def _values(made: Any) -> Tensor:
    """Counts drawn of a distribution; of a normal one, whose deviation is nominal, the mean."""
    return made.mean.clamp(min=0) if isinstance(made, Normal) else made.sample()


def _labels(model: Model, adata: Any, key: str | None, needed: bool) -> tuple[np.ndarray | None, str | None]:
    """Name of each cell's type (None where there is none), and the column that says it."""
    key = model.schema.fields.labels_key if key is None else key
    if key is None:
        if needed:
            raise OptionError("label= needs the types of the cells", "pass labels_key=, and adata with this column")
        return None, None
    if adata is not None:
        if key not in adata.obs:
            raise DataError(f"no column {key!r} in adata.obs", f"it has {some(adata.obs.columns, 9)}")
        return coded(adata.obs[key], key).texts, key
    known = model.cells.label if model.cells is not None and key == model.schema.fields.labels_key else None
    if known is None:
        raise DataError(f"the model does not know {key!r} of the cells it was trained on", "pass adata")
    return np.array([*model.schema.levels[key], None], dtype=object)[known], key


def _sources(labels: np.ndarray | None, wanted: Any, n_cells: int, key: str | None) -> Int[np.ndarray, " cell"]:
    """The cells whose states may be taken."""
    if wanted is None or labels is None:
        return np.arange(n_cells)
    names = [str(name) for name in listed("label", wanted)]
    unknown = absent(names, [str(name) for name in pd.unique(labels)])
    if len(unknown) or not names:
        there = [name for name in pd.unique(labels) if name is not None]
        raise DataError(f"no cell has {key!r} {some(unknown)}", f"there are {some(there, 12)}")
    return np.flatnonzero(np.isin(labels.astype(str), names))


def _library(wanted: Any, n: int) -> Float[np.ndarray, " cell"]:
    try:
        library = np.broadcast_to(np.asarray(wanted, dtype=np.float32), n)
    except (TypeError, ValueError) as error:
        raise OptionError(f"library does not fit {n} cells: {error}", "give a number, or one for each cell") from None
    if not (np.isfinite(library).all() and (library > 0).all()):
        raise OptionError("library has values that are not above zero", "give total counts")
    return library
