"""Embeddings drawn in two dimensions by UMAP, beside the unintegrated PCA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float, Int

from scduet.errors import DataError, some
from scduet.tasks.quality.baselines import unintegrated_pca
from scduet.tasks.quality.score import DRAWINGS

if TYPE_CHECKING:
    from scduet.plots.style import Figure

MIN_GENES = 5  # cells of which scanpy can make a UMAP
BEFORE = "X_pca"
_TITLES = {BEFORE: "PCA, not integrated", "X_harmony": "Harmony"}


@dataclass(frozen=True)
class Drawing:
    """Cells in two dimensions: the rows that were drawn, and their places by title of the embedding."""

    rows: Int[np.ndarray, " drawn"]
    places: dict[str, Float[np.ndarray, "drawn 2"]]

    def annotation(self, adata, key: str) -> pd.Series:
        """obs[key] of the cells drawn; batches that are numbers stay categories."""
        values = adata.obs[key].iloc[self.rows]
        return values.astype("category").cat.remove_unused_categories()


def draw(
    adata,
    embeddings: Sequence[str] | None = None,
    annotations: Sequence[str] = (),
    *,
    layer: str | None = None,
    max_cells: int = 20_000,
    seed: int = 0,
) -> Figure:
    """UMAP of each embedding (column) colored by each annotation (row), the unintegrated PCA first.

    embeddings: obsm keys; None for all that are no drawings. annotations: columns of obs, e.g. batch and cell type.
    max_cells: draw a random sample of so many. `adata` is not changed.
    """
    from scduet.plots.embedding import embedding_panels

    missing = [key for key in annotations if key not in adata.obs]
    if missing:
        raise DataError(f"{some(missing)} not in obs", f"it has {some(adata.obs.columns, 8)}")
    drawing = lay_out(adata, embeddings, layer=layer, max_cells=max_cells, seed=seed)
    return embedding_panels(drawing.places, {key: drawing.annotation(adata, key) for key in annotations})


def lay_out(
    adata, embeddings: Sequence[str] | None = None, *, layer: str | None = None, max_cells: int = 20_000, seed: int = 0
) -> Drawing:
    """UMAP coordinates of the unintegrated PCA and of each of `embeddings`; see `draw`."""
    if adata.n_obs < MIN_GENES:
        raise DataError(f"{adata.n_obs} cells are too few for a UMAP", f"it takes {MIN_GENES}")
    keys = drawable(adata) if embeddings is None else list(embeddings)
    missing = [key for key in keys if key not in adata.obsm and key != BEFORE]
    if missing:
        raise DataError(f"{some(missing)} not in obsm", f"it has {some(adata.obsm, 8)}")
    rows = np.arange(adata.n_obs)
    if adata.n_obs > max_cells:
        rows = np.sort(np.random.default_rng(seed).choice(adata.n_obs, max_cells, replace=False))
    before = adata.obsm[BEFORE] if BEFORE in adata.obsm else unintegrated_pca(adata, layer)
    points = {BEFORE: before} | {key: adata.obsm[key] for key in keys if key != BEFORE}
    return Drawing(rows, {title_of(key): umap(np.asarray(value)[rows], seed) for key, value in points.items()})


def umap(points: Float[np.ndarray, "cell latent"], seed: int = 0) -> Float[np.ndarray, "cell 2"]:
    """UMAP (McInnes et al. 2018) with scanpy's defaults and 15 neighbors; two dimensions stay as they are."""
    import scanpy

    if points.shape[1] == 2:
        return points
    adata = AnnData(obs=pd.DataFrame(index=np.arange(len(points)).astype(str)), obsm={"X": points})
    scanpy.pp.neighbors(adata, n_neighbors=min(15, len(points) - 1), use_rep="X", random_state=seed)
    scanpy.tl.umap(adata, random_state=seed)
    return adata.obsm["X_umap"]


def title_of(key: str) -> str:
    """What a reader calls obsm[key]."""
    return _TITLES.get(key, key.removeprefix("X_"))


def drawable(adata) -> list[str]:
    """The embeddings in obsm that are no drawings."""
    keys: list[Any] = [key for key in adata.obsm if key.startswith("X_")]
    return [key for key in keys if not any(word in key.lower() for word in DRAWINGS)]
