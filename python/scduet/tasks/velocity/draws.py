"""What a trained veloVI says of cells, as means over draws: velocity, time, fit; how much the draws differ."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float
from torch import Tensor

from scduet.api import Model
from scduet.contract import CellBatch
from scduet.data.checks import check_key
from scduet.data.levels import coded
from scduet.data.loader import minibatches
from scduet.data.locate import column
from scduet.data.samplers import sequential
from scduet.data.sources import Cells, DenseSource, gathered
from scduet.errors import DataError, OptionError
from scduet.metrics.velocity import directional_cosines, permutation_score
from scduet.models.velocity.velovi import Kinetics, VeloVI
from scduet.options import check_arguments
from scduet.tasks.posterior.latent import cell_names, opened, seeded
from scduet.tasks.velocity.prepare import neighbors_of
from scduet.tasks.velocity.transitions import cosines, transitions

BATCH_SIZE = 1024
Draws = Float[np.ndarray, "draw cell gene"]
Values = Float[np.ndarray, "cell gene"]
Asked = Callable[[VeloVI, CellBatch, Kinetics], Tensor]


def velocities(module: VeloVI, cells: CellBatch, at: Kinetics) -> Tensor:
    """ds/dt by unit of the model's time; no faster down than a cell has of a gene."""
    return torch.maximum(module.velocity(at), -cells.x)


def times(module: VeloVI, cells: CellBatch, at: Kinetics) -> Tensor:
    """Time of each gene in each cell."""
    return module.latent_time(at)


def fits(module: VeloVI, cells: CellBatch, at: Kinetics) -> Tensor:
    """Expected values, spliced beside unspliced."""
    return torch.cat(module.expression_fit(at), 1)


def errors(module: VeloVI, cells: CellBatch, at: Kinetics) -> Tensor:
    """Expected values less observed ones, spliced beside unspliced."""
    return fits(module, cells, at) - torch.cat([cells.x, cells.extra["unspliced"]], 1)


@torch.inference_mode()
def draws(
    model: Model,
    adata: Any,
    asked: Asked,
    n_samples: int,
    batch_size: int = BATCH_SIZE,
    rows: Any = None,
    latent_dim: int | None = None,
) -> Iterator[Draws]:
    """`asked` at draws from the posterior of each minibatch of cells. latent_dim: see `VeloVI.draw`."""
    module = velovi_of(model)
    cells = adata if isinstance(adata, Cells) else model.encode(opened(adata))
    for batch in minibatches(cells, sequential(len(cells)) if rows is None else np.asarray(rows), batch_size):
        batch = batch.to(model.device)
        assert isinstance(batch, CellBatch)
        yield np.stack([asked(module, batch, module.draw(batch, latent_dim)).cpu().numpy() for _ in range(n_samples)])


def mean_of(model: Model, adata: Any, asked: Asked, n_samples: int) -> Values:
    """`asked` of each cell, a mean over draws."""
    return np.concatenate([part.mean(0) for part in draws(model, adata, asked, n_samples)])


def velovi_of(model: Any) -> VeloVI:
    """The module of a veloVI, in evaluation mode. Raises OptionError for any other model."""
    if not isinstance(model, Model) or not isinstance(model.module, VeloVI):
        raise OptionError(f"{getattr(model, 'name', model)!r} has no velocity", "train a 'velovi'")
    return model.module.eval()


def velocity_uncertainty(
    model: Model,
    adata: Any = None,
    n_samples: int = 50,
    seed: int = 0,
    kind: Literal["intrinsic", "extrinsic"] = "intrinsic",
) -> pd.DataFrame:
    """How much draws of the velocity of a cell differ in direction.

    adata: cells as `velocity_moments(scale=True)` makes them; None for the cells trained on.
    kind: "intrinsic", of the velocities themselves; "extrinsic", of where they lead: of the expected next cell, from
        the cosines between each draw and the ways to neighboring cells, which needs adata with obsm["X_pca"] and takes
        a second or more a draw.

    Returns a row for each cell: cosine_mean, cosine_variance and cosine_width (5 to 95%) of the cosines between the
    draws and their mean, and angle_variance, angle_width (radians). A small uncertainty says that the model is sure,
    not that it is right. Raises OptionError for a model that is no veloVI, DataError. Source: Gayoso, Weiler et al.
    2024; the extrinsic one is that of its tutorials.
    """
    check_arguments(n_samples=n_samples)
    if kind not in ("intrinsic", "extrinsic"):
        raise OptionError(f"option 'kind' cannot be {kind!r}", "choose intrinsic or extrinsic")
    velovi_of(model)
    if kind == "extrinsic":
        found = directional_cosines(next_places(model, adata, n_samples, seed))
        return spread(found, adata.obs_names)
    with seeded(seed):
        parts = [directional_cosines(part) for part in draws(model, adata, velocities, n_samples)]
    return spread(np.concatenate(parts, 1), cell_names(model, adata))


