"""What R asks for to denoise counts, and to judge how well that goes."""

from __future__ import annotations

from collections.abc import Callable

import scduet
from scduet.interop import codec, objects
from scduet.interop.models import Genes, listener
from scduet.interop.options import Options, call


def denoise(adata, method: str | None, options: Options, callback: Callable | None = None) -> Genes:
    """Expected counts of the cells, as R's matrix of genes x cells."""
    call(scduet.denoise, adata, method, callback=listener(callback), options=options)
    return Genes(codec.as_text(adata.var_names), objects.block(adata.layers["denoised"]))


def compare_denoisers(adata, options: Options, callback: Callable | None = None) -> list[codec.Column]:
    """The table of `scduet.compare_denoisers`, its first column the names of the methods."""
    table = call(scduet.compare_denoisers, adata, callback=listener(callback), options=options)
    return codec.columns_of(table.reset_index())
