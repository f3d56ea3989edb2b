"""Genes, proteins and peaks of the same cells as the columns of one matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scduet.contract import Input
from scduet.data import schema
from scduet.data.schema import Schema
from scduet.data.sources import gathered

MODALITIES = ("rna", "protein", "peaks")
PREFIX = {"protein": "p_"}  # of a column's name, where a gene may be called the same


@dataclass(frozen=True)
class Fields(schema.Fields):
    protein_key: str | None = None
    """Where the protein counts are: a key of obsm, or a modality of a MuData; NaN where a protein was not measured."""
    peaks_key: str | None = None
    """Where the counts of peaks are: a key of obsm, a modality of a MuData, or the feature_types of peaks in X."""


INPUTS = {
    "x": Input("layer", sparse=True, may_miss=True),
    "protein": Input("protein_key", may_miss=True, required=False),
    "peaks": Input("peaks_key", sparse=True, may_miss=True, required=False),
}


def all_columns(adata, layer: str | None, protein_key: str | None, peaks_key: str | None) -> AnnData:
    """AnnData with all columns, and var["modality"], the place of each in MODALITIES. Not measured counts as 0.

    adata: AnnData, MuData or a path. Proteins are called "p_" and their name.
    """
    learned = Schema.learn(adata, Fields(layer=layer, protein_key=protein_key, peaks_key=peaks_key), "counts", INPUTS)
    cells = learned.encode(adata)
    parts, names = [gathered(cells.counts)], [list(learned.genes)]
    for name in MODALITIES[1:]:
        if name in cells.extra:
            x = gathered(cells.extra[name])
            parts.append(x if sp.issparse(x) else sp.csr_matrix(np.nan_to_num(x)))
            columns = learned.features[name]
            known = [f"{name}{i}" for i in range(columns)] if isinstance(columns, int) else columns
            names.append([PREFIX.get(name, "") + str(column) for column in known])
        else:
            parts.append(sp.csr_matrix((len(cells), 0)))
            names.append([])
    which = np.repeat(np.arange(len(names)), [len(one) for one in names])
    var = pd.DataFrame({"modality": which}, index=pd.Index(np.concatenate([np.array(one, str) for one in names])))
    return AnnData(sp.hstack(parts, "csr", np.float32), pd.DataFrame(adata.obs), var)
