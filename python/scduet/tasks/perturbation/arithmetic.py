"""Arithmetic in the latent space of a model: cells moved to another condition, or to another batch, and decoded."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from scduet.api import Model
from scduet.data.levels import coded
from scduet.errors import DataError, some
from scduet.tasks.perturbation.shift import shift
from scduet.tasks.posterior.latent import BATCH_SIZE, modality_of

States = Float[np.ndarray, "cell latent"]
Expression = Float[np.ndarray, "cell gene"]


def predict_by_arithmetic(
    model: Model,
    adata: Any,
    control_cells: Any,
    condition_key: str,
    control: str,
    perturbation: str,
    labels_key: str | None,
    *,
    types: Sequence[str] | None = None,
    weights: str | Mapping[str, float] = "equal",
    residual: bool = False,
    clip: bool = True,
) -> tuple[Expression, States]:
    """`control_cells` as they would be under `perturbation`: (cell, gene) of the model, and the shift (latent,).

    adata: cells of both conditions, by which the shift is measured. labels_key: cell types; the shift is the mean over
    those with cells of both conditions, or of `types` among them. weights: of the types, see `shift`.
    residual: keep what the model does not reconstruct of each control cell, so that predicted cells vary like cells;
    otherwise they are decoded means, which vary less. clip: negative values to 0.

    Raises DataError for a column, condition or type that is not there.
    """
    condition = _column(adata, condition_key).to_numpy()
    for name in (control, perturbation):
        if name not in condition:
            raise DataError(f"obs[{condition_key!r}] has no {name!r}", f"it has {some(pd.unique(condition), 9)}")
    labels = np.zeros(len(condition), str) if labels_key is None else _column(adata, labels_key).to_numpy()
    used = np.isin(condition, [control, perturbation])
    if types is not None:
        unknown = [name for name in types if name not in labels[used]]
        if unknown:
            raise DataError(f"obs[{labels_key!r}] has no {some(unknown)}", f"it has {some(pd.unique(labels), 9)}")
        used &= np.isin(labels, list(types))
    before, after = used & (condition == control), used & (condition == perturbation)
    z, start = model.embed(adata), model.embed(control_cells)
    moved = shift(start, z[before], z[after], labels_start=labels[before], labels_end=labels[after], weights=weights)
    return _decoded(model, control_cells, start, moved, residual, clip), (moved - start)[0]


def remove_batches(
    model: Model, adata: Any, batch_key: str, labels_key: str, *, clip: bool = False
) -> tuple[Expression, States]:
    """Cells with the batches of each type moved to the mean of the type's largest batch: (cell, gene), and states.

    Cell types of a single batch, and cells without a type, are decoded where they are. As published for scGen: cell
    types have to be known, so a score of their conservation says little.
    """
    batch, labels = _column(adata, batch_key).to_numpy(), coded(adata.obs[labels_key], labels_key).texts
    z = model.embed(adata)
    moved = z.copy()
    for name in pd.unique(labels[pd.notna(labels)]):
        here = labels == name
        sizes = pd.Series(batch[here]).value_counts(sort=True)
        largest = z[here & (batch == sizes.index[0])].mean(0)
        for other in sizes.index[1:]:
            rows = here & (batch == other)
            moved[rows] += largest - z[rows].mean(0)
    return _decoded(model, adata, z, moved, False, clip), moved


@torch.inference_mode()
def decoded(model: Model, states: States) -> Expression:
    """Expected expression of states, (cell, gene)."""
    chosen, pieces = modality_of(model), []
    model.module.eval()
    for start in range(0, len(states), BATCH_SIZE):
        z = torch.from_numpy(np.asarray(states[start : start + BATCH_SIZE], np.float32)).to(model.device)
        pieces.append(chosen.decoder.normalized_expression(z, None).cpu().numpy())  # type: ignore[arg-type]
    return np.concatenate(pieces)


def _decoded(model: Model, cells: Any, start: States, moved: States, residual: bool, clip: bool) -> Expression:
    found = decoded(model, moved)
    if residual:
        found += lognormal(model, cells) - decoded(model, start)
    return np.maximum(found, 0, out=found) if clip else found


@torch.inference_mode()
def lognormal(model: Model, adata: Any) -> Expression:
    """The cells as the model sees them: log-normalized, (cell, gene) of the model."""
    model.module.eval()
    return model.map(lambda cells: model.module.lognormal(cells).dense(), adata).cpu().numpy()  # type: ignore[operator]


def _column(adata: Any, key: str) -> pd.Series:
    if key not in adata.obs:
        raise DataError(f"no column {key!r} in adata.obs", f"it has {some(adata.obs.columns, 9)}")
    return adata.obs[key].astype(str)
