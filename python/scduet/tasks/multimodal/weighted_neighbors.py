"""Nearest neighbors of cells by several embeddings together, e.g. of RNA and of proteins, for UMAP and clustering."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scduet.data import checks
from scduet.data.found import row_order
from scduet.data.locate import locate
from scduet.errors import DataError, OptionError, some
from scduet.metrics.core import weighted_neighbors as wnn
from scduet.metrics.core.inputs import Undefined, dense
from scduet.metrics.integration.graph import adjacency, umap_weights
from scduet.options import check_arguments, listed


def weighted_neighbors(
    adata,
    representations: Sequence[str] = ("X_pca", "X_apca"),
    *,
    n_neighbors: int = wnn.N_NEIGHBORS,
    n_candidates: int = wnn.N_CANDIDATES,
    key_added: str = "wnn",
) -> pd.DataFrame:
    """Weighted nearest neighbors (WNN): an embedding weighs more in cells whose neighbors by it predict them better.

    adata: AnnData or MuData; gains obsp[key_added + "_distances"] and obsp[key_added + "_connectivities"] (weights of
        UMAP), and uns[key_added], with which sc.tl.umap(adata, neighbors_key="wnn") and sc.tl.leiden(adata,
        neighbors_key="wnn") use them.
    representations: two or more keys of obsm, or places such as "mod/rna/obsm/X_pca" of a MuData.
    n_neighbors: neighbors of a cell. n_candidates: nearest cells by each embedding among which these are looked for.

    Returns the weights (cell x representation), which sum to 1 in a cell. They and the neighbors are those of Seurat's
    FindMultiModalNeighbors, whose search is approximate where this one is exact.

    Raises DataError for an embedding that is not there, that lacks cells or holds NaN, and where all cells are in one
    place; OptionError for fewer than two embeddings.

    Source: Hao et al. 2021, Cell 184:3573.
    """
    checks.check_cells(adata)
    names = listed("representations", representations)
    check_arguments(n_neighbors=n_neighbors, n_candidates=n_candidates)
    if len(set(names)) < 2:
        raise OptionError(f"representations={names}", "name two or more embeddings of the cells")
    try:
        found = wnn.weighted_neighbors([_embedding(adata, name) for name in names], n_neighbors, n_candidates)
    except Undefined as error:
        raise DataError(f"{some(names)}: {error}", "is an embedding empty?") from error
    near = found.neighbors
    adata.obsp[f"{key_added}_distances"] = adjacency(near, near.distance)
    adata.obsp[f"{key_added}_connectivities"] = umap_weights(near)
    parameters = {"n_neighbors": n_neighbors, "method": "umap", "metric": "wnn", "use_rep": names[0]}
    keys = {name: f"{key_added}_{name}" for name in ("connectivities", "distances")}
    adata.uns[key_added] = {**{f"{name}_key": key for name, key in keys.items()}, "params": parameters}
    adata.uns[key_added]["representations"] = np.array(names, dtype=str)
    return pd.DataFrame(found.weights, adata.obs_names, pd.Index(names))


def _embedding(adata, name: str) -> np.ndarray:
    found = locate(adata, name if "/" in name else f"obsm/{name}")
    order = row_order(found, adata.obs_names)
    values = dense(found.numbers)
    values = np.asarray(values if order is None else values[order], np.float64)
    bad = ~np.isfinite(values).all(1) if order is None else (order < 0) | ~np.isfinite(values).all(1)
    if bad.any():
        text = f"{found.where} has no numbers for {int(bad.sum())} cells: {some(adata.obs_names[bad])}"
        raise DataError(text, "keep the cells that every embedding has")
    return values
