"""The main matrix for code that has an AnnData in memory: X, a layer by its name, raw, or any other place."""

from __future__ import annotations

from typing import Any

from anndata import AnnData

from scduet.data.locate import locate_main


def matrix_of(adata: Any, layer: str | None) -> Any:
    """The main matrix of an AnnData in memory: X, a layer by its name, or any place; None where X is empty."""
    return getattr(adata, "X", None) if layer is None else locate_main(adata, layer).values


def with_layer(adata: Any, layer: str | None) -> tuple[Any, str | None]:
    """`adata` and the layer for code that takes the genes of the layer from `adata.var`.

    The same where they are those of X, else, of raw, a new AnnData with the matrix in X.
    """
    if layer is None or layer in adata.layers or layer == "X":
        return adata, layer
    found = locate_main(adata, layer)
    return AnnData(found.values, obs=adata.obs, var=found.var, obsm=dict(adata.obsm), uns=dict(adata.uns)), None
