"""The map of the report that readers can color: places, columns of obs and genes of the cells drawn, as one JSON text.

Numbers travel as base64 of small integers, so that 20,000 cells in three embeddings take less than a megabyte.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from scduet.data.locate import locate_main
from scduet.errors import DataError, OptionError, some
from scduet.plots.embedding import legend_entries
from scduet.plots.style import NEUTRAL
from scduet.tasks.workflows.draw import Drawing

MOST_GENES = 200  # of a page
LEVELS = 65_535  # places are whole numbers from 0 to this; of a color from 0 to 254, 255 for none
SCALE = 1e4  # counts are shown as log(1 + counts of 10,000)


@dataclass(frozen=True)
class Explorer:
    """What the script of the page draws; `data` is JSON in which no tag can begin."""

    data: str
    places: Sequence[str]
    columns: Sequence[str]
    genes: Sequence[str]


def explorer(
    adata, drawing: Drawing, columns: Sequence[str], genes: Sequence[str] = (), layer: str | None = None
) -> Explorer:
    """The cells of `drawing` with these columns of obs and genes (of the main matrix)."""
    colors: dict[str, Any] = {name: _column(adata, drawing, name) for name in columns}
    colors |= {gene: _shaded(values) for gene, values in _expression(adata, drawing.rows, genes, layer).items()}
    content = {
        "cells": [str(name) for name in adata.obs_names[drawing.rows]],
        "places": {title: _scaled(xy) for title, xy in drawing.places.items()},
        "colors": colors,
    }
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return Explorer(text, list(drawing.places), list(columns), list(genes))


def check_choice(adata, color_by: Sequence[str], genes: Sequence[str], layer: str | None) -> None:
    """Raise DataError for columns or genes that are not there, OptionError for too many genes or one name for two."""
    for option, value in (("color_by", color_by), ("genes", genes)):
        if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
            raise OptionError(f"option {option!r} cannot be {value!r}", "it is a list of names")
    missing = [name for name in color_by if name not in adata.obs]
    if missing:
        raise DataError(f"{some(missing)} not in obs", f"it has {some(adata.obs.columns, 8)}")
    both = set(color_by) & set(genes)
    if both:
        raise OptionError(f"{some(both)} in color_by= and in genes=", "rename the column of obs")
    if len(genes) > MOST_GENES:
        raise OptionError(f"genes= has {len(genes)} genes", f"a page shows {MOST_GENES} at most")
    if genes:
        unknown = pd.Index(genes).difference(locate_main(adata, layer).columns, sort=False)
        if len(unknown):
            raise DataError(f"{len(unknown)} genes are not in the data: {some(unknown)}", "are they symbols or ids?")


def _column(adata, drawing: Drawing, name: str) -> dict[str, Any]:
    values = adata.obs[name].iloc[drawing.rows]
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if numeric and values.nunique() > 20:
        return _shaded(values.to_numpy(float))
    levels = legend_entries(values.astype("category"))
    code = pd.Index(levels).get_indexer(values.astype(object).where(values.notna(), "not annotated").astype(str))
    shown = {"levels": list(levels) or ["not annotated"], "colors": list(levels.values()) or [NEUTRAL]}
    return {**shown, "code": _encoded(code.astype("<u2"))}


def _expression(adata, rows: np.ndarray, genes: Sequence[str], layer: str | None) -> dict[str, np.ndarray]:
    """log(1 + x) of each gene, of counts by 10,000 of the cell; values that are no counts as they are."""
    if not genes:
        return {}
    found = locate_main(adata, layer)
    matrix = sparse.csr_matrix(found.values[rows])
    chosen = matrix[:, found.columns.get_indexer(pd.Index(genes))].toarray().astype(float)
    if np.array_equal(matrix.data, np.rint(matrix.data)):
        total = np.asarray(matrix.sum(1), float)
        chosen = np.log1p(chosen * SCALE / np.maximum(total, 1))
    return dict(zip(genes, chosen.T, strict=True))


def _shaded(values: np.ndarray) -> dict[str, Any]:
    """Numbers in 255 steps from the least to the largest."""
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    step = np.where(known, np.rint((np.where(known, values, low) - low) / max(high - low, 1e-12) * 254), 255)
    return {"low": low, "high": high, "shade": _encoded(step.astype("u1"))}


def _scaled(xy: np.ndarray) -> str:
    low, high = xy.min(0), xy.max(0)
    return _encoded(np.rint((xy - low) / np.maximum(high - low, 1e-12) * LEVELS).astype("<u2"))


def _encoded(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
