"""The main matrix for code that has an AnnData: X, a layer by its name, raw, or any other place."""

from __future__ import annotations

import warnings
from typing import Any

from anndata import AnnData

from scduet.data.found import names_in
from scduet.data.locate import locate_main, modalities_of, row_order
from scduet.data.on_disk import CellsOnDisk, FileSource
from scduet.data.sources import gathered
from scduet.data.stores import StoresSource
from scduet.errors import DataError, some


def matrix_of(adata: Any, layer: str | None) -> Any:
    """The main matrix of an AnnData in memory: X, a layer by its name, or any place; None where X is empty."""
    return getattr(adata, "X", None) if layer is None else locate_main(adata, layer).values


def with_layer(adata: Any, layer: str | None) -> tuple[Any, str | None]:
    """`adata` and the layer for code that takes the genes of the layer from `adata.var`.

    The same where they are those of X, else, of raw or of a MuData, a new AnnData with the matrix in X.
    """
    layers = adata.keys("layers") if isinstance(adata, CellsOnDisk) else names_in(getattr(adata, "layers", None))
    if not modalities_of(adata) and (layer is None or layer in layers or layer == "X"):
        return adata, layer
    found = locate_main(adata, layer)
    order = row_order(found, adata.obs_names)
    if order is not None and (order < 0).any():
        lacking = adata.obs_names[order < 0]
        raise DataError(f"{len(lacking)} cells are not in {found.where}: {some(lacking)}", "leave them out")
    values = gathered(found.values) if isinstance(found.values, (FileSource, StoresSource)) else found.values
    values = values if order is None else values[order]
    if isinstance(adata, CellsOnDisk):
        return AnnData(values, obs=adata.obs, var=found.var), None
    return AnnData(values, obs=adata.obs, var=found.var, obsm=dict(adata.obsm), uns=dict(adata.uns)), None


def with_modality(data: Any, name: str, part: Any) -> Any:
    """A copy of a MuData in which `part` is one of its modalities."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "From 0.4", FutureWarning)  # which columns obs will have: it gets them below
        made = type(data)({each: part if each == name else data.mod[each].copy() for each in data.mod})
    made.obs = data.obs.reindex(made.obs_names)
    for store in ("obsm", "obsp", "uns"):
        kept = {key: value for key, value in getattr(data, store).items() if key not in data.mod}
        getattr(made, store).update(kept)
    return made
