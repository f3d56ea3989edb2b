"""What R asks for to take spots and bulk samples apart into cell types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

import scduet
from scduet.interop import codec, objects
from scduet.interop.models import Genes, listener
from scduet.interop.options import Options, call
from scduet.tasks.spatial.result import Deconvolution


@dataclass(frozen=True)
class Deconvolved:
    """Proportions and their spread as R's types x mixtures, tables, and notes."""

    proportions: Genes
    spread: Genes | None
    agreement: list[codec.Column]
    types: list[codec.Column]
    genes: list[codec.Column]
    mixtures: list[codec.Column]
    notes: codec.Text
    model: str


def deconvolve(adata, reference, labels_key: str, options: Options, callback: Callable | None = None) -> Deconvolved:
    """`scduet.deconvolve`."""
    told = listener(callback)
    return _sent(call(scduet.deconvolve, adata, reference, labels_key=labels_key, callback=told, options=options))


def deconvolve_bulk(adata, reference, labels_key: str, options: Options) -> Deconvolved:
    """`scduet.deconvolve_bulk`."""
    return _sent(call(scduet.deconvolve_bulk, adata, reference, labels_key=labels_key, options=options))


def _sent(found: Deconvolution) -> Deconvolved:
    tables = (found.agreement, found.types.rename_axis("type"), found.genes.rename_axis("gene"))
    columns = [codec.columns_of(table.reset_index()) for table in tables]
    spread = None if found.spread is None else _block(found.spread)
    mixtures = codec.columns_of(found.mixtures.reset_index(drop=True))
    return Deconvolved(_block(found.proportions), spread, *columns, mixtures, codec.as_text(found.notes), found.model)


def _block(table: pd.DataFrame) -> Genes:
    return Genes(codec.as_text(table.columns), objects.block(table.to_numpy(np.float64)))
