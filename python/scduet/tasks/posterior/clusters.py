"""Clusters that a model learned without labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from scduet.api import Model
from scduet.capabilities import HasBinaryCodes, HasMemberships
from scduet.data.schema import on_disk
from scduet.errors import OptionError
from scduet.options import check_arguments

LEAST = 100  # cells of a code that is a cluster, as in SAUCIE
UNASSIGNED = "unassigned"


def has_clusters(model: Model) -> bool:
    return isinstance(model.module, (HasBinaryCodes, HasMemberships))


def cluster_cells(
    model: Model, adata=None, *, min_cells: int | None = None, key_added: str | None = None
) -> pd.DataFrame:
    """Clusters of the cells by a model that learns them: SAUCIE or CarDEC.

    adata: cells to cluster, which gain obs[key_added]; or the path of a file, or None for the cells trained on, which
        gain nothing.
    min_cells: of SAUCIE: a binary code with fewer cells is no cluster. None for 100, or a twentieth of the cells if
        that is less. CarDEC assigns every cell.
    key_added: None for the name of the model and "_cluster", e.g. "saucie_cluster".

    Returns a table of the cells: "cluster", categorical: "0", "1", ... by falling size, or "unassigned"; for CarDEC
    also a column of memberships, 0 to 1, for each of its clusters. The number of SAUCIE's clusters follows from its
    weights and its seed: compare several. Raises OptionError for a model without clusters.
    """
    if not isinstance(model, Model) or not has_clusters(model):
        raise OptionError(f"{getattr(model, 'name', model)!r} learns no clusters", "use leiden on its embedding")
    if min_cells is not None:
        check_arguments(min_cells=min_cells)
    module, cells = model.module, None if adata is None else on_disk(adata)
    if isinstance(module, HasMemberships):
        share = model.map(module.memberships, cells).cpu().numpy()
        table = _by_membership(share)
    else:
        codes = model.map(module.binary_codes, cells).cpu().numpy()  # type: ignore[union-attr]
        least = min(LEAST, max(len(codes) // 20, 1)) if min_cells is None else min_cells
        table = pd.DataFrame({"cluster": by_code(codes, least)})
    if cells is not None:
        table.index = cells.obs_names
    if adata is not None and hasattr(adata, "obs"):
        adata.obs[key_added or f"{model.name}_cluster"] = table["cluster"]
    return table


def by_code(codes: np.ndarray, least: int) -> pd.Categorical:
    """Cells with the same row of `codes` (cell, unit) are a cluster if there are `least` of them."""
    packed = np.packbits(codes, axis=1)
    _, code, n = np.unique(packed, axis=0, return_inverse=True, return_counts=True)
    return _named(np.where(n >= least, np.arange(len(n)), -1)[code.ravel()])


def _by_membership(share: Float[np.ndarray, "cell cluster"]) -> pd.DataFrame:
    called = share.argmax(1)
    order = np.argsort(-np.bincount(called, minlength=share.shape[1]), kind="stable")
    table = pd.DataFrame(share[:, order], columns=[str(i) for i in range(len(order))])
    table.insert(0, "cluster", _named(called))
    return table


def _named(code: np.ndarray) -> pd.Categorical:
    """Clusters by falling size; -1 is unassigned."""
    known, n = np.unique(code[code >= 0], return_counts=True)
    order = known[np.argsort(-n, kind="stable")]
    name = {int(i): str(rank) for rank, i in enumerate(order)} | {-1: UNASSIGNED}
    levels = [str(i) for i in range(len(order))] + ([UNASSIGNED] if (code < 0).any() else [])
    return pd.Categorical([name[int(i)] for i in code], levels)
