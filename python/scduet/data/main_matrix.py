"""The main matrix for code that has an AnnData: X, a layer by its name, raw, or any other place."""

from __future__ import annotations

from typing import Any

from anndata import AnnData

from scduet.data.locate import locate_main
from scduet.data.on_disk import CellsOnDisk, FileSource
from scduet.data.sources import gathered


def matrix_of(adata: Any, layer: str | None) -> Any:
    """The main matrix of an AnnData in memory: X, a layer by its name, or any place; None where X is empty."""
    return getattr(adata, "X", None) if layer is None else locate_main(adata, layer).values


def with_layer(adata: Any, layer: str | None) -> tuple[Any, str | None]:
    """`adata` and the layer for code that takes the genes of the layer from `adata.var`.

    The same where they are those of X, else, of raw, a new AnnData with the matrix in X.
    """
    layers = adata.keys("layers") if isinstance(adata, CellsOnDisk) else getattr(adata, "layers", ())
    if layer is None or layer in layers or layer == "X":
        return adata, layer
    found = locate_main(adata, layer)
    if isinstance(adata, CellsOnDisk):
        values = gathered(found.values) if isinstance(found.values, FileSource) else found.values
        return AnnData(values, obs=adata.obs, var=found.var), None
    return AnnData(found.values, obs=adata.obs, var=found.var, obsm=dict(adata.obsm), uns=dict(adata.uns)), None
