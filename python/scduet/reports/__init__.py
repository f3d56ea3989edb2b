"""One self-contained HTML page about an integration: the data, the training, pictures, scores, how to repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from scduet.atomic import place_whole
from scduet.errors import DataError, some
from scduet.reports import sections
from scduet.reports.page import render
from scduet.tasks.convert import check_target
from scduet.tasks.draw import lay_out
from scduet.tasks.score import score

__all__ = ["report"]


def report(
    adata,
    path: str | Path = "report.html",
    *,
    model=None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    embeddings: Sequence[str] | None = None,
    scores: pd.DataFrame | None = None,
    layer: str | None = None,
    title: str = "Integration report",
    overwrite: bool = False,
    max_cells: int = 20_000,
    seed: int = 0,
) -> Path:
    """Write the page to `path` and return the path. It opens from disk: pictures are inside, nothing is fetched.

    adata: AnnData whose obsm holds the embeddings; it is not changed.
    model: the Model that made them, for its options, its training curves and the names of its columns.
    batch_key, labels_key, layer: as for `fit`; by default those of `model`.
    embeddings: obsm keys; None for all that are no drawings. The unintegrated PCA is always shown beside them.
    scores: the table that `score` returned; None to compute it.
    max_cells: draw a random sample of so many.

    Raises DataError for names that are not there, FormatError when `path` exists (unless `overwrite`).
    """
    path = check_target(path, overwrite, endings=(".html",))
    fields = model.schema.fields if model is not None else None
    batch_key = batch_key or (fields.batch_key if fields else None)
    labels_key = labels_key or (fields.labels_key if fields else None)
    layer = layer or (fields.layer if fields else None)
    keys = [key for key in (batch_key, labels_key) if key]
    missing = [key for key in keys if key not in adata.obs]
    if missing:
        raise DataError(f"{some(missing)} not in obs", f"it has {some(adata.obs.columns, 8)}")
    if scores is None and keys:
        scores = score(adata, embeddings, batch_key, labels_key, layer=layer)
    found = [
        sections.data(adata, layer, batch_key, labels_key),
        *([] if model is None else [sections.model(model), sections.training(model)]),
        *(
            []
            if not keys
            else [
                sections.pictures(adata, lay_out(adata, embeddings, layer=layer, max_cells=max_cells, seed=seed), keys)
            ]
        ),
        *([] if scores is None else [sections.scores(scores)]),
        sections.repeat(model, batch_key, labels_key),
    ]
    page = render(title, found)
    place_whole(path, lambda new: new.write_text(page, encoding="utf-8"))
    return path
