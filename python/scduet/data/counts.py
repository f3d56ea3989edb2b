"""Raw counts of cells in memory, checked as for a model of counts."""

from __future__ import annotations

import warnings
from typing import Any

import scipy.sparse as sp
from anndata import AnnData

from scduet.data.schema import Fields, Schema
from scduet.data.sources import gathered
from scduet.errors import ScduetWarning
from scduet.options import build


def counts_of(
    adata: AnnData, layer: str | None, genes: Any, allow_non_integer: bool = False
) -> tuple[list[str], sp.csr_matrix]:
    """Names of the genes, and their counts (cell, gene); refuses what a model of counts would refuse.

    genes: as for `fit`: None for var["highly_variable"], else all.
    """
    options = {"layer": layer, "allow_non_integer": allow_non_integer, **({} if genes is None else {"genes": genes})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScduetWarning)  # that there are few cells for a deep model
        schema = Schema.learn(adata, build(Fields, options))
    return list(schema.genes), gathered(schema.encode(adata).counts)
