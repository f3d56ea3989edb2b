"""What R asks for to find doublets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import scduet
from scduet.interop import codec
from scduet.interop.models import listener
from scduet.interop.options import Options, call


@dataclass(frozen=True)
class Doublets:
    """Scores and calls of the cells, and a row for each capture."""

    cells: list[codec.Column]
    captures: list[codec.Column]


def find_doublets(adata, method: str, options: Options, callback: Callable | None = None) -> Doublets:
    """The columns and the table of `scduet.find_doublets`."""
    table = call(scduet.find_doublets, adata, method, callback=listener(callback), options=options)
    columns = adata.obs[["doublet_score", "predicted_doublet"]]
    return Doublets(codec.columns_of(columns.reset_index(drop=True)), codec.columns_of(table.reset_index()))
