"""What R asks for to take spots and bulk samples apart into cell types, and to predict genes that spatial data lack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

import scduet
from scduet.interop import codec, objects
from scduet.interop.models import Genes, listener
from scduet.interop.options import Options, call
from scduet.tasks.spatial.reference import check_known
from scduet.tasks.spatial.result import Deconvolution


@dataclass(frozen=True)
class Deconvolved:
    """Proportions and their spread as R's types x mixtures, tables, notes, and counts of types as genes x mixtures."""

    proportions: Genes
    spread: Genes | None
    agreement: list[codec.Column]
    types: list[codec.Column]
    genes: list[codec.Column]
    mixtures: list[codec.Column]
    notes: codec.Text
    expressed: codec.Text
    expression: list[Genes]


def deconvolve(
    adata,
    reference,
    labels_key: str,
    options: Options,
    bulk: bool = False,
    expression: Sequence[str] = (),
    callback: Callable | None = None,
) -> Deconvolved:
    """`scduet.deconvolve` or `scduet.deconvolve_bulk`. expression: types whose counts to send too."""
    check_known(reference, labels_key, expression)
    task, told = scduet.deconvolve_bulk if bulk else scduet.deconvolve, listener(callback)
    found: Deconvolution = call(task, adata, reference, labels_key=labels_key, callback=told, options=options)
    return Deconvolved(
        proportions=_block(found.proportions),
        spread=None if found.spread is None else _block(found.spread),
        agreement=codec.columns_of(found.agreement.reset_index()),
        types=codec.columns_of(found.types.rename_axis("type").reset_index()),
        genes=codec.columns_of(found.genes.rename_axis("gene").reset_index()),
        mixtures=codec.columns_of(found.mixtures.reset_index(drop=True)),
        notes=codec.as_text(found.notes),
        expressed=codec.as_text(expression),
        expression=[_block(found.expression(kind)) for kind in expression],
    )


@dataclass(frozen=True)
class Imputed:
    """Predicted genes as R's matrix of genes x cells, tables of scores, notes, and the method."""

    values: Genes
    table: list[codec.Column]
    scores: list[codec.Column]
    notes: codec.Text
    model: codec.Text


def impute_genes(adata, reference, genes, options: Options, callback: Callable | None = None) -> Imputed:
    """`scduet.impute_genes`; only gimVI tells how far it is."""
    told = {"callback": listener(callback)} if dict(options).get("model") == "gimvi" else {}
    wanted = None if genes is None else list(genes)
    found = call(scduet.impute_genes, adata, reference, wanted, options={**dict(options), **told})
    return Imputed(
        values=Genes(codec.as_text(found.values.var_names), objects.block(found.values.X)),
        table=codec.columns_of(found.table.reset_index()),
        scores=codec.columns_of(found.scores.reset_index()),
        notes=codec.as_text(found.notes),
        model=codec.as_text([found.model]),
    )


def _block(table: pd.DataFrame) -> Genes:
    return Genes(codec.as_text(table.columns), objects.block(table.to_numpy(np.float64)))
