"""What R asks for to estimate velocities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

import scduet
from scduet.interop import codec, objects
from scduet.interop.models import Genes, listener
from scduet.interop.options import Options, call

CELLS = ("velocity_confidence", "velocity_length", "latent_time", "velocity_uncertainty")


@dataclass(frozen=True)
class Velocities:
    """Velocities of genes x cells; tables of cells (with the arrows), genes and scores; a sentence."""

    velocity: Genes
    cells: list[codec.Column]
    genes: list[codec.Column]
    scores: list[codec.Column]
    verdict: str


def velocity(adata, model: str, basis: str | None, options: Options, callback: Callable | None = None) -> Velocities:
    """The layer and the columns of `scduet.velocity`; columns arrow_1, arrow_2, ... of the cells are the arrows."""
    options = {**dict(options), "transitions": [tuple(pair) for pair in dict(options).get("transitions", ())]}
    found = call(
        scduet.velocity, adata, model, spliced="X", unspliced="obsm/unspliced", basis=basis,
        callback=listener(callback), options=options,
    )  # fmt: skip
    used = adata[:, adata.var["velocity_genes"].to_numpy()]
    cells = adata.obs[[name for name in CELLS if name in adata.obs]].copy()
    arrows = adata.obsm[f"velocity_{(basis or 'X_pca').removeprefix('X_')}"]
    cells[[f"arrow_{i + 1}" for i in range(arrows.shape[1])]] = arrows
    columns = {name: used.var[f"velocity_{name}"].to_numpy() for name in ("gamma", "r2", "permutation")}
    genes = pd.DataFrame({"gene": used.var_names.to_numpy(str), **columns})
    return Velocities(
        Genes(codec.as_text(used.var_names), objects.block(used.layers["velocity"])),
        codec.columns_of(cells.reset_index(drop=True)),
        codec.columns_of(genes),
        codec.columns_of(pd.DataFrame([found.scores])),
        found.verdict,
    )


def velocity_grid(cells: pd.DataFrame) -> list[codec.Column]:
    """Arrows on a grid, from columns x, y, dx, dy of the cells: averages over the cells nearby, if any."""
    from scduet.plots.arrows import averaged

    points, mean = averaged(cells[["x", "y"]].to_numpy(float), cells[["dx", "dy"]].to_numpy(float))
    there = np.isfinite(mean).all(1)
    return codec.columns_of(pd.DataFrame(np.hstack([points, mean])[there], columns=["x", "y", "dx", "dy"]))