def next_places(model: Model, adata: Any, n_samples: int, seed: int) -> Draws:
    """The expected spliced values of the next cell, at draws of the velocities."""
    if not isinstance(adata, AnnData) or "X_pca" not in adata.obsm:
        remedy = "pass the cells as velocity_moments(scale=True) makes them"
        raise DataError("an extrinsic uncertainty needs cells with obsm['X_pca']", remedy)
    cells = model.encode(adata)
    x, index = gathered(cells.counts), neighbors_of(np.asarray(adata.obsm["X_pca"]))
    found = []
    with seeded(seed):
        for _ in range(n_samples):
            velocity = np.concatenate([part[0] for part in draws(model, cells, velocities, 1)])
            found.append(transitions(cosines(x, velocity, index)) @ x)
    return np.stack(found)


def spread(cosines: Float[np.ndarray, "draw cell"], index: Any) -> pd.DataFrame:
    """The columns of `velocity_uncertainty`."""
    angles = np.arccos(cosines)
    columns = {
        "cosine_mean": cosines.mean(0),
        "cosine_variance": cosines.var(0),
        "cosine_width": _width(cosines),
        "angle_variance": angles.var(0),
        "angle_width": _width(angles),
    }
    return pd.DataFrame(columns, index=index)


def permutation_scores(model: Model, adata: Any, labels_key: str, n_samples: int = 10, seed: int = 0) -> pd.DataFrame:
    """How much better veloVI fits cells than cells shuffled within their type, by gene (row) and type (column).

    adata: cells as `velocity_moments(scale=True)` makes them. Spliced and unspliced values are shuffled apart, gene by
    gene. t statistics over the first 200 cells of a type; near 0: nothing but noise to fit, so no direction. On the
    pancreas the median over genes of the largest over types is 8. Raises OptionError, DataError.
    """
    check_arguments(n_samples=n_samples)
    if not isinstance(adata, AnnData):
        raise OptionError(f"permutation_scores needs cells in memory, not {type(adata).__name__}", "pass an AnnData")
    labels = type_names(adata, labels_key)
    found, types = shuffled_fit(model, model.encode(adata), labels, n_samples, seed)
    return pd.DataFrame(found, index=pd.Index(model.genes), columns=types)


def shuffled_fit(
    model: Model, cells: Cells, labels: np.ndarray, n_samples: int, seed: int
) -> tuple[Float[np.ndarray, "gene label"], list[str]]:
    """Permutation scores of encoded cells, and the names of the types."""
    draw = np.random.default_rng(seed)
    s, u = (DenseSource(shuffled(gathered(part), labels, draw)) for part in (cells.counts, cells.extra["unspliced"]))
    with seeded(seed):
        real = _absolute(mean_of(model, cells, errors, n_samples))
        other = _absolute(mean_of(model, replace(cells, counts=s, extra={"unspliced": u}, marks=()), errors, n_samples))
    return permutation_score(real, other, labels)


def type_names(adata: AnnData, labels_key: str) -> np.ndarray:
    """The name of each cell's type; missing ones are a type of their own."""
    check_key("labels_key", labels_key)
    return coded(column(adata, labels_key), labels_key, required=False).texts.astype(str)


def shuffled(values: Values, labels: np.ndarray, draw: np.random.Generator) -> Values:
    """Each column shuffled among the cells of a label."""
    made = values.copy()
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        made[rows] = draw.permuted(values[rows], axis=0)
    return made


def _absolute(gaps: Values) -> Values:
    """Absolute error of spliced plus that of unspliced."""
    s, u = np.split(np.abs(gaps), 2, axis=1)
    return s + u


def _width(values: Float[np.ndarray, "draw cell"]) -> np.ndarray:
    low, high = np.percentile(values, [5, 95], axis=0)
    return high - low
